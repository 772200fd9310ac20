"""Measure how accuracy grows with the number of labelled texts, and guess what twice as many would give.

    python scripts/learning_curve.py --config recipe/configs/quickstart.yaml --output_file curve.json --plot_file curve.png
    python scripts/learning_curve.py --config recipe/configs/quickstart.yaml --output_file curve.json --fractions 0.1 0.3 1 --seeds 5

GPT-2 and TF-IDF + logistic regression are trained on the same nested, stratified parts of the training texts, and measured
on the same test split. A power law is fitted to the error. Options are those of train.py: each part is trained for the
same number of epochs, so small ones get fewer steps (--max_steps 500 gives all of them the same).

Interrupted, the same command goes on: finished points are kept in OUTPUT_FILE.unfinished.
"""

from recipe.errors import OneLineParser, RecipeError, parse_probability, run_script
from recipe.experiments.options import add_output_options, parse_options, print_saved, whole_number

FRACTIONS = [0.05, 0.1, 0.25, 0.5, 1.0]


def main() -> None:
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--fractions", nargs="+", default=FRACTIONS, help="Parts of the training texts.")
    add("--seeds", type=whole_number(1), default=3, help="How many times, each with parts of its own.")
    add_output_options(parser, required=True)
    args, arguments = parse_options(parser)
    fractions = {parse_probability("fractions", word, one_allowed=True) for word in args.fractions}
    # Imported here, since --help and wrong options need none of it.
    from recipe.atomic import write_json
    from recipe.data.run_config import shown_name
    from recipe.data.trained_on import warn_about_trained_texts
    from recipe.distributed import setup_logging
    from recipe.evaluation.report import TITLES
    from recipe.experiments import curves
    from recipe.experiments.runs import Results, Runner, alone, load_texts, rows_of, settings_of, unfinished

    setup_logging(True)
    model, first_seed = arguments[0].model_name_or_path, arguments[2].seed
    splits = load_texts(arguments, "train", "test")
    test_texts = len(splits["test"])
    warn_about_trained_texts(splits["test"]["text"], model)
    with alone(unfinished(args.output_file)):
        results = Results(unfinished(args.output_file), settings_of(arguments), rows_of(splits))
        seeds = range(first_seed, first_seed + args.seeds)
        measured, skipped = curves.measure_curve(Runner(arguments, splits), splits, fractions, seeds, results)
    for part in skipped:
        print(f"Skipped: {part['texts']} texts of seed {part['seed']} hold no text of {', '.join(part['lacks'])}")
    if not measured:
        raise RecipeError("every part lacks a label: take larger fractions")

    scores, titles = curves.scores_of(measured), {"gpt2": shown_name(model), "tfidf": TITLES["tfidf"]}
    summary, times = curves.summarize(scores), f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    print(f"Test split of {test_texts:,} texts; mean and sd over {times}:\n")
    print(f"{summary.replace(titles).to_string(index=False, float_format='{:.3f}'.format, na_rep='')}\n")
    guesses = {}
    for name, of_name in scores.groupby("name"):
        if guess := curves.extrapolate(of_name, test_texts):
            guesses[name] = guess
            print(curves.describe_guess(titles[name], guess, test_texts))
        else:
            print(f"{titles[name]}: no guess: no power law fits, or there are fewer than three sizes")
    if args.plot_file:
        curves.draw_curves(args.plot_file, scores, guesses, titles)
    found = {"model": model, "test_texts": test_texts, "points": measured, "skipped": skipped}
    found |= {"summary": summary.to_dict("records"), "power_laws": guesses, "interval": "bootstrap over seeds"}
    write_json(args.output_file, found)
    print_saved(args.output_file, args.plot_file)
    results.path.unlink(missing_ok=True)


if __name__ == "__main__":
    run_script(main)
