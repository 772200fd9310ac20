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

from pathlib import Path

from recipe.errors import OneLineParser, run_script
from recipe.experiments.options import add_output_options, parse_options, print_saved, whole_number


def main() -> None:
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--folds", type=whole_number(2), default=5, help="Number of folds, and of trainings (default: 5).")
    add("--figures_file", type=Path, help="For the figures; by default the output file's name with .json.")
    add_output_options(parser, required=True, output="A .csv or .jsonl file for the probabilities.")
    args, arguments = parse_options(parser, (".csv", ".jsonl"))
    model_args, data_args, training_args = arguments
    # Imported here, since --help and wrong options need none of it.
    import numpy as np
    import pandas as pd
    from scipy.special import softmax

    from recipe.atomic import write_json
    from recipe.data.run_config import shown_name
    from recipe.distributed import setup_logging
    from recipe.evaluation.intervals import compare_paired, format_p
    from recipe.evaluation.report import TITLES
    from recipe.experiments import folds
    from recipe.experiments.runs import alone, unfinished
    from recipe.inference.prediction_files import open_predictions

    setup_logging(is_main_process=True)
    rows, names = folds.load_training_rows(arguments)
    fold_of = folds.make_folds(rows, args.folds, data_args.split_seed)
    kept = unfinished(args.output_file)
    with alone(kept):
        logits = folds.out_of_fold_logits(arguments, rows, names, fold_of, kept)

    # The figures: of the model, and of the baselines on the same folds.
    labels, predictions = rows["label"].map(names.index).to_numpy(), logits.argmax(axis=-1)
    figures = {"gpt2": folds.fold_figures(predictions, labels, fold_of, logits)}
    if training_args.baselines:
        found = folds.out_of_fold_baselines(rows, labels, fold_of, data_args.class_weight)
        for name, theirs in found.items():
            test = compare_paired(predictions == labels, theirs == labels)
            mcnemar = {**test._asdict(), "verdict": test.verdict}
            figures[name] = {**folds.fold_figures(theirs, labels, fold_of), "mcnemar": mcnemar}
    # The strongest classifier first.
    titles = {"gpt2": shown_name(model_args.model_name_or_path), **dict(reversed(TITLES.items()))}

    # The files: all three are in their place at the end of the block or shortly before, as one that exists is refused next time.
    columns = {"predicted_label": [names[i] for i in predictions], "fold": (fold_of + 1).tolist()}
    columns |= {name: rows[name].tolist() for name in ("row", "source") if name == "row" or rows[name].nunique() > 1}
    with open_predictions(args.output_file, names) as writer:
        probabilities = softmax(logits.astype(np.float64), axis=-1)
        writer.write(rows["text"].tolist(), rows["label"].tolist(), probabilities, columns)
        if args.plot_file:
            folds.draw_folds(args.plot_file, figures, titles)
        about = {"texts": len(rows), "label_names": names, "folds": args.folds}
        write_json(args.figures_file, {**about, **figures})
    kept.unlink(missing_ok=True)

    # The screen.
    others = f"the other {args.folds - 1} of {args.folds} folds"
    print(f"{len(rows):,} texts, each classified by a model that was trained on {others}:\n")
    table = {}
    for score, title in folds.SCORES.items():
        for name in (name for name in titles if name in figures and score in figures[name]["mean"]):
            pooled, mean, sd, low, high = (figures[name][x][score] for x in ("pooled", "mean", "sd", "low", "high"))
            cells = (f"{pooled:.4f}", f"{mean:.4f}", f"{sd:.4f}", f"{low:.4f} - {high:.4f}")
            table[f"{title}, {titles[name]}"] = cells
    headers = ["all texts", "mean of folds", "sd", "95 % interval"]
    print(pd.DataFrame.from_dict(table, orient="index", columns=headers).to_string())
    for name in (name for name in titles if "mcnemar" in figures.get(name, {})):
        test = figures[name]["mcnemar"]
        right = f"{titles['gpt2']} alone is right on {test['gains']} texts, {titles[name]} alone on {test['losses']}"
        print(f"\n{right} (McNemar's p {format_p(test['p_value'])}): {test['verdict']}")
    print_saved(args.output_file, args.figures_file, args.plot_file)


if __name__ == "__main__":
    run_script(main)
