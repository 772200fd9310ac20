"""Probe a frozen GPT-2: at which depth can the label be read from the last token, and so, how many blocks to train?

    python scripts/probe.py --config recipe/configs/quickstart.yaml
    python scripts/probe.py --config recipe/configs/quickstart.yaml --output_file probe.json --plot_file probe.png

The model runs once over the training and validation texts; a logistic regression is fitted to the states after each block
(a linear probe) and measured on validation, beside TF-IDF + logistic regression on the same texts. The test split is not
touched. Options are those of train.py, of which the model's and the data's count.
"""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, parse_options, print_saved

if TYPE_CHECKING:
    import numpy as np

    from recipe.config import Arguments
    from recipe.data.dataset import TextSplits

logger = logging.getLogger("recipe.probe")


def parse_args() -> "tuple[argparse.Namespace, Arguments]":
    """Return the options of this script, and those of a run."""
    parser = OneLineParser(__doc__)
    add_output_options(parser)
    args, arguments = parse_options(parser)
    if arguments[0].pooling not in (None, "last"):
        raise RecipeError(f"pooling is {arguments[0].pooling}, but probes read the last token: leave it out")
    return args, arguments


def main() -> None:
    args, arguments = parse_args()
    # Imported here, since --help and wrong options need none of it.
    import numpy as np

    from recipe.distributed import setup_logging
    from recipe.evaluation.baselines import baseline_predictions
    from recipe.experiments.probing import score

    setup_logging(True)
    splits = load(arguments)
    train, validation = splits["train"], splits["validation"]
    labels = np.array(validation["label"])
    scores = [score(predictions, labels) for predictions in probe(arguments, splits)]
    texts = train["text"][:], train["label"][:], validation["text"][:]
    predicted = baseline_predictions(*texts, arguments[1].class_weight)
    baselines = {name: score(predictions, labels) for name, predictions in predicted.items()}
    report(args, arguments[0].model_name_or_path, scores, baselines, splits.num_rows)


def load(arguments: "Arguments") -> "TextSplits":
    """Load the splits, with the label ids of the model's head, if any; warn of texts that it was trained on."""
    from recipe.data.dataset import load_splits
    from recipe.data.trained_on import count_trained_on
    from recipe.experiments.probing import check_memory
    from recipe.model.loading import head_labels, load_config

    name = arguments[0].model_name_or_path
    config = load_config(name, arguments[0].model_revision)
    splits = load_splits(arguments[1], head_labels(config))
    texts = splits["train"]["text"][:] + splits["validation"]["text"][:]
    check_memory(config, len(texts))
    if count := count_trained_on(texts, name):
        problem = f"{count} of the {len(texts)} texts were trained on, by {name} or the model it started from"
        logger.warning("%s, so its states know their labels: probe the model that its training began with", problem)
    return splits


def probe(arguments: "Arguments", splits: "TextSplits") -> "list[np.ndarray]":
    """Run the model over training and validation, and return the label ids that each depth's probe gives validation."""
    import numpy as np

    from recipe.data.tokenization import encode_texts, load_tokenizer
    from recipe.experiments.probing import probe_depths, states_by_depth
    from recipe.model.classifier import GPT2LastTokenClassifier

    model_args, data_args, training_args = arguments
    name, revision, progress = model_args.model_name_or_path, model_args.model_revision, not training_args.disable_tqdm
    model = GPT2LastTokenClassifier.from_pretrained(name, revision=revision).to(training_args.device)
    tokenizer = load_tokenizer(
        name, model.config, data_args.max_length, data_args.truncation_side, revision, data_args.separator
    )
    train, validation = splits["train"], splits["validation"]
    texts = train["text"][:] + validation["text"][:]
    states = states_by_depth(model, encode_texts(tokenizer, texts)[0], progress)
    of_train, of_validation = np.split(states, [len(train)], axis=1)
    return probe_depths(of_train, np.array(train["label"]), of_validation, data_args.class_weight, progress)


def report(
    args: argparse.Namespace,
    model: str,
    scores: list[dict[str, Any]],
    baselines: dict[str, dict[str, Any]],
    texts: dict[str, int],
) -> None:
    """Print the table and the advice, and write the files that are asked for."""
    from recipe.atomic import write_files, write_json
    from recipe.evaluation.plots import save_figure
    from recipe.evaluation.report import TITLES
    from recipe.experiments.probing import advise, draw_probes, probe_table

    advice = advise(scores, texts["validation"])
    counts = f"fitted to {texts['train']:,} texts, on {texts['validation']:,} validation texts"
    print(f"Linear probes of the last token, {counts}:\n")
    print(probe_table(scores, {TITLES[name]: figures for name, figures in baselines.items()}))
    print(f"\n{advice.sentence}")
    if args.output_file:
        figures = {
            "model": model,
            "state": "the last token's after each block, before ln_f",
            "texts": {name: texts[name] for name in ("train", "validation")},
            "depths": [{"depth": depth, **figures} for depth, figures in enumerate(scores)],
            "baselines": baselines,
            "best_depth": advice.best,
            "standard_error": advice.standard_error,
            "shallowest_depth": advice.depth,
            "at_most": f"last_blocks:{advice.blocks}",
            "begin_with": f"last_blocks:{advice.begin}",
            "advice": advice.sentence,
        }
        write_json(args.output_file, figures)
    if args.plot_file:
        figure = draw_probes(scores, baselines.get("tfidf"), advice)
        write_files(args.plot_file.parent, lambda folder: save_figure(figure, folder / args.plot_file.name))
    print_saved(args.output_file, args.plot_file)


if __name__ == "__main__":
    run_script(main)
