"""Measure a saved model on labelled texts, beside the majority class and TF-IDF + logistic regression.

The test split of the run itself, made again from its run_config.yaml (start it where training was started):
    python scripts/evaluate_model.py --model_dir runs/quickstart

Your own labelled files (as in training), the figures as JSON, and a picture (needs the extra `plots`):
    python scripts/evaluate_model.py --model_dir runs/quickstart --test_file more.csv --output_file figures.json --plot_file figures.png

Probabilities that can be relied on: a temperature from the validation texts, folded into a new folder's model:
    python scripts/evaluate_model.py --model_dir runs/quickstart --calibrate --output_dir runs/calibrated
"""

import argparse
import logging
import shutil
from pathlib import Path

import pandas as pd
from accelerate import PartialState

from recipe.atomic import write_json
from recipe.config import CONFIG_FILE, SUMMARY_FILE
from recipe.data.labelled import LabelledTexts
from recipe.data.readers import FileFormat
from recipe.data.trained_on import SEEN_FILE
from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.evaluation.adjusting import calibrate_head, store_threshold
from recipe.evaluation.measure import measure
from recipe.evaluation.measurement import Measurement
from recipe.evaluation.plots import PLOT_FORMATS, require_matplotlib, save_plot
from recipe.evaluation.report import print_confusion, print_report
from recipe.evaluation.thresholds import parse_abstain_below, parse_threshold
from recipe.inference.prediction_files import check_output_file
from recipe.inference.text_classifier import TextClassifier
from recipe.model.export import save_classifier

logger = logging.getLogger("recipe.evaluate")


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument(
        "--model_dir", required=True, help="A folder that a run saved, or any GPT2ForSequenceClassification."
    )
    parser.add_argument(
        "--test_file", nargs="+", help="Files or globs, as in training; the run's own test split if not given."
    )
    parser.add_argument(
        "--validation_file", nargs="+", help="For --calibrate; the run's own validation split if not given."
    )
    parser.add_argument("--train_file", nargs="+", help="For the baselines; the run's own training split if not given.")
    parser.add_argument("--text_column", help="Column of the texts; found by its name if not given.")
    parser.add_argument("--label_column", help="Column of the labels; found by its name if not given.")
    parser.add_argument("--text_pair_column", help="Column of the second texts; the one the model was trained with.")
    parser.add_argument("--column_names", nargs="+", help="Names of the columns, where the files have no header row.")
    parser.add_argument("--delimiter", help="Between the columns of the files.")
    parser.add_argument("--csv_quoting", choices=("auto", "minimal", "none"), default="auto", help="As in training.")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; the GPU if there is one.")
    parser.add_argument("--output_file", type=Path, help="A .json file for the figures; only the screen if not given.")
    parser.add_argument("--plot_file", type=Path, help="A .png, .svg or .pdf file to draw the figures into.")
    parser.add_argument("--overwrite_output_file", action="store_true", help="Allow files that exist.")
    parser.add_argument("--no_baselines", action="store_true", help="The model alone.")
    parser.add_argument("--calibrate", action="store_true", help="Fit a temperature on validation texts first.")
    parser.add_argument("--output_dir", type=Path, help="A new folder for the calibrated model.")
    parser.add_argument(
        "--decision_threshold", help="Of two labels, give the second from this probability on; else as the model says."
    )
    parser.add_argument(
        "--abstain_below", help="Count texts apart where the likeliest label's probability is under this."
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_outputs(args)
    abstain_below, threshold = parse_abstain_below(args.abstain_below), parse_threshold(args.decision_threshold)
    classifier = TextClassifier.from_pretrained(args.model_dir, args.device)
    names = tuple(args.column_names) if args.column_names else None
    file_format = FileFormat(args.delimiter, args.csv_quoting, names)
    columns = (args.text_column, args.label_column, args.text_pair_column)
    texts = LabelledTexts(args.model_dir, classifier.label_names, *columns, file_format)
    test = texts.test(args.test_file)
    validation = texts.validation(args.validation_file, test) if args.calibrate else None
    train = None if args.no_baselines else training_texts(texts, args.train_file, test)
    temperature = None
    if validation is not None:
        logits, owners = classifier.window_logits(validation["text"].tolist(), progress=True)
        temperature = calibrate_head(classifier, logits, validation["label"].to_numpy(), owners)
    if threshold is not None:
        store_threshold(classifier, threshold)
    measured = measure(classifier, test, True, temperature, abstain_below)
    if not PartialState().is_main_process:  # under `accelerate launch` the processes divide the texts, one reports
        return
    if train is not None:
        measured.add_baselines(train[0], test["text"].tolist(), class_weight=train[1])
    print(f"{' '.join(args.test_file or ['Test split of the run'])}, {len(test)} texts:")
    print_report(measured)
    print_confusion(measured)
    write_results(args, classifier, measured)


def write_results(args: argparse.Namespace, classifier: TextClassifier, measured: Measurement) -> None:
    if args.output_file:
        write_json(args.output_file, measured.report("test"))
    if args.plot_file:
        save_plot(args.plot_file, measured, f"{args.model_dir} on {' '.join(args.test_file or ['its test split'])}")
    if args.output_dir:
        config = Path(args.model_dir) / CONFIG_FILE
        run_config = config.read_text(encoding="utf-8") if config.is_file() else None
        save_classifier(classifier.model, classifier.tokenizer, args.output_dir, run_config)
        for name in (SUMMARY_FILE, SEEN_FILE):
            if (Path(args.model_dir) / name).is_file():
                shutil.copy(Path(args.model_dir) / name, args.output_dir)
        print(f"\nSaved to {args.output_dir}")


def training_texts(
    texts: LabelledTexts, files: list[str] | None, test: pd.DataFrame
) -> tuple[pd.DataFrame, str] | None:
    """As `LabelledTexts.train`; None, which is said, where the run's own are not found."""
    try:
        return texts.train(files, test)
    except RecipeError as error:
        if files is not None:
            raise
        logger.warning("no baselines: %s; or give --train_file FILE", error)
        return None


def check_outputs(args: argparse.Namespace) -> None:
    """Before any work, so that none is lost."""
    if args.output_file:
        check_output_file(args.output_file, args.overwrite_output_file, (".json",))
    if args.plot_file:
        check_output_file(args.plot_file, args.overwrite_output_file, PLOT_FORMATS, "plot_file")
        require_matplotlib()
    if args.output_dir and not args.calibrate:
        raise RecipeError("output_dir is for the calibrated model: pass --calibrate too, or leave it out")
    if args.validation_file and not args.calibrate:
        raise RecipeError("validation_file is what a temperature is fitted to: pass --calibrate too, or leave it out")
    folder = args.output_dir
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"output_dir {folder} is not empty: give a new folder")


if __name__ == "__main__":
    run_script(main)
