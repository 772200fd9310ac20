"""Search for learning rate, depth, dropout: trials on one feature cache, the weak ones stopped early, the best tried again.

Ten learning rates, from a tenth to ten times the recipe's:
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/sweep

A grid, and a search between two rates:
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/grid --learning_rates 3e-4 1e-3 3e-3 --depths 0 1 2
    python scripts/sweep.py --config recipe/configs/quickstart.yaml --output_dir runs/range --learning_rates 1e-4:1e-2 --dropouts 0 0.1 --trials 12

Other options are train.py's. A trial is measured by the validation loss of the model that train.py would keep; after 1, 2, 4 ...
epochs it goes on if it is in the better half so far. The output folder gets
sweep.json, sweep.png, and results.jsonl, with which the same command goes on after an interruption.
"""

import argparse
import dataclasses
from pathlib import Path

from recipe.config import parse_arguments
from recipe.errors import OneLineParser, RecipeError, as_recipe_error, run_script
from recipe.experiments.options import print_saved, whole_number

RESULTS, SUMMARY, PICTURE = "results.jsonl", "sweep.json", "sweep.png"


def parse_options() -> tuple[argparse.Namespace, list[str], tuple, dict]:
    """Return the sweep's options, the others (train.py's) as words and as arguments, and what varies.

    Raises:
        RecipeError: an option that is wrong, or results that would be lost.
    """
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--output_dir", required=True, type=Path, help="A folder for the sweep's results.")
    add("--learning_rates", nargs="+", metavar="RATE", help="Several, or a range LOW:HIGH (log-uniform).")
    add("--depths", nargs="+", type=int, help="How many last blocks train (0: ln_f and the head).")
    add("--dropouts", nargs="+", type=float, help="Of the trainable blocks.")
    add("--trial_seeds", nargs="+", type=whole_number(0), help="For trials to take; by default `seed` for all.")
    add("--trials", type=whole_number(1), help="How many; by default all combinations, or 10 of a range.")
    add("--halving", type=whole_number(2), default=2, help="After 1, 2, 4 ... epochs (for 2), one in so many goes on.")
    add("--seeds", type=whole_number(0), default=3, help="How many other seeds the best setting is trained with.")
    args, words = parser.parse_known_args()
    arguments = parse_arguments([*words, "--output_dir", str(args.output_dir)], [*vars(args)])
    model_args, _, training_args = arguments
    for dropout in args.dropouts or ():
        dataclasses.replace(model_args, dropout=dropout)  # checks it
    space = {"learning_rate": parse_rates(args.learning_rates, training_args.learning_rate)}
    others = {"depth": args.depths, "dropout": args.dropouts, "seed": args.trial_seeds}
    space |= {name: list(dict.fromkeys(values)) for name, values in others.items() if values}
    summary = args.output_dir / SUMMARY
    if summary.exists() and not training_args.overwrite_output_dir:
        raise RecipeError(f"{summary} exists: give another output_dir, or pass --overwrite_output_dir")
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
        what = f"learning_rates is {' '.join(given)}" + ("" if words else ", around learning_rate")
        raise RecipeError(f"{what}: give numbers between 0 and 10, or a range, as --learning_rates 1e-5:1e-3")
    return rates


def main() -> None:
    args, words, arguments, space = parse_options()
    with as_recipe_error(ImportError, "a sweep needs optuna", "pip install 'gpt2-classifier-recipe[search]'"):
        import optuna  # noqa: F401
    from recipe.atomic import write_json
    from recipe.distributed import setup_logging
    from recipe.evaluation.plots import can_draw
    from recipe.experiments import sweep
    from recipe.experiments.runs import Results, Runner, alone, load_texts, rows_of, settings_of
    from recipe.shipped import as_typed

    setup_logging(True)
    folder, training_args = args.output_dir, arguments[2]
    draws = can_draw()  # said before the trials
    sweep.check_options(arguments, space)
    with alone(folder / RESULTS):
        splits = load_texts(arguments, "train", "validation")
        runner = Runner(arguments, splits, keep_head=True)
        if training_args.overwrite_output_dir and (folder / SUMMARY).exists():
            for name in (RESULTS, SUMMARY, PICTURE):
                (folder / name).unlink(missing_ok=True)
        depends_on = settings_of(arguments), space, args.halving, args.trials, rows_of(splits)
        results = Results(folder / RESULTS, *depends_on)

        trials, plan = sweep.plan_trials(space, args.trials, training_args.seed)
        table = sweep.search(runner, results, space, trials, plan, args.halving)
        print(f"\n{table.to_string(index=False, float_format='{:.4g}'.format, na_rep='-')}\n")
        epochs = training_args.num_train_epochs if training_args.max_steps <= 0 else table["epochs"].max()
        print(f"{table['epochs'].sum():g} epochs of {trials * epochs:g} were run.")
        command = as_typed(sweep.train_command(words, sweep.setting_of(table.iloc[0], [*space]), folder / "best"))
        print(f"To train the best: {command}", flush=True)
        figures = sweep.compare_best(runner, results, space, table, args.seeds) if args.seeds else {}
        if figures:
            print(sweep.describe_spread(figures))
        if draws:
            sweep.draw_sweep(folder / PICTURE, table, figures)
        trained = table.to_dict("records")
        found = {"space": space, "best": trained[0], "other_seeds": figures, "command": command, "trials": trained}
        write_json(folder / SUMMARY, found)
        print_saved(folder / SUMMARY, folder / PICTURE if draws else None)


if __name__ == "__main__":
    run_script(main)
