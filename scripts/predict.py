"""Classify texts with a saved model.

    python scripts/predict.py --model_dir runs/quickstart --text "Are you free tonight?" "URGENT! You have won a £2000 prize. Call 09061701461 now"
    python scripts/predict.py --model_dir runs/quickstart --input_file messages.csv --output_file labels.csv

Input is CSV, TSV, JSON lines (each also .gz), Parquet or a saved Dataset (see --text_column); output is CSV or JSON lines
by its ending: the text, its label and a probability for every label, one row for each row that came in, in the same
order. Under `accelerate launch` the processes divide the texts, and one of them writes.

Unsure predictions can be left out; their labels stay empty (null in JSON lines), for people to fill in:
    python scripts/predict.py --model_dir runs/quickstart --input_file messages.csv --output_file sure.csv --abstain_below 0.9
"""

import argparse
import sys
from pathlib import Path

from recipe.errors import OneLineParser, run_script
from recipe.inference.options import add_shared_options, parse_options


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", nargs="+", help="One or more texts.")
    source.add_argument("--input_file", type=Path, help="A CSV, TSV, JSON-lines or Parquet file.")
    parser.add_argument("--output_file", type=Path, help="A .csv or .jsonl file to write; the screen if not given.")
    parser.add_argument("--window", type=int, help="Tokens of a window; by default as in training, 0 for none.")
    add_shared_options(parser)
    return parse_options(parser)


def main() -> None:
    args = parse_args()
    # Imported here, since --help and wrong options need none of it.
    from accelerate import PartialState

    from recipe.inference.prediction_files import check_output_file, write_predictions
    from recipe.inference.text_classifier import TextClassifier, is_unsure

    if args.output_file:
        check_output_file(args.output_file, args.overwrite_output_file)
    texts = read_texts(args)
    classifier = TextClassifier.from_pretrained(args.model_dir, args.device, args.window)
    if args.decision_threshold is not None:
        classifier.set_threshold(args.decision_threshold)
    labels, probabilities = classifier.predict(texts, progress=args.input_file is not None)
    if not PartialState().is_main_process:
        return
    if args.abstain_below is not None:
        unsure = is_unsure(probabilities, args.abstain_below)
        labels = [None if is_left_out else label for label, is_left_out in zip(labels, unsure, strict=True)]
        print(
            f"{unsure.sum()} of {len(texts)} texts got no label: no probability is {args.abstain_below:g} or more",
            file=sys.stderr,
        )
    write_predictions(args.output_file, texts, labels, probabilities, classifier.label_names)


def read_texts(args: argparse.Namespace) -> list[str]:
    """Return the texts of --text or --input_file, pairs joined as in training."""
    from recipe.data.texts import clean_text, pair_fields_of

    pair = pair_fields_of(args.model_dir)
    if args.text:
        if pair["text_pair_column"]:
            separator = pair["text_pair_separator"]
            print(f"note: the model reads pairs: give both texts in one, with {separator!r} between", file=sys.stderr)
        return [clean_text(text) for text in args.text]
    from recipe.data import readers  # pandas and others, which --text does without
    from recipe.data.tables import FileFormat

    if args.text_pair_column is not None:
        pair["text_pair_column"] = args.text_pair_column
    return readers.read_texts(args.input_file, args.text_column, FileFormat.of(args), **pair)


if __name__ == "__main__":
    run_script(main)
