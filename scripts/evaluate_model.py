"""Evaluate a saved model on texts with labels, beside the majority class and TF-IDF + logistic regression.

The test split of the run itself, which is saved in its folder:
    python scripts/evaluate_model.py --model_dir runs/quickstart

Your own files (read as in training), the figures as JSON, and a picture (needs the extra `plots`):
    python scripts/evaluate_model.py --model_dir runs/quickstart --test_file more.csv --output_file figures.json --plot_file figures.png

Every answer with its text and where it came from, confident mistakes first (of a run's own test, test_predictions.csv):
    python scripts/evaluate_model.py --model_dir runs/quickstart --test_file more.csv --predictions_file answers.csv

Reliable probabilities: fit a temperature to the validation texts, and fold it into a new folder's model:
    python scripts/evaluate_model.py --model_dir runs/quickstart --calibrate --output_dir runs/calibrated
"""

import argparse
import functools
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, printable, run_script
from recipe.inference.options import add_shared_options, check_output_dir, parse_options

if TYPE_CHECKING:
    from datasets import Dataset

    from recipe.evaluation.report import Measurement
    from recipe.inference.text_classifier import TextClassifier

logger = logging.getLogger("recipe.evaluate_model")

COPIED = ("run_config.yaml", "data_summary.json", "trained_on.npy", "splits")  # of the run, into a calibrated folder


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--test_file", nargs="+", help="Files or globs, as in training; by default the run's own test split.")
    add("--validation_file", nargs="+", help="For --calibrate; by default the run's own validation split.")
    add("--train_file", nargs="+", help="For the baselines; by default the run's own training split.")
    add("--label_column", help="Column of the labels; as in training if not given.")
    add("--output_file", type=Path, help="A .json file for the figures; only the screen if not given.")
    add("--predictions_file", type=Path, help="A .csv file for every answer, confident mistakes first.")
    add("--plot_file", type=Path, help="A .png, .svg or .pdf file to draw the figures into.")
    add("--no_baselines", action="store_true", help="The model alone.")
    add("--calibrate", action="store_true", help="Fit a temperature on validation texts first.")
    add("--output_dir", type=Path, help="A new folder for the calibrated model.")
    add_shared_options(parser)
    return parse_options(parser)


def main() -> None:
    args = parse_args()
    check_outputs(args)
    # Imported here, since --help and wrong options need none of it.
    import numpy as np
    from accelerate import PartialState

    from recipe.data.run_config import base_model_name, read_run_config
    from recipe.data.trained_on import warn_about_trained_texts
    from recipe.evaluation.report import measure, print_confusion, print_coverage, print_report
    from recipe.inference.text_classifier import TextClassifier

    classifier = TextClassifier.from_pretrained(args.model_dir, args.device)
    load = functools.partial(load_split, args, classifier.label_names)
    test, temperature = load("test"), None
    warn_about_trained_texts(test["text"], args.model_dir)
    train = None if args.no_baselines else load_training_texts(load, args.train_file, set(test["text"]))
    if args.calibrate:
        from recipe.evaluation.calibration import calibrate_head

        validation = load("validation")
        warn_about_validation_texts(test, validation)
        logits, text_index, _ = classifier.window_logits(validation["text"][:], progress=True)
        temperature = calibrate_head(classifier.model, logits, np.array(validation["label"]), text_index)
    if args.decision_threshold is not None:
        classifier.set_threshold(args.decision_threshold)
    settings = {"temperature": temperature, "abstain_below": args.abstain_below}
    measured = measure(classifier, test, True, **settings, model_name=base_model_name(args.model_dir))
    if not PartialState().is_main_process:  # under `accelerate launch` the processes divide the texts, one reports
        return
    if train is not None:
        class_weight = "none" if args.train_file else read_run_config(args.model_dir).get("class_weight", "none")
        measured.add_baselines(train, test["text"][:], class_weight)
    print(f"{printable(' '.join(args.test_file or ['Test split of the run']))}, {len(test)} texts:")
    print_report(measured)
    print_confusion(measured)
    print_coverage(measured)
    if args.calibrate and not args.output_dir:
        print("\nThe calibrated model is not saved: --output_dir DIR does that")
    write_results(args, classifier, measured, test)


