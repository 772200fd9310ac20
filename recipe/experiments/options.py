"""Options of the experiments' scripts: where the results go, beside every option of train.py."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, printable

if TYPE_CHECKING:
    from recipe.config import Arguments

UNUSED = ["--output_dir", "unused"]  # an option that runs require, and experiments have no use for
# Options of train.py that change nothing here, and why.
REFUSED = {
    "window": "experiments truncate long texts",
    "push_to_hub": "experiments save no model",
    "decision_threshold": "experiments give each text its likeliest label",
    "calibrate": "experiments leave probabilities as they are",
    "resume_from_checkpoint": "experiments save no checkpoints",
    "early_stopping_patience": "experiments train all epochs",
}


def whole_number(least: int) -> Callable[[str], int]:
    """Return the type, for argparse, of an option that is a whole number from `least` up."""

    def parse(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word} is no whole number from {least} up")
        return int(word)

    return parse


def add_output_options(
    parser: OneLineParser, required: bool = False, output: str = "A .json file for the figures."
) -> None:
    """Add the options that say where the results go; `output` is the help on --output_file."""
    add = parser.add_argument
    add("--output_file", type=Path, required=required, help=output)
    add("--plot_file", type=Path, help="A .png, .svg or .pdf file to draw the figures into.")
    add("--overwrite_output_file", action="store_true", help="Allow output files that exist.")
    parser.epilog = "Every other option is one of train.py, as --config or --train_file: see its --help."


def parse_options(
    parser: OneLineParser, formats: tuple[str, ...] = (".json",)
) -> "tuple[argparse.Namespace, Arguments]":
    """Parse the command line: the parser's options, whose output files are checked before any work, and those of a run.

    Args:
        formats: endings of --output_file.

    Raises:
        RecipeError: an output file that cannot be written, or that exists; whatever is wrong with the run's options.
    """
    args, rest = parser.parse_known_args()
    # Imported here, since --help and wrong options need none of it.
    from recipe.config import parse_arguments
    from recipe.evaluation.plots import PLOT_FORMATS, require_matplotlib
    from recipe.inference.prediction_files import check_output_file

    run = parse_arguments([*UNUSED, *rest], [*vars(args)])
    given = {name: value for arguments in run for name, value in vars(arguments).items()}
    for name, reason in REFUSED.items():
        if given[name]:
            raise RecipeError(f"{name} is for train.py: {reason}, so leave it out, here and in the --config file")
    if "figures_file" in args and not args.figures_file:
        args.figures_file = args.output_file.with_suffix(".json")
    inputs = [file for name in ("train_file", "validation_file", "test_file") for file in given[name] or []]
    outputs = {"output_file": formats, "figures_file": (".json",), "plot_file": PLOT_FORMATS}
    for name, endings in outputs.items():
        if path := getattr(args, name, None):
            overwrite = args.overwrite_output_file
            check_output_file(path, overwrite, endings, name, inputs, model_dir=given["model_name_or_path"])
    if args.plot_file:
        require_matplotlib()
    return args, run


def print_saved(*paths: Path | None) -> None:
    """Say where the results are, as far as there are files."""
    if written := [str(path) for path in paths if path]:
        print(f"\nSaved to {printable(', '.join(written))}")
