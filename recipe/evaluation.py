"""A saved model measured: the figures that a run reports are those of the folder it leaves behind."""

from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from sklearn.metrics import classification_report

from recipe.data import TextSplits
from recipe.files import write_json
from recipe.inference import TextClassifier
from recipe.metrics import classification_metrics
from recipe.tokenizing import log_coverage

EXAMPLES = 6  # texts shown after the test


def measure_saved(folder: Path, splits: TextSplits, device: torch.device, progress: bool) -> dict[str, float]:
    """Loads the folder back, measures it on validation and test, writes eval_results.json and test_results.json.

    Returns:
        the test figures, each name with `test_` before it.
    """
    classifier = TextClassifier.from_pretrained(folder, device)
    results: dict[str, float] = {}
    for prefix, frame in (("eval", splits.validation), ("test", splits.test)):
        logits = classifier.logits_in_shares(frame["text"].tolist(), progress)
        scores = classification_metrics(logits, frame["label"].to_numpy(), splits.label_names)
        results = {f"{prefix}_{name}": value for name, value in scores.items()}
        results[f"{prefix}_samples"] = len(frame)
        coverage = classifier.coverage(frame["text"].tolist())
        results |= coverage.figures(prefix)
        if prefix == "test":  # training has said it of the others
            log_coverage(prefix, coverage, classifier.tokenizer, classifier.windows)
        if PartialState().is_main_process:
            write_json(folder / f"{prefix}_results.json", results)
    if PartialState().is_main_process:
        print_test_report(splits, logits, results)
    return results


def print_test_report(splits: TextSplits, logits: np.ndarray, results: dict[str, float]) -> None:
    labels, predictions = splits.test["label"].to_numpy(), logits.argmax(axis=-1)
    ids, names = list(splits.id2label), splits.label_names
    print(f"\nTest set, {len(labels)} texts, measured on the saved model:")
    print(classification_report(labels, predictions, labels=ids, target_names=names, digits=3, zero_division=0))
    scores = {name: results[f"test_{name}"] for name in ("accuracy", "macro_f1", "loss")}
    print(", ".join(f"test_{name} {value:.4f}" for name, value in scores.items()))
    # As many of each label as there is room for, mistakes among them shown as such.
    print("\nSome of its texts:")
    shown = (
        splits.test.assign(prediction=predictions).groupby("label").head(max(1, EXAMPLES // len(names))).head(EXAMPLES)
    )
    for text, label, prediction in shown[["text", "label", "prediction"]].itertuples(index=False):
        verdict = "" if label == prediction else f"  <- is {names[label]}"
        print(f"  {names[prediction]:<12} {shorten(text)}{verdict}")


def shorten(text: str, width: int = 70) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
