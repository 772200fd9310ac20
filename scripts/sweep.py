"""Search for learning rate, depth, dropout: trials on one feature cache, the weak ones stopped early, the best tried again.

Ten learning rates, from a tenth to ten times the recipe's:
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/sweep

A grid, and a search between two rates:
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/grid --learning_rates 3e-4 1e-3 3e-3 --depths 0 1 2
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/range --learning_rates 1e-4:1e-2 --dropouts 0 0.1 --trials 12

Other options are train.py's. A trial is measured by the validation loss of the model that train.py would keep; after 1, 2, 4 ...
epochs it goes on if it is in the better half so far. An interrupted sweep goes on. The output folder gets sweep.json and sweep.png.
"""

import argparse
import dataclasses
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.arguments import check_fields
from recipe.config import parse_arguments
from recipe.errors import OneLineParser, RecipeError, as_recipe_error, run_script
from recipe.experiments.options import names_of, print_saved

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from recipe.config import Arguments
    from recipe.data.dataset import TextSplits
    from recipe.experiments.sweep import Sweep

JOURNAL, RESULTS, PICTURE = "sweep.journal", "sweep.json", "sweep.png"


def parse_options() -> tuple[argparse.Namespace, list[str], tuple, dict]:
    """Return the sweep's options, the others (train.py's) as words and as arguments, and what varies.

    Raises:
        RecipeError: an option that is wrong, or results that would be lost.
    """
    parser = OneLineParser(__doc__)
    parser.add_argument("--output_dir", required=True, type=Path, help="A folder for the sweep's results.")
    parser.add_argument(
        "--learning_rates", nargs="+", metavar="RATE", help="Several, or a range LOW:HIGH (log-uniform)."
    )
    parser.add_argument("--depths", nargs="+", type=int, help="How many last blocks train (0: ln_f and the head).")
    parser.add_argument("--dropouts", nargs="+", type=float, help="Of the trainable blocks.")
    parser.add_argument(
        "--trial_seeds", nargs="+", type=int, help="Seeds for trials to take; by default `seed` for all."
    )
    parser.add_argument("--trials", type=int, help="How many; by default all combinations, or 10 of a range.")
    parser.add_argument(
        "--halving", type=int, default=2, help="After 1, 2, 4 ... epochs (for 2), one in so many goes on."
    )
    parser.add_argument("--seeds", type=int, default=3, help="How many other seeds the best setting is trained with.")
    args, words = parser.parse_known_args()
    arguments = parse_arguments([*words, "--output_dir", str(args.output_dir)], names_of(parser))
    model_args, _, training_args = arguments
    for name, least in (("trials", 1), ("halving", 2), ("seeds", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise RecipeError(f"{name} is {getattr(args, name)}: take a whole number from {least} up")
    for dropout in args.dropouts or ():
        dataclasses.replace(model_args, dropout=dropout)  # checks it
    for seed in args.trial_seeds or ():
        check_fields(argparse.Namespace(trial_seeds=seed), "trial_seeds", lambda seed: 0 <= seed < 2**32, "0 or more")
    space = {"learning_rate": parse_rates(args.learning_rates, training_args.learning_rate)}
    others = {"depth": args.depths, "dropout": args.dropouts, "seed": args.trial_seeds}
    space |= {name: list(dict.fromkeys(values)) for name, values in others.items() if values}
    if is_finished(args.output_dir) and not training_args.overwrite_output_dir:
        raise RecipeError(
            f"{args.output_dir / RESULTS} exists: give another output_dir, or pass --overwrite_output_dir"
        )
    return args, words, arguments, space


def parse_rates(words: list[str] | None, middle: float) -> list[float] | tuple[float, float]:
    """Return a list of learning rates, or the range LOW:HIGH, which is by default a tenth to ten times `middle`."""
    given = words or [f"{middle / 10:g}:{middle * 10:g}"]
    low, colon, high = given[0].partition(":")
    try:
        rates = (float(low), float(high)) if colon and len(given) == 1 else [*dict.fromkeys(map(float, given))]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 10 for rate in rates) or (isinstance(rates, tuple) and rates[0] >= rates[1]):
        name = "learning_rates is" if words else f"learning_rate is {middle:g}, so learning_rates is"
        raise RecipeError(
            f"{name} {' '.join(given)}: give numbers between 0 and 10, or a range, as --learning_rates 1e-5:1e-3"
        )
    return rates


def is_finished(folder: Path) -> bool:
    """Return whether the folder holds results that are complete, or not ours; those of a search alone are neither."""
    try:
        return json.loads((folder / RESULTS).read_text(encoding="utf-8"))["other_seeds"] is not None
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        return True


def load(args: argparse.Namespace, arguments: "Arguments", splits: "TextSplits", space: dict, scratch: str) -> tuple:
    """Return the sweep, its study, which may have trials of an interrupted one, and how many trials there will be."""
    from recipe.experiments.options import settings_of
    from recipe.experiments.sweep import Sweep, hash_texts, open_study, plan_trials

    # Before a trainer is made, whose state another TrainingArguments would reset.
    about = {**settings_of(arguments), "space": space, "halving": args.halving}
    about |= {f"hash of {file}": digest for file, digest in about.pop("base_model").items()}
    about["hash of texts and labels"] = hash_texts(splits)
    trials, plan = plan_trials(space, args.trials, arguments[2].seed)
    sweep = Sweep(arguments, splits, space, scratch)
    journal, overwrite = args.output_dir / JOURNAL, arguments[2].overwrite_output_dir
    if not is_finished(args.output_dir):
        try:
            return sweep, open_study(journal, plan, about), trials
        except RecipeError:  # of another sweep
            if not overwrite:
                raise
    for name in (JOURNAL, RESULTS, PICTURE):
        (args.output_dir / name).unlink(missing_ok=True)
    return sweep, open_study(journal, plan, about), trials


def search(sweep: "Sweep", study: "optuna.Study", trials: int, factor: int) -> "pd.DataFrame":
    """Run the trials that are missing, print the table of all, and return it."""
    from tqdm import tqdm

    from recipe.experiments.sweep import DONE, tabulate

    sweep.fill_cache()
    logging.getLogger("recipe").setLevel(logging.WARNING)  # each trial would say the same
    with tqdm(total=trials, initial=len(study.get_trials(states=DONE)), unit=" trials") as sweep.trainer.bar:
        sweep.search(study, trials, factor)
    table = tabulate(study.trials, sweep.steps_per_epoch)
    print(f"\n{table.to_string(index=False, float_format='{:.4g}'.format, na_rep='-')}\n")
    print(f"{table['epochs'].sum():g} epochs of {trials * sweep.max_steps / sweep.steps_per_epoch:g} were run.")
    return table


def report(
    args: argparse.Namespace, words: list[str], sweep: "Sweep", study: "optuna.Study", table: "pd.DataFrame"
) -> dict[str, float]:
    """Print and write what was found, first without the best setting's other seeds, then with them; return their figures."""
    from tqdm import tqdm

    from recipe.atomic import write_json
    from recipe.experiments.sweep import compare_best, describe_spread, setting_of, train_command
    from recipe.shipped import as_typed

    command = as_typed(train_command(words, setting_of(table.iloc[0], sweep.space), args.output_dir / "best"))
    print(f"To train the best: {command}", flush=True)
    records = table.to_dict("records")
    found = {"space": sweep.space, "best": records[0], "other_seeds": None, "runner_up": None, "command": command}
    write_json(args.output_dir / RESULTS, {**found, "trials": records})
    with tqdm(total=args.seeds, unit=" seeds", disable=not args.seeds) as sweep.trainer.bar:
        figures, runner_up = compare_best(sweep, study, table, args.seeds)
    if figures:
        print(describe_spread(figures, runner_up))
    write_json(args.output_dir / RESULTS, {**found, "other_seeds": figures, "runner_up": runner_up, "trials": records})
    return figures


def main() -> None:
    args, words, arguments, space = parse_options()
    with as_recipe_error(ImportError, "a sweep needs optuna", "pip install 'gpt2-classifier-recipe[search]'"):
        import optuna  # noqa: F401
    from filelock import FileLock, Timeout

    from recipe.data.dataset import load_splits
    from recipe.distributed import setup_logging
    from recipe.evaluation.plots import can_draw
    from recipe.experiments.sweep import draw_sweep
    from recipe.model.loading import head_labels, load_config

    setup_logging(True)
    draws = can_draw()  # said before the trials
    config = load_config(arguments[0].model_name_or_path, arguments[0].model_revision)
    splits, folder = load_splits(arguments[1], head_labels(config)), args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    with as_recipe_error(Timeout, f"{folder} is in use by another sweep", "wait for it, or give another output_dir"):
        lock = FileLock(folder / ".sweep.lock", timeout=0).acquire()
    with lock, tempfile.TemporaryDirectory(prefix="recipe-sweep-") as scratch:
        sweep, study, trials = load(args, arguments, splits, space, scratch)
        table = search(sweep, study, trials, args.halving)
        figures = report(args, words, sweep, study, table)
        if draws:
            draw_sweep(folder / PICTURE, table, figures)
    print_saved(folder / RESULTS, folder / PICTURE if draws else None)


if __name__ == "__main__":
    run_script(main)
