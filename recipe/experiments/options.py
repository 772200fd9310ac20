"""Options of the experiments' scripts: where the results go, beside every option of train.py."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.errors import OneLineParser, RecipeError

if TYPE_CHECKING:
    from recipe.config import Arguments

UNUSED = ["--output_dir", "unused"]  # an option that runs require, and experiments have no use for


def add_output_options(parser: OneLineParser, required: bool = False) -> None:
    """Add the options that say where the results go."""
    add = parser.add_argument
    add("--output_file", type=Path, required=required, help="A .json file for the figures.")
    add("--plot_file", type=Path, help="A .png, .svg or .pdf file to draw the figures into.")
    add("--overwrite_output_file", action="store_true", help="Allow output files that exist.")
    parser.epilog = "Every other option is one of train.py, as --config or --train_file: see its --help."


def parse_options(parser: OneLineParser) -> "tuple[argparse.Namespace, Arguments]":
    """Parse the command line: the parser's options, whose output files are checked, and those of a run.

    Raises:
        RecipeError: an output file that cannot be written, or that exists; whatever is wrong with the run's options.
    """
    args, rest = parser.parse_known_args()
    # Imported here, since --help and wrong options need none of it.
    from recipe.config import parse_arguments

    run = parse_arguments([*UNUSED, *rest])
    inputs = [file for name in ("train_file", "validation_file", "test_file") for file in getattr(run[1], name) or []]
    if run[1].window:
        raise RecipeError("window is for train.py: experiments truncate long texts, so leave it out")
    check_outputs(args, inputs=inputs)
    return args, run


def check_outputs(args: argparse.Namespace, **kept: Any) -> None:
    """Raise RecipeError, before any work, for output files that cannot be written; `kept` is as in check_output_file."""
    from recipe.inference.prediction_files import check_output_file

    if args.output_file:
        check_output_file(args.output_file, args.overwrite_output_file, (".json",), **kept)
    check_plot_file(args, **kept)


def check_plot_file(args: argparse.Namespace, **kept: Any) -> None:
    """Do the same for the picture alone, where one is asked for, and raise RecipeError without matplotlib."""
    if args.plot_file:
        from recipe.evaluation.plots import PLOT_FORMATS, require_matplotlib
        from recipe.inference.prediction_files import check_output_file

        check_output_file(args.plot_file, args.overwrite_output_file, PLOT_FORMATS, "plot_file", **kept)
        require_matplotlib()
