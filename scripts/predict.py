"""Classify texts with a saved model.

    python scripts/predict.py --model_dir runs/quickstart --text "Are you free tonight?" "URGENT! You have won a £2000 prize. Call 09061701461 now"
    python scripts/predict.py --model_dir runs/quickstart --input_file messages.csv --output_file labels.csv

Input is CSV, TSV or JSON lines (see --text_column); output is CSV or JSON lines by its ending: the text, its label and
a probability for every label, one row for each row that came in, in the same order. Under `accelerate launch` the processes
divide the texts, and one of them writes.
"""

import argparse
from pathlib import Path

from accelerate import PartialState

from recipe.data import check_texts
from recipe.errors import OneLineParser, run_script
from recipe.inference import TextClassifier
from recipe.reading import FileFormat, clean_text, read_file
from recipe.writing import check_output_file, write_predictions


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument(
        "--model_dir", required=True, help="A folder that a run saved, or any GPT2ForSequenceClassification."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", nargs="+", help="One or more texts.")
    source.add_argument("--input_file", type=Path, help="A CSV, TSV or JSON-lines file.")
    parser.add_argument("--output_file", type=Path, help="A .csv or .jsonl file to write; the screen if not given.")
    parser.add_argument("--overwrite_output_file", action="store_true", help="Allow an output_file that exists.")
    parser.add_argument("--text_column", help="Column of the texts; found by its name if not given.")
    parser.add_argument("--column_names", nargs="+", help="Names of the columns, where the file has no header row.")
    parser.add_argument("--delimiter", help="Between the columns of input_file.")
    parser.add_argument("--csv_quoting", choices=("auto", "minimal", "none"), default="auto", help="As in training.")
    parser.add_argument("--window", type=int, help="Tokens of a window; by default as in training, 0 for none.")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; the GPU if there is one.")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.output_file:
        check_output_file(args.output_file, args.overwrite_output_file)
    if args.text:
        texts = [clean_text(text) for text in args.text]
    else:
        names = tuple(args.column_names) if args.column_names else None
        file_format = FileFormat(args.delimiter, args.csv_quoting, names)
        frame = read_file(args.input_file, args.text_column, file_format=file_format, needs_label=False)
        check_texts(frame, str(args.input_file))
        texts = frame["text"].where(frame["text"].notna(), "").tolist()  # nothing said: an empty text
    classifier = TextClassifier.from_pretrained(args.model_dir, args.device, args.window)
    labels, probabilities = classifier.predict(texts, progress=args.input_file is not None)
    if PartialState().is_main_process:
        write_predictions(args.output_file, texts, labels, probabilities, classifier.label_names)


if __name__ == "__main__":
    run_script(main)
