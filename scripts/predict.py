"""Classify texts with a saved model.

    python scripts/predict.py --model_dir runs/quickstart --text "Are you free tonight?" "URGENT! You have won a £2000 prize. Call 09061701461 now"
    python scripts/predict.py --model_dir runs/quickstart --input_file messages.csv --output_file labels.csv

Input is what train.py reads: CSV, TSV, JSON, Parquet ... (one text a line: --column_names text); output is CSV or JSON lines
by its ending: the text, its label, a probability for every label, and the input's other columns, one row for each row
that came in, in the same order. A file of any length takes little memory; its output appears once it is complete. Under `accelerate launch` the processes divide the texts, and one of them writes.

Unsure predictions can be left out; their labels stay empty (null in JSON lines), for people to fill in:
    python scripts/predict.py --model_dir runs/quickstart --input_file messages.csv --output_file sure.csv --abstain_below 0.9
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from recipe.errors import OneLineParser, RecipeError, printable, run_script
from recipe.inference.options import add_shared_options, parse_options


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", nargs="+", help="One or more texts.")
    source.add_argument("--input_file", type=Path, help="A file of texts: CSV, TSV, JSON, Parquet ...")
    parser.add_argument("--output_file", type=Path, help="A .csv or .jsonl file to write; the screen if not given.")
    parser.add_argument(
        "--escape_formulas",
        choices=("true", "false"),
        default="true",
        help="In CSV, put ' before cells that a spreadsheet would run as formulas (default: true).",
    )
    parser.add_argument("--window", type=int, help="Tokens of a window; by default as in training, 0 for none.")
    add_shared_options(parser)
    args = parse_options(parser)
    if not args.text and not args.input_file:
        raise RecipeError("nothing to classify: give --text or --input_file")
    if args.text and args.given:
        raise RecipeError(f"{args.given[0]} is for an input_file: leave it out with --text")
    return args


def main() -> None:
    args = parse_args()
    # Imported here, since --help and wrong options need none of it.
    from accelerate import PartialState
    from tqdm.auto import tqdm

    from recipe.inference.prediction_files import check_output_file, open_predictions
    from recipe.inference.text_classifier import TextClassifier, is_unsure

    if args.output_file:
        inputs = [args.input_file] if args.input_file else []
        check_output_file(args.output_file, args.overwrite_output_file, inputs=inputs, model_dir=args.model_dir)
    batches = read_texts(args)
    first = next(batches)  # a file that cannot be read is refused before the model is loaded
    classifier = TextClassifier.from_pretrained(args.model_dir, args.device, args.window)
    if args.decision_threshold is not None:
        classifier.set_threshold(args.decision_threshold)
    note_other_labels(args.label_column, first[1], classifier.label_names)
    state = PartialState()  # under `accelerate launch` all processes classify, and one writes
    alone, is_main = state.num_processes == 1, state.is_main_process
    texts_in_all = unsure_in_all = 0
    with contextlib.ExitStack() as stack:
        if is_main:
            output = open_predictions(args.output_file, classifier.label_names, args.escape_formulas == "true")
            writer = stack.enter_context(output)
        bar = stack.enter_context(tqdm(desc="Classifying", unit=" texts", disable=not (args.input_file and is_main)))
        for texts, others in itertools.chain([first], batches):
            labels, probabilities = classifier.predict(texts, progress=bar if alone else False)
            bar.update(0 if alone else len(texts))  # of several processes, each classifies a share
            if args.abstain_below is not None:
                unsure = is_unsure(probabilities, args.abstain_below)
                labels = [None if left_out else label for label, left_out in zip(labels, unsure, strict=True)]
                unsure_in_all += unsure.sum()
            texts_in_all += len(texts)
            if is_main:
                writer.write(texts, labels, probabilities, others)
    if args.output_file and is_main:
        print(f"Saved to {printable(str(args.output_file))}", file=sys.stderr)
    if args.abstain_below is not None and is_main:
        summary = f"{unsure_in_all} of {texts_in_all} texts got no label"
        print(f"{summary}: no probability is {args.abstain_below:g} or more", file=sys.stderr)


def note_other_labels(column: str | None, others: dict[str, list], label_names: list[str]) -> None:
    """Tell where the training's label column holds none of the model's labels: the columns may be taken for others."""
    found = {str(cell) for cell in others.get(column, ())}
    if found and not found & {*label_names}:
        what = f"the column {column!r} holds none of the model's labels, but such as {min(found)[:40]!r}"
        print(f"note: {what}: are the columns right (--column_names, --delimiter)?", file=sys.stderr)


def read_texts(args: argparse.Namespace) -> Iterator[tuple[list[str], dict[str, list]]]:
    """Yield the texts of --text or --input_file in batches, columns joined as in training, and the file's other columns."""
    from recipe.data.columns import wanted_texts
    from recipe.data.texts import clean_text

    wanted, separator = wanted_texts(args.text_column, args.text_pair_column), args.text_pair_separator
    if args.text:
        if len(wanted) > 1:
            between = "a line break (in a shell, $'one\\ntwo')" if separator == "\n" else repr(separator)
            print(f"note: the model reads pairs: give both texts in one, with {between} between", file=sys.stderr)
        yield [clean_text(text) for text in args.text], {}
        return
    from recipe.data import readers  # pandas and others, which --text does without
    from recipe.data.files import FileFormat

    yield from readers.read_texts(args.input_file, wanted, FileFormat.of(args), separator)


if __name__ == "__main__":
    run_script(main)
