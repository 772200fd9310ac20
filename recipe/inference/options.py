"""Options that the scripts for saved models share, and their checks; imports nothing slow: --help and mistakes end at once."""

import argparse
import sys
from pathlib import Path
from typing import Any

from recipe.data.run_config import READING, reading_of
from recipe.data.texts import PAIR_SEPARATOR
from recipe.errors import OneLineParser, RecipeError, as_recipe_error, parse_probability


def add_shared_options(parser: OneLineParser) -> None:
    """Add the options that say which model, how its files are read, how it decides, and on which device."""
    add = parser.add_argument
    add("--model_dir", required=True, help="A folder that a run saved, or any GPT2ForSequenceClassification.")
    # How files are read: by default as in training (READING in data/run_config.py).
    add("--text_column", nargs="+", help="Column of the texts, or several; as in training if not given.")
    add("--text_pair_column", help="One more column of texts; as in training.")
    add("--column_names", nargs="+", help="Names of the columns, where a file has no header row; as in training.")
    add("--delimiter", help="Between the columns of a file; as in training.")
    add("--csv_quoting", choices=("auto", "minimal", "none", "backslash"), help="As in training.")
    add("--encoding", help="Of text files that are not UTF-8, such as cp1252 or gb18030; as in training.")
    add("--max_row_mb", type=float, default=16.0, help="Largest row of a file, in MB: larger ones are refused.")
    add("--decision_threshold", help="Of two labels, give the second from this probability on; else as the model says.")
    add("--abstain_below", help="Give no label where the likeliest one's probability is under this.")
    add("--device", help="cpu, cuda, cuda:1 ...; the GPU if there is one.")
    add("--overwrite_output_file", action="store_true", help="Allow an output file that exists.")


def parse_options(parser: OneLineParser) -> argparse.Namespace:
    """Parse the command line, with the threshold and the bound as numbers, and files read as the model's run has read its own.

    `given` holds the options of reading that the command line has.
    """
    args = parser.parse_args()
    args.given = [name for name in READING if getattr(args, name, None) is not None]
    reading = {"text_pair_separator": PAIR_SEPARATOR, "csv_quoting": "auto", **reading_of(args.model_dir)}
    for name in READING:
        if name not in args.given:
            setattr(args, name, reading.get(name))
    columns, trained = count_columns(vars(args)), count_columns(reading)
    if "text_column" in reading and columns != trained:
        print(f"note: the model was trained on {trained} columns of texts, and {columns} are read", file=sys.stderr)
    if not 0 < args.max_row_mb <= 1000:
        raise RecipeError(f"max_row_mb is {args.max_row_mb}: take a number above 0, up to 1000")
    if args.decision_threshold is not None:
        args.decision_threshold = parse_probability("decision_threshold", args.decision_threshold)
    if args.abstain_below is not None:
        args.abstain_below = parse_probability("abstain_below", args.abstain_below, one_allowed=True)
    return args


def count_columns(reading: dict[str, Any]) -> int:
    """Return how many columns of texts are read."""
    return len(reading.get("text_column") or [""]) + bool(reading.get("text_pair_column"))


def check_output_dir(folder: Path, model_dir: str) -> None:
    """Raise RecipeError, before any work, for a folder that is not empty, or that lies in the model's own."""
    problem = f"output_dir {str(folder)[:200]}: cannot be written"
    with as_recipe_error((OSError, ValueError), problem, "give another one"):
        if Path(model_dir).resolve() in folder.resolve().parents:
            raise RecipeError(f"output_dir {folder} lies in the model's own folder: give another one")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RecipeError(f"output_dir {folder} is not empty: give a new folder")
