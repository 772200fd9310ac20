"""Measure how accuracy grows with the number of labelled texts, and guess what twice as many would give.

    python scripts/learning_curve.py --config recipe/configs/quickstart.yaml --output_file curve.json --plot_file curve.png
    python scripts/learning_curve.py --config recipe/configs/quickstart.yaml --output_file curve.json --fractions 0.1 0.3 1 --seeds 5

GPT-2 and TF-IDF + logistic regression are trained on the same nested, stratified parts of the training texts, and measured
on the same test split. A power law is fitted to the error. Options are those of train.py: each part is trained for the
same number of epochs, so small ones get fewer steps (--max_steps 500 gives all of them the same).

Interrupted, the same command goes on: finished points are kept in OUTPUT_FILE.unfinished.
"""

import argparse
from typing import TYPE_CHECKING, Any

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, parse_options, print_saved

if TYPE_CHECKING:
    from recipe.config import Arguments

FRACTIONS = [0.05, 0.1, 0.25, 0.5, 1.0]


def parse_args() -> "tuple[argparse.Namespace, Arguments]":
    """Return the options of this script, and those of a run."""
    parser = OneLineParser(__doc__)
    help = "Parts of the training texts."
    parser.add_argument("--fractions", nargs="+", type=float, default=FRACTIONS, help=help)
    parser.add_argument("--seeds", type=int, default=3, help="How many times, each with parts of its own.")
    add_output_options(parser, required=True)
    args, arguments = parse_options(parser)
    if not all(0 < fraction <= 1 for fraction in args.fractions):
        raise RecipeError(f"fractions are {args.fractions}: take numbers above 0, up to 1")
    if not 1 <= args.seeds <= 1000:
        raise RecipeError(f"seeds is {args.seeds}: take a whole number from 1 to 1000")
    return args, arguments


def main() -> None:
    args, arguments = parse_args()
    # Imported here, since --help and wrong options need none of it.
    from recipe.data.dataset import load_splits
    from recipe.data.trained_on import warn_about_trained_texts
    from recipe.distributed import setup_logging
    from recipe.experiments.curves import measure_curve
    from recipe.experiments.runs import Results, Runner, alone, settings_of, unfinished
    from recipe.model.loading import head_labels, load_config

    setup_logging(True)
    model_args, data_args, training_args = arguments
    config = load_config(model_args.model_name_or_path, model_args.model_revision)
    splits = load_splits(data_args, head_labels(config))  # with the label ids of the base model's head, if any
    warn_about_trained_texts(splits["test"]["text"], model_args.model_name_or_path)
    chosen = {name: splits[name] for name in ("train", "test")}
    rows = [split[column][:] for split in chosen.values() for column in ("text", "label")]
    seeds = range(training_args.seed, training_args.seed + args.seeds)
    fractions, progress = sorted(set(args.fractions)), not training_args.disable_tqdm
    with alone(unfinished(args.output_file)):
        results = Results(unfinished(args.output_file), settings_of(arguments), rows)
        measured, skipped = measure_curve(Runner(arguments, chosen), splits, fractions, seeds, results, progress)
    report(args, model_args.model_name_or_path, measured, skipped, len(splits["test"]))
    results.remove()


def report(
    args: argparse.Namespace,
    model: str,
    measured: list[dict[str, Any]],
    skipped: list[dict[str, Any]],
    test_texts: int,
) -> None:
    """Print the table and the guesses, and write the files that are asked for."""
    from recipe.atomic import write_files, write_json
    from recipe.data.texts import shown_name
    from recipe.evaluation.plots import save_figure
    from recipe.evaluation.report import TITLES
    from recipe.experiments.curves import curve_table, draw_curves, summarize

    for part in skipped:
        print(f"Skipped: {part['texts']} texts of seed {part['seed']} hold no text of {', '.join(part['lacks'])}")
    if not measured:
        raise RecipeError("every part lacks a label: take larger fractions")
    summary, titles = summarize(measured), {"gpt2": shown_name(model), "tfidf": TITLES["tfidf"]}
    for name in (name for name in titles if name not in set(summary["name"])):
        print(f"{titles[name]} could not be fitted: its texts hold no words, or too many labels and words")
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    print(f"Test split of {test_texts:,} texts; mean ± sd over {seeds}:\n\n{curve_table(summary, titles)}\n")
    guesses = guess_more(measured, test_texts, args.seeds, titles)
    results = {"model": model, "test_texts": test_texts, "points": measured, "skipped": skipped}
    results |= {"summary": summary.to_dict("records"), "power_laws": guesses, "interval": "bootstrap over seeds"}
    if args.plot_file:
        figure = draw_curves(measured, guesses, titles, f"{titles['gpt2']}: {test_texts:,} test texts")
        write_files(args.plot_file.parent, lambda folder: save_figure(figure, folder / args.plot_file.name))
    write_json(args.output_file, results)
    print_saved(args.output_file, args.plot_file)


def guess_more(
    measured: list[dict[str, Any]], test_texts: int, seeds: int, titles: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Fit the power laws, print what each expects of twice the texts, and return them by classifier."""
    from recipe.evaluation.intervals import wilson_interval
    from recipe.experiments.curves import contradicts, describe_guess, extrapolate

    guesses = {}
    for name, title in titles.items():
        errors = [{**point, "error": 1 - point[name]["accuracy"]} for point in measured if name in point]
        if guess := extrapolate(errors, test_texts):
            guesses |= {} if contradicts(guess) else {name: guess}
            print(describe_guess(title, guess, seeds))
        elif errors:
            print(f"{title}: no power law: it needs three sizes")
    if not guesses:
        return guesses
    right = round(test_texts * min(guess["accuracy"] for guess in guesses.values()))
    low, high = wilson_interval(right, test_texts)
    half = (high - low) / 2
    print(f"That is a guess; these test texts alone leave up to ± {half:.3f} open, which no interval here counts.")
    return guesses


if __name__ == "__main__":
    run_script(main)
