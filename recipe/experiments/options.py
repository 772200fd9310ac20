"""Options of the experiments' scripts: where the results go, beside every option of train.py."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Parse the command line: the parser's options, whose output files are checked, and those of a run.

    Args:
        formats: endings of --output_file.

    Raises:
        RecipeError: an output file that cannot be written, or that exists; whatever is wrong with the run's options.
    """
    args, rest = parser.parse_known_args()
    # Imported here, since --help and wrong options need none of it.
    from recipe.config import parse_arguments

    run = parse_arguments([*UNUSED, *rest], names_of(parser))
    given = {name: value for arguments in run for name, value in vars(arguments).items()}
    for name, reason in REFUSED.items():
        if given[name]:
            raise RecipeError(f"{name} is for train.py: {reason}, so leave it out, here and in the --config file")
    check_outputs(args, formats, **kept_files(run))
    return args, run


def names_of(parser: OneLineParser) -> list[str]:
    """Return a parser's own options."""
    return [action.dest for action in parser._actions]


def print_saved(*paths: Path | None) -> None:
    """Say where the results are, as far as there are files."""
    if written := [str(path) for path in paths if path]:
        print(f"\nSaved to {printable(', '.join(written))}")


def kept_files(run: "Arguments") -> dict[str, Any]:
    """Return what no output may overwrite, as check_output_file takes it: the run's inputs, and its base model's folder."""
    model_args, data_args, _ = run
    splits = ("train_file", "validation_file", "test_file")
    inputs = [file for name in splits for file in getattr(data_args, name) or []]
    return {"inputs": inputs, "model_dir": model_args.model_name_or_path}


def check_outputs(args: argparse.Namespace, formats: tuple[str, ...] = (".json",), **kept: Any) -> None:
    """Raise RecipeError, before any work, for output files that cannot be written, or a picture without matplotlib.

    `kept` is as in check_output_file.
    """
    from recipe.inference.prediction_files import check_output_file

    if args.output_file:
        check_output_file(args.output_file, args.overwrite_output_file, formats, **kept)
    if args.plot_file:
        from recipe.evaluation.plots import PLOT_FORMATS, require_matplotlib

        check_output_file(args.plot_file, args.overwrite_output_file, PLOT_FORMATS, "plot_file", **kept)
        require_matplotlib()
