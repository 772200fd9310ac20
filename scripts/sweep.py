"""Search for learning rate, depth, dropout: trials on one feature cache, the weak ones stopped early, the best tried again.

Ten learning rates, from a tenth to ten times the recipe's:
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/sweep

A grid, and a search between two rates:
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/grid --learning_rates 3e-4 1e-3 3e-3 --depths 0 1 2
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/range --learning_rates 1e-4:1e-2 --dropouts 0 0.1 --trials 12

Other options are train.py's. A trial is measured by the validation loss of its best epoch; after 1, 2, 4 ... epochs it goes on
if it is in the better half so far. An interrupted sweep goes on. The output folder gets sweep.json and sweep.png.
"""

import argparse
import dataclasses
import logging
import sys
import tempfile
from pathlib import Path

from recipe.arguments import check_fields
from recipe.config import parse_arguments, resolved_config
from recipe.errors import OneLineParser, RecipeError, explain, run_script

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
    arguments = parse_arguments([*words, "--output_dir", str(args.output_dir)])
    model_args, _, training_args = arguments
    for name, least in (("trials", 1), ("halving", 2), ("seeds", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise RecipeError(f"{name} is {getattr(args, name)}: take a whole number from {least} up")
    for dropout in args.dropouts or ():
        dataclasses.replace(model_args, dropout=dropout)  # checks it
    for seed in args.trial_seeds or ():
        check_fields(argparse.Namespace(trial_seeds=seed), "trial_seeds", lambda seed: 0 <= seed < 2**32, "0 or more")
    rate = training_args.learning_rate
    space = {"learning_rate": parse_rates(args.learning_rates) if args.learning_rates else (rate / 10, rate * 10)}
    others = {"depth": args.depths, "dropout": args.dropouts, "seed": args.trial_seeds}
    space |= {name: list(dict.fromkeys(values)) for name, values in others.items() if values}
    if (args.output_dir / RESULTS).exists() and not training_args.overwrite_output_dir:
        raise RecipeError(
            f"{args.output_dir / RESULTS} exists: give another output_dir, or pass --overwrite_output_dir"
        )
    return args, words, arguments, space


def parse_rates(words: list[str]) -> list[float] | tuple[float, float]:
    """Return a list of learning rates, or the range LOW:HIGH."""
    low, colon, high = words[0].partition(":")
    try:
        rates = (float(low), float(high)) if colon and len(words) == 1 else [*dict.fromkeys(map(float, words))]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 10 for rate in rates) or (isinstance(rates, tuple) and rates[0] >= rates[1]):
        given = " ".join(words)
        raise RecipeError(f"learning_rates is {given}: give numbers between 0 and 10, or a range such as 1e-5:1e-3")
    return rates


def main() -> None:
    args, words, arguments, space = parse_options()
    with explain(ImportError, "a sweep needs optuna", "pip install 'gpt2-classifier-recipe[search]'"):
        import optuna  # noqa: F401
    from filelock import FileLock, Timeout
    from tqdm import tqdm

    from recipe.atomic import write_json
    from recipe.data.dataset import load_splits
    from recipe.distributed import setup_logging
    from recipe.experiments.sweep import DONE, Sweep, compare_best, open_study, plan_trials
    from recipe.experiments.sweep_results import describe_spread, draw_sweep, setting_of, tabulate, train_command
    from recipe.model.loading import labels_of_head, load_config

    setup_logging(True)
    (model_args, data_args, training_args), folder = arguments, args.output_dir
    trials, plan = plan_trials(space, args.trials, training_args.seed)
    # Before a trainer is made, whose state another TrainingArguments would reset.
    about = {**resolved_config(*arguments), "space": space, "halving": args.halving, "output_dir": None}
    config = load_config(model_args.model_name_or_path, model_args.model_revision)
    splits = load_splits(data_args, labels_of_head(config))
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".sweep.lock", timeout=0)
    with explain(Timeout, f"{folder} is in use by another sweep", "wait for it, or give another output_dir"):
        lock.acquire()
    with lock, tempfile.TemporaryDirectory(prefix="recipe-sweep-") as scratch:
        sweep = Sweep(arguments, splits, space, scratch)
        if training_args.overwrite_output_dir:
            for name in (JOURNAL, RESULTS, PICTURE):
                (folder / name).unlink(missing_ok=True)
        study = open_study(folder / JOURNAL, plan, about)
        sweep.fill_cache()
        logging.getLogger("recipe").setLevel(logging.WARNING)  # each trial would say the same
        done = len(study.get_trials(states=DONE))
        with tqdm(total=trials + args.seeds, initial=done, unit=" runs") as sweep.trainer.bar:
            sweep.search(study, trials, args.halving)
            table = tabulate(study.trials, sweep.steps_per_epoch)
            figures, runner_up = compare_best(sweep, study, table, args.seeds)

    command = train_command(words, setting_of(table.iloc[0], space), folder / "best")
    print(f"\n{table.to_string(index=False, float_format='{:.4g}'.format, na_rep='-')}\n")
    print(f"{table['epochs'].sum():g} epochs of {trials * sweep.max_steps / sweep.steps_per_epoch:g} were run.")
    if figures:
        print(describe_spread(figures, runner_up))
    print(f"To train it: {command}")
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    found = {"best": records[0], "other_seeds": figures, "runner_up": runner_up, "command": command}
    write_json(folder / RESULTS, {"space": space, **found, "trials": records})
    try:
        draw_sweep(folder / PICTURE, table, figures)
    except ImportError:
        print("no picture: it needs matplotlib: pip install 'gpt2-classifier-recipe[plots]'", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
