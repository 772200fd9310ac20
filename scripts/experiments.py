"""Run the rows of a table, each a change of one recipe, over several seeds, and compare them with the first row.

The table of "Build a Large Language Model (From Scratch)", chapter 6, as far as gpt2-nano can answer it:
    python scripts/experiments.py --config recipe/configs/experiments_book.yaml --output_dir runs/book --model_name_or_path recipe/assets/gpt2-nano --learning_rate 1e-3 --train_file data/sms_spam.tsv

Every row and seed is a run's folder, and an interrupted table goes on with those that are missing. Other options are
train.py's, for all rows; what a row sets itself wins.
"""

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, printable, run_script

if TYPE_CHECKING:
    from recipe.experiments.rows import Row

NOT_CHOSEN = "not among --rows"


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--config", required=True, help="A YAML file with base, seeds and rows.")
    parser.add_argument("--output_dir", required=True, type=Path, help="A folder for the rows' runs and the table.")
    parser.add_argument("--seeds", type=int, nargs="+", help="In place of the file's.")
    parser.add_argument("--rows", nargs="+", help="Names of the rows to run; all if not given.")
    parser.add_argument("--jobs", type=int, default=1, help="How many run at a time, each on its share of the cores.")
    args, overrides = parser.parse_known_args()
    if not 1 <= args.jobs <= 64:
        raise RecipeError(f"jobs is {args.jobs}: take a whole number from 1 up to 64")
    from tqdm import tqdm

    from recipe.atomic import write_json, write_text
    from recipe.evaluation.plots import can_draw
    from recipe.experiments.drawing import draw_experiments
    from recipe.experiments.options import print_saved
    from recipe.experiments.rows import check_rows, describe, finished_runs, load_experiments, run_rows, summarize

    experiments = load_experiments(args.config)
    experiments.seeds = [*dict.fromkeys(args.seeds)] if args.seeds else experiments.seeds
    leave_out(experiments.rows, args.rows)
    check_rows(experiments, overrides, args.output_dir)
    draws = can_draw()
    problems: dict[tuple[str, int], str] = {}
    runs = sum(not row.skip for row in experiments.rows) * len(experiments.seeds)
    with tqdm(run_rows(experiments, overrides, args.output_dir, args.jobs), total=runs, unit=" runs") as bar:
        for row, seed, problem in bar:
            bar.set_description(f"{printable(row.name)}, seed {seed}")
            if problem:
                problems[row.name, seed] = f"seed {seed}: {printable(problem)}"
                bar.write(f"row {row.name!r}, {problems[row.name, seed]}", file=sys.stderr)

    failed = {name: line for (name, _), line in problems.items()}
    table = summarize(experiments, finished_runs(experiments, overrides, args.output_dir, problems), failed)
    write_text(args.output_dir / "experiments.csv", table.to_csv())
    about = {"base": experiments.base, "options": overrides, "seeds": experiments.seeds}
    write_json(args.output_dir / "experiments.json", {**about, "rows": table.reset_index().to_dict("records")})
    print(printable(describe(table[table["note"] != NOT_CHOSEN])))
    draws = draws and table["seeds"].any()
    if draws:
        draw_experiments(args.output_dir / "experiments.png", table)
    print_saved(*(args.output_dir / f"experiments.{ending}" for ending in ("csv", "json", *(["png"] if draws else []))))
    if failed:
        raise RecipeError(f"{len(failed)} rows failed ({', '.join(failed)}): see the .log files in {args.output_dir}")


def leave_out(rows: "list[Row]", chosen: list[str] | None) -> None:
    """Skip the rows that are not chosen, but the first, which all are compared with."""
    names = [row.name for row in rows]
    if unknown := [name for name in chosen or () if name not in names]:
        nearest = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"take of {'; '.join(map(repr, names))}"
        raise RecipeError(f"no row is called {unknown[0]!r}: {hint}")
    for row in rows[1:]:
        if chosen and row.name not in chosen:
            row.skip = NOT_CHOSEN


if __name__ == "__main__":
    run_script(main)
