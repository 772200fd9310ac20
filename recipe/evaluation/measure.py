"""A model measured on labelled texts: what a run reports of the folder it leaves, and evaluate.py of any."""

from pathlib import Path

import pandas as pd
from accelerate import PartialState

from recipe.arguments import RecipeTrainingArguments
from recipe.atomic import write_json
from recipe.data.dataset import TextSplits
from recipe.data.tokenization import log_coverage
from recipe.evaluation.measurement import Measurement
from recipe.evaluation.report import print_examples, print_report
from recipe.inference.text_classifier import TextClassifier


def measure(
    classifier: TextClassifier,
    frame: pd.DataFrame,
    progress: bool = False,
    temperature: float | None = None,
    abstain_below: float | None = None,
) -> Measurement:
    """Classifies the frame's `text` and compares with its `label` (ids)."""
    texts, labels = frame["text"].tolist(), frame["label"].to_numpy()
    logits, owners = classifier.window_logits_in_shares(texts, progress)
    return Measurement(
        classifier.label_names,
        labels,
        logits,
        owners=owners,
        threshold=classifier.decision_threshold,
        temperature=temperature,
        abstain_below=abstain_below,
        coverage=classifier.coverage(texts),
    )


def measure_saved(
    folder: Path,
    splits: TextSplits,
    training_args: RecipeTrainingArguments,
    class_weight: str,
    temperature: float | None = None,
) -> dict[str, float]:
    """Loads the folder back, measures it on validation and test, writes eval_results.json and test_results.json.

    Args:
        temperature: what was folded into its head, if it was calibrated.

    Returns:
        the test figures, each name with `test_` before it.
    """
    classifier = TextClassifier.from_pretrained(folder, training_args.device)
    progress, is_main = not training_args.disable_tqdm, PartialState().is_main_process
    validation = measure(classifier, splits.validation, progress, temperature)
    test = measure(classifier, splits.test, progress, temperature)
    log_coverage("test", test.coverage, classifier.tokenizer, classifier.windows)  # training has said it of the others
    if training_args.baselines and is_main:
        test.add_baselines(splits.train, splits.test["text"].tolist(), class_weight)
    results = test.results("test")
    if is_main:
        write_json(folder / "eval_results.json", validation.results("eval"))
        write_json(folder / "test_results.json", results)
        print(f"\nTest set, {len(test.labels)} texts, measured on the saved model:")
        print_report(test)
        print_examples(splits.test, test)
    return results
