"""Measure how accuracy grows with the number of labelled texts, and guess what twice as many would give.

    python scripts/learning_curve.py --config recipe/configs/quickstart.yaml --output_file curve.json --plot_file curve.png
    python scripts/learning_curve.py --config recipe/configs/quickstart.yaml --output_file curve.json --fractions 0.1 0.3 1 --seeds 5

GPT-2 and TF-IDF + logistic regression are trained on the same nested, stratified parts of the training texts, and measured
on the same test split. A power law is fitted to the error. Options are those of train.py: each part is trained for the
same number of epochs, so small ones get fewer steps (--max_steps 500 gives all of them the same).

Interrupted, the same command goes on: finished points are kept in OUTPUT_FILE.unfinished.
"""

from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, parse_options

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict

FRACTIONS = [0.05, 0.1, 0.25, 0.5, 1.0]


def make_parser() -> OneLineParser:
    parser = OneLineParser(__doc__)
    help = "Parts of the training texts."
    parser.add_argument("--fractions", nargs="+", type=float, default=FRACTIONS, help=help)
    parser.add_argument("--seeds", type=int, default=3, help="How many times, each with parts of its own.")
    add_output_options(parser, required=True)
    return parser


def main() -> None:
    args, (model_args, data_args, training_args) = parse_options(make_parser())
    if not all(0 < fraction <= 1 for fraction in args.fractions):
        raise RecipeError(f"fractions are {args.fractions}: take numbers above 0, up to 1")
    if not 1 <= args.seeds <= 1000:
        raise RecipeError(f"seeds is {args.seeds}: take a whole number from 1 to 1000")
    # Imported here, since --help and wrong options need none of it.
    import numpy as np

    from recipe.atomic import write_files, write_json
    from recipe.config import resolved_config
    from recipe.data.dataset import load_splits
    from recipe.data.trained_on import warn_of_trained_texts
    from recipe.distributed import setup_logging
    from recipe.evaluation.baselines import baseline_predictions
    from recipe.evaluation.intervals import wilson_interval
    from recipe.evaluation.plots import save_figure
    from recipe.experiments.curves import (
        Points,
        curve_table,
        describe_guess,
        draw_curves,
        measure_curve,
        summarize,
    )
    from recipe.experiments.fitting import predict_after_training, quietly
    from recipe.experiments.power_law import extrapolate
    from recipe.model.loading import load_config

    setup_logging(True)
    load_config(model_args.model_name_or_path, model_args.model_revision)  # which refuses one that is not there
    splits = load_splits(data_args)
    test_texts = len(splits["test"])
    warn_of_trained_texts(splits["test"]["text"], model_args.model_name_or_path)
    settings = resolved_config(model_args, data_args, training_args)
    points = Points(args.output_file, settings, splits)

    def fit_gpt2(subset: "DatasetDict", seed: int) -> np.ndarray:
        return predict_after_training(model_args, data_args, training_args, subset, seed).argmax(axis=-1)

    def fit_tfidf(subset: "DatasetDict", seed: int) -> np.ndarray | None:
        train, texts = subset["train"], subset["test"]["text"][:]
        return baseline_predictions(train["text"][:], train["label"][:], texts, data_args.class_weight).get("tfidf")

    fractions = sorted(set(args.fractions))
    seeds = range(training_args.seed, training_args.seed + args.seeds)
    fits = {"gpt2": fit_gpt2, "tfidf": fit_tfidf}
    with quietly():
        measured, skipped = measure_curve(splits, fractions, seeds, fits, points, not training_args.disable_tqdm)
    for part in skipped:
        print(f"Skipped: {part['texts']} texts of seed {part['seed']} hold no text of {', '.join(part['lacks'])}")
    if not measured:
        raise RecipeError("every part lacks a label: take larger fractions")

    summary = summarize(measured)
    print(f"Test split of {test_texts:,} texts; mean ± sd over {args.seeds} seeds:\n\n{curve_table(summary)}\n")
    guesses = {}
    for name in fits:
        errors = [{**point, "error": 1 - point[name]["accuracy"]} for point in measured if name in point]
        if guess := extrapolate(errors, test_texts):
            guesses[name] = guess
            print(describe_guess(name, guess, args.seeds))
    if guesses:
        right = round(test_texts * min(guess["accuracy"] for guess in guesses.values()))
        low, high = wilson_interval(right, test_texts)
        print(
            f"That is a guess; these test texts alone leave up to ± {(high - low) / 2:.3f} open, which no interval here counts."
        )
    else:
        print("No power law: it needs three sizes")
    results = {"model": model_args.model_name_or_path, "test_texts": test_texts, "points": measured, "skipped": skipped}
    results |= {"summary": json_rows(summary), "power_laws": guesses, "interval": "bootstrap over seeds"}
    write_json(args.output_file, results)
    points.path.unlink(missing_ok=True)
    if args.plot_file:
        figure = draw_curves(measured, guesses, f"{model_args.model_name_or_path}: {test_texts:,} test texts")
        write_files(args.plot_file.parent, lambda folder: save_figure(figure, folder / args.plot_file.name))


def json_rows(summary: "pd.DataFrame") -> list[dict]:
    """Return a table's rows with null where a number is missing."""
    return summary.astype(object).where(summary.notna(), None).to_dict("records")


if __name__ == "__main__":
    run_script(main)
