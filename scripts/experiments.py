"""Run the rows of a table, each a change of one recipe, over several seeds, and compare them with the first row.

The table of "Build a Large Language Model (From Scratch)", chapter 6, as far as gpt2-nano can answer it:
    python scripts/experiments.py --config recipe/configs/experiments_book.yaml --output_dir runs/book --model_name_or_path recipe/assets/gpt2-nano --learning_rate 1e-3 --train_file data/sms_spam.tsv

The results of rows and seeds are kept in results.jsonl, and an interrupted table goes on with those that are missing.
Other options are train.py's, for all rows; what a row sets itself wins.
"""

import logging
import sys
from collections import defaultdict
from pathlib import Path

from recipe.errors import OneLineParser, RecipeError, printable, run_script
from recipe.experiments.options import print_saved

NOT_CHOSEN = "not among --rows"


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--config", required=True, help="A YAML file with base, seeds and rows.")
    parser.add_argument("--output_dir", required=True, type=Path, help="A folder for the results and the table.")
    parser.add_argument("--seeds", type=int, nargs="+", help="In place of the file's.")
    parser.add_argument("--rows", nargs="+", help="Names of the rows to run; all if not given.")
    args, overrides = parser.parse_known_args()
    import datasets
    from tqdm import tqdm

    from recipe.atomic import write_json, write_text
    from recipe.distributed import setup_logging
    from recipe.evaluation.plots import can_draw
    from recipe.experiments.runs import Results, alone
    from recipe.experiments.table import check_row_options, describe, draw_table, load_experiments, run_rows, summarize

    setup_logging(True)
    logging.getLogger("recipe").setLevel(logging.WARNING)  # each run would log the same, and draw bars of its own
    datasets.disable_progress_bars()
    experiments = load_experiments(args.config)
    experiments.seeds = [*dict.fromkeys(args.seeds or experiments.seeds)]
    names = [row.name for row in experiments.rows]
    if unknown := [name for name in args.rows or () if name not in names]:
        raise RecipeError(f"no row is called {unknown[0]!r}: take of {'; '.join(map(repr, names))}")
    for row in experiments.rows[1:]:  # the first is what all are compared with
        if args.rows and row.name not in args.rows:
            row.skip = NOT_CHOSEN
    overwrites = check_row_options(experiments, overrides)
    draws = can_draw()  # said before the runs

    found: dict[str, dict[int, dict]] = defaultdict(dict)
    kept = args.output_dir / "results.jsonl"
    with alone(kept):
        if overwrites:
            kept.unlink(missing_ok=True)
        runs = sum(not row.skip for row in experiments.rows) * len(experiments.seeds)
        with tqdm(total=runs, unit=" runs") as bar:
            for row, seed, result in run_rows(experiments, overrides, Results(kept)):
                found[row.name][seed] = result
                bar.set_description(f"{printable(row.name)}, seed {seed}")
                bar.update(not row.skip)
                if "error" in result:
                    bar.write(printable(f"row {row.name!r}, {result['error']}"), file=sys.stderr)

    table = summarize(experiments, found)
    write_text(args.output_dir / "experiments.csv", table.to_csv())
    about = {"base": experiments.base, "options": overrides, "seeds": experiments.seeds}
    write_json(args.output_dir / "experiments.json", {**about, "rows": table.reset_index().to_dict("records")})
    print(printable(describe(table[table["note"] != NOT_CHOSEN])))
    endings = ["csv", "json"]
    if draws and table["seeds"].any():
        draw_table(args.output_dir / "experiments.png", table)
        endings.append("png")
    print_saved(*(args.output_dir / f"experiments.{ending}" for ending in endings))
    if failed := [name for name, of_row in found.items() if any("error" in result for result in of_row.values())]:
        raise RecipeError(f"{len(failed)} rows failed ({', '.join(failed)}): the lines above say why")


if __name__ == "__main__":
    run_script(main)
