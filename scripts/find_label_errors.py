"""Find texts that are probably mislabelled, by confident learning over probabilities of models that were not trained on them.

    python scripts/cross_validate.py --config recipe/configs/quickstart.yaml --output_file runs/out_of_sample.csv
    python scripts/find_label_errors.py --predictions runs/out_of_sample.csv --output_file runs/suspects.csv

Output is CSV, the most suspicious text first: the row of the training file, the text, its label and that one's probability,
the likelier label and its probability. They are for people to look at: a rare text with a right label is among them too.
New texts that a saved model was not trained on do as well, once predict.py has classified them (its output names a column
`label` of the input `input_label`):
    python scripts/find_label_errors.py --predictions predictions.csv --label_column input_label --output_file suspects.csv

Needs the extra `labels` (cleanlab).
"""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, printable, run_script, shorten

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # pairs of labels


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument("--predictions", type=Path, required=True, help="What cross_validate.py wrote.")
    parser.add_argument("--output_file", type=Path, required=True, help="A .csv file for the suspects.")
    parser.add_argument("--label_column", help="Column of the given labels, where another script wrote the file.")
    parser.add_argument("--overwrite_output_file", action="store_true", help="Allow an output file that exists.")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from recipe.inference.prediction_files import check_output_file

    check_output_file(args.output_file, args.overwrite_output_file, (".csv",), inputs=[args.predictions])
    from recipe.experiments.label_errors import find_label_errors, read_predictions, require_cleanlab

    require_cleanlab()
    predictions = read_predictions(args.predictions, args.label_column)
    suspects = find_label_errors(predictions)
    write_suspects(args.output_file, suspects)
    print(summary(suspects, len(predictions.frame)))
    print(f"Saved to {printable(str(args.output_file))}")


def write_suspects(path: Path, suspects: "pd.DataFrame") -> None:
    """Write a CSV whose cells no spreadsheet runs as formulas."""
    from recipe.atomic import open_text
    from recipe.data.texts import escape

    with open_text(path) as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(suspects.columns)
        writer.writerows(map(escape, row) for row in suspects.itertuples(index=False))


def summary(suspects: "pd.DataFrame", texts: int) -> str:
    """Return one line: how many, by pair of labels."""
    if suspects.empty:
        return f"None of {texts:,} texts is probably mislabelled"
    pairs = suspects.value_counts(["label", "likelier_label"])
    parts = [f"{shorten(given)} -> {shorten(likelier)} {count:,}" for (given, likelier), count in pairs[:SHOWN].items()]
    parts += [f"and {len(pairs) - SHOWN} more pairs"] if len(pairs) > SHOWN else []
    return f"{len(suspects):,} of {texts:,} texts are probably mislabelled: {', '.join(parts)}"


if __name__ == "__main__":
    run_script(main)
