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

import csv
from pathlib import Path

from recipe.errors import OneLineParser, as_recipe_error, printable, run_script, shorten

SHOWN = 10  # pairs of labels


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--predictions", type=Path, required=True, help="What cross_validate.py wrote.")
    parser.add_argument("--output_file", type=Path, required=True, help="A .csv file for the suspects.")
    parser.add_argument("--label_column", help="Column of the given labels, where another script wrote the file.")
    parser.add_argument("--overwrite_output_file", action="store_true", help="Allow an output file that exists.")
    args = parser.parse_args()
    from recipe.inference.prediction_files import check_output_file

    check_output_file(args.output_file, args.overwrite_output_file, (".csv",), inputs=[args.predictions])
    with as_recipe_error(ImportError, "this needs cleanlab", "pip install 'gpt2-classifier-recipe[labels]'"):
        import cleanlab.filter  # noqa: F401
    from recipe.atomic import open_text
    from recipe.data.texts import escape
    from recipe.experiments.label_errors import find_label_errors, read_predictions

    texts, probabilities = read_predictions(args.predictions, args.label_column)
    suspects = find_label_errors(texts, probabilities)
    with open_text(args.output_file) as file:
        suspects.map(escape).to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")

    pairs = suspects.value_counts(["label", "likelier_label"])
    shown = [f"{shorten(given)} -> {shorten(likelier)} {count:,}" for (given, likelier), count in pairs[:SHOWN].items()]
    shown += [f"and {len(pairs) - SHOWN} more pairs"] if len(pairs) > SHOWN else []
    summary = f"{len(suspects):,} of {len(texts):,} texts are probably mislabelled"
    print(f"{summary}: {', '.join(shown)}" if shown else summary)
    print(f"Saved to {printable(str(args.output_file))}")


if __name__ == "__main__":
    run_script(main)