def load_split(args: argparse.Namespace, label_names: list[str], name: str) -> "Dataset":
    """Return the texts and label ids of the option `NAME_file`, or of the run's own split.

    Raises:
        RecipeError: no such file or split, or labels that the model does not know.
    """
    from recipe.data.columns import wanted_texts
    from recipe.data.dataset import load_saved_splits, load_texts_for_model
    from recipe.data.files import FileFormat

    field = f"{name}_file"
    if (files := getattr(args, field)) is not None:
        columns = {**wanted_texts(args.text_column, args.text_pair_column), "label": args.label_column}
        return load_texts_for_model(files, field, label_names, args.model_dir, columns, FileFormat.of(args))
    try:
        split = load_saved_splits(args.model_dir)[name]
    except RecipeError as error:
        raise RecipeError(f"no {name} texts: {error}; or give --{field} FILE") from error
    if split.features["label"].names != label_names:
        raise RecipeError(f"{args.model_dir}/splits: has other labels than the model: give --{field} FILE")
    return split


def load_training_texts(load: functools.partial, files: list[str] | None, test_texts: set[str]) -> "Dataset | None":
    """Return the texts to fit baselines to, of files without those of the test; None if the run's own are not found."""
    try:
        train = load("train")
    except RecipeError as error:
        if files is not None:
            raise
        logger.warning("no baselines: %s", error)
        return None
    if files is None:
        return train
    kept = [row for row, text in enumerate(train["text"]) if text not in test_texts]
    if not kept:
        raise RecipeError(f"{', '.join(files)}: every text is also a test text: give the file of the training texts")
    if len(kept) < len(train):
        logger.warning("%s: %d texts that the test holds are left out", ", ".join(files), len(train) - len(kept))
    return train.select(kept)


def warn_about_validation_texts(test: "Dataset", validation: "Dataset") -> None:
    """Warn of test texts that the temperature is fitted to."""
    known = set(validation["text"])
    both = sum(text in known for text in test["text"])
    if both:
        message = "%d of the %d test texts are validation texts too, so figures after calibration are optimistic"
        logger.warning(message, both, len(test))


def write_results(
    args: argparse.Namespace, classifier: "TextClassifier", measured: "Measurement", test: "Dataset"
) -> None:
    """Write the files that the options ask for: figures, answers, picture, calibrated model."""
    if args.output_file:
        from recipe.atomic import write_json

        write_json(args.output_file, measured.report("test"))
    if args.predictions_file:
        measured.save_answers(args.predictions_file, test)
    if args.plot_file:
        from recipe.evaluation.plots import save_plot

        save_plot(args.plot_file, measured, f"{args.model_dir} on {' '.join(args.test_file or ['its test split'])}")
    if args.output_dir:
        from recipe.model.export import save_classifier

        save_classifier(classifier.model, classifier.tokenizer, args.output_dir)
        for path in (Path(args.model_dir) / name for name in COPIED):
            if path.is_dir():
                shutil.copytree(path, args.output_dir / path.name)
            elif path.is_file():
                shutil.copy(path, args.output_dir)
        print(f"\nSaved to {printable(str(args.output_dir))}")


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written before any work, so that none is lost."""
    from recipe.inference.prediction_files import check_output_file

    inputs = [*(args.test_file or []), *(args.validation_file or []), *(args.train_file or [])]
    kept = {"inputs": inputs, "model_dir": args.model_dir}
    if args.output_file:
        check_output_file(args.output_file, args.overwrite_output_file, (".json",), **kept)
    if args.predictions_file:
        check_output_file(args.predictions_file, args.overwrite_output_file, (".csv",), "predictions_file", **kept)
    if args.plot_file:
        from recipe.evaluation.plots import PLOT_FORMATS, require_matplotlib

        check_output_file(args.plot_file, args.overwrite_output_file, PLOT_FORMATS, "plot_file", **kept)
        require_matplotlib()
    if args.output_dir and not args.calibrate:
        raise RecipeError("output_dir is for the calibrated model: pass --calibrate too, or leave it out")
    if args.validation_file and not args.calibrate:
        raise RecipeError("validation_file is for fitting a temperature: pass --calibrate too, or leave it out")
    if args.output_dir:
        check_output_dir(args.output_dir, args.model_dir)


if __name__ == "__main__":
    run_script(main)
