"""Cross-validate a recipe: a probability for every text, from a model that was not trained on it, and figures of all texts.

    python scripts/cross_validate.py --config recipe/configs/quickstart.yaml --output_file runs/out_of_sample.csv --plot_file runs/folds.png

All rows of the training files (or --max_train_samples of them) are divided into folds, label shares kept; copies of a text,
and texts of one --group_column, stand in one fold. For each fold a model is trained on all others and classifies it; given
validation and test files stay out. The other options are those of train.py (see its --help): the recipe, and any field of it.

Output is CSV or JSON lines by its ending: text, label, the probability of every label, predicted_label, fold, and the
row of the training file (with its name, where there are several). Beside it, as .json, are the figures: over all texts, and
mean, standard deviation and 95 % interval over folds, with TF-IDF + logistic regression on the same folds. Interrupted, the
same command goes on with the folds that are missing. find_label_errors.py finds mislabelled texts in the output.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, kept_files, parse_options, print_saved

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from recipe.config import Arguments

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro F1", "loss": "loss"}


def parse_args() -> "tuple[argparse.Namespace, Arguments]":
    """Return the options of this script, and those of a run."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--folds", type=int, default=5, help="Number of folds, and of trainings (default: 5).")
    parser.add_argument(
        "--figures_file", type=Path, help="For the figures; by default the output file's name with .json."
    )
    add_output_options(parser, required=True, output="A .csv or .jsonl file for the probabilities.")
    args, run = parse_options(parser, (".csv", ".jsonl"))
    from recipe.inference.prediction_files import check_output_file

    args.figures_file = args.figures_file or args.output_file.with_suffix(".json")
    check_output_file(args.figures_file, args.overwrite_output_file, (".json",), "figures_file", **kept_files(run))
    if not 2 <= args.folds <= 100:
        raise RecipeError(f"folds is {args.folds}: take a whole number from 2 up to 100")
    if run[2].world_size > 1:
        raise RecipeError("cross-validation runs in one process: start it with python")
    return args, run


def main() -> None:
    args, arguments = parse_args()
    model_args, data_args, training_args = arguments
    import numpy as np
    from scipy.special import softmax

    from recipe.distributed import setup_logging
    from recipe.experiments.folds import load_training_rows, make_folds, out_of_fold_logits, titles_of
    from recipe.experiments.runs import alone, unfinished

    setup_logging(is_main_process=True)
    rows, names = load_training_rows(arguments)
    fold_of = make_folds(rows, args.folds, data_args.split_seed)
    kept = unfinished(args.output_file)
    with alone(kept):
        logits = out_of_fold_logits(arguments, rows, names, fold_of, kept)
    labels = rows["label"].map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.int64)
    figures = compare(rows, labels, fold_of, logits, data_args.class_weight, training_args.baselines)
    titles = titles_of(model_args.model_name_or_path)
    write_results(args, rows, names, softmax(logits.astype(np.float64), axis=-1), fold_of, figures, titles)
    kept.unlink(missing_ok=True)
    print_figures(figures, len(rows), args.folds, titles)
    print_saved(args.output_file, args.figures_file, args.plot_file)


def write_results(
    args: argparse.Namespace,
    rows: "pd.DataFrame",
    names: list[str],
    probabilities: "np.ndarray",
    fold_of: "np.ndarray",
    figures: dict[str, Any],
    titles: dict[str, str],
) -> None:
    """Write a row for each text, of which `label` is the given one, the figures, and the picture where one is asked for."""
    from recipe.atomic import write_json
    from recipe.experiments.folds import draw_folds
    from recipe.inference.prediction_files import open_predictions

    others = {
        "predicted_label": [names[i] for i in probabilities.argmax(axis=-1)],
        "fold": (fold_of + 1).tolist(),
        "row": rows["row"].tolist(),
    }
    if rows["source"].nunique() > 1:
        others["source"] = rows["source"].tolist()
    # All three are in their place at the end of the block or shortly before: an output that exists is refused next time.
    with open_predictions(args.output_file, names) as writer:
        writer.write(rows["text"].tolist(), rows["label"].tolist(), probabilities, others)
        if args.plot_file:
            draw_folds(args.plot_file, figures, titles)
        write_json(args.figures_file, {"texts": len(rows), "label_names": names, "folds": args.folds, **figures})


def compare(
    rows: "pd.DataFrame",
    labels: "np.ndarray",
    fold_of: "np.ndarray",
    logits: "np.ndarray",
    class_weight: str,
    baselines: bool,
) -> dict[str, Any]:
    """Return the figures of the model and, with `baselines`, theirs on the same folds, each compared over all texts."""
    from recipe.evaluation.intervals import compare_paired
    from recipe.experiments.folds import fold_figures, out_of_fold_baselines

    predictions = logits.argmax(axis=-1)
    figures: dict[str, Any] = {"gpt2": fold_figures(predictions, labels, fold_of, logits)}
    others = out_of_fold_baselines(rows, labels, fold_of, class_weight) if baselines else {}
    for name, theirs in others.items():
        test = compare_paired(predictions == labels, theirs == labels)
        mcnemar = {**test._asdict(), "verdict": test.verdict}
        figures[name] = {**fold_figures(theirs, labels, fold_of), "mcnemar": mcnemar}
    return figures


def print_figures(figures: dict[str, Any], texts: int, folds: int, titles: dict[str, str]) -> None:
    """Print the figures over all texts and over folds, the model beside its baselines."""
    import pandas as pd

    from recipe.evaluation.intervals import format_p

    print(f"{texts:,} texts, each classified by a model that was trained on the other {folds - 1} of {folds} folds:\n")
    table = []
    for name, title in FIGURES.items():
        for who in (who for who in titles if name in figures.get(who, {}).get("mean", {})):
            pooled, mean, sd, low, high = (figures[who][x][name] for x in ("pooled", "mean", "sd", "low", "high"))
            numbers = (f"{pooled:.4f}", f"{mean:.4f}", f"{sd:.4f}", f"{low:.4f} - {high:.4f}")
            table.append((f"{name if name == 'loss' else title}, {titles[who]}", *numbers))
    columns = ["", "all texts", "mean of folds", "sd", "95 % interval"]
    print(pd.DataFrame(table, columns=columns).set_index("").to_string())
    for who in (who for who in titles if "mcnemar" in figures.get(who, {})):
        test = figures[who]["mcnemar"]
        right = f"{titles['gpt2']} alone is right on {test['gains']} texts, {titles[who]} alone on {test['losses']}"
        print(f"\n{right} (McNemar's p {format_p(test['p_value'])}): {test['verdict']}")


if __name__ == "__main__":
    run_script(main)
