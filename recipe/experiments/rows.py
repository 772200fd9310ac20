"""Experiments: rows of a YAML file, each a change of one recipe, run over several seeds and compared with the first row."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recipe.config import field_of, fields_to_argv, parse_arguments, read_yaml_mapping
from recipe.data.dataset import SPLITS_FOLDER
from recipe.errors import RecipeError
from recipe.evaluation.intervals import compare_paired, format_p, wilson_interval
from recipe.shipped import shipped

OWN_FIELDS = ("published", "skip", "random_weights")  # of a row, beside those of train.py
OF_EACH_RUN = {"seed", "output_dir"}  # what the experiments set themselves
NOT_OF_TABLES = {"resume_from_checkpoint", "push_to_hub", "hub_model_id", "hub_token"}  # which no two runs can share
SHOWN = {
    "accuracy": "accuracy %",
    "sd": "sd",
    "interval": "95 % interval",
    "mcnemar_p": "McNemar's p",
    "seconds": "seconds",
    "trainable_parameters": "parameters",
    "published": "published %",
}


@dataclass
class Row:
    """A row: its name, the options of train.py that it sets, and what is known about it.

    published: the accuracy in percent that somebody else reports, if anybody does.
    skip: why it cannot be run; None if it can.
    random_weights: train from random weights of the base model's shape.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    skip: str | None = None
    random_weights: bool = False

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


@dataclass
class Experiments:
    """What a YAML file asks for: `base`, a recipe; `seeds`; and `rows`."""

    base: str
    seeds: list[int]
    rows: list[Row]


def load_experiments(path: str) -> Experiments:
    """Read a file of experiments, and check it but for the options of train.py (see arguments_of).

    Raises:
        RecipeError: unreadable YAML, unknown keys, two rows of one folder, values of the wrong type.
    """
    content = read_yaml_mapping(shipped(path))
    if unknown := sorted(map(str, content.keys() - {"base", "seeds", "rows"})):
        raise RecipeError(f"{path}: unknown key {unknown[0]!r}: take base, seeds and rows")
    base, seeds, rows = content.get("base"), content.get("seeds", [42]), content.get("rows")
    if not isinstance(base, str):
        raise RecipeError(
            f"{path}: base is {base!r}: give the path of a recipe, such as recipe/configs/quickstart.yaml"
        )
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RecipeError(f"{path}: seeds is {seeds!r}: give a list of whole numbers")
    if not isinstance(rows, dict) or not rows:
        raise RecipeError(f"{path}: rows is no mapping: give the rows by their names, the first to compare with")
    found = [row_of(path, str(name), options) for name, options in rows.items()]
    folders = [row.folder for row in found]
    for row in found:
        if not row.folder or folders.count(row.folder) > 1:
            raise RecipeError(
                f"{path}: row {row.name!r} has the folder {row.folder!r}: rename it, so that each has its own"
            )
    if found[0].skip:
        raise RecipeError(
            f"{path}: the first row, which all others are compared with, is skipped: put another one first"
        )
    return Experiments(base, list(dict.fromkeys(seeds)), found)


def row_of(path: str, name: str, options: Any) -> Row:
    """Return a row of the file."""
    if not isinstance(options, dict | None):
        raise RecipeError(f"{path}: row {name!r} is no mapping: write `field: value` lines under it, or nothing")
    fields = {key: value for key, value in (options or {}).items() if key not in OWN_FIELDS}
    if forbidden := sorted((OF_EACH_RUN | NOT_OF_TABLES | {"overwrite_output_dir", "config"}) & fields.keys()):
        raise RecipeError(f"{path}: row {name!r} sets {forbidden[0]}, which is no row's to set: drop it")
    row = Row(name, fields, **{key: options[key] for key in OWN_FIELDS if options and key in options})
    if row.published is not None and not isinstance(row.published, int | float):
        raise RecipeError(f"{path}: row {name!r}: published is {row.published!r}: give the accuracy in percent")
    return row


def arguments_of(experiments: Experiments, row: Row, overrides: Sequence[str]) -> list[str]:
    """Return train.py's command line for a row; what the row sets wins over the overrides, and these over the base."""
    return ["--config", experiments.base, *overrides, *fields_to_argv(row.fields, f"row {row.name!r}")]


def check_rows(experiments: Experiments, overrides: Sequence[str], output_dir: Path) -> None:
    """Check the options of every row before any is run, and note in `skip` those whose base model is not there.

    Rows with a base model of their own are left out too, where the command line names one.

    Raises:
        RecipeError: options that train.py refuses, with the row's name, or that no table can have for all of its runs.
    """
    from recipe.model.loading import load_config

    given = {field_of(word) for word in overrides if word.startswith("--")}
    for name in OF_EACH_RUN & given:
        raise RecipeError(f"{name} is set for each run here: leave it out{' and give --seeds' * (name == 'seed')}")
    for name in NOT_OF_TABLES & given:
        raise RecipeError(f"{name} is for one run, and a table has many: leave it out")
    for row in (row for row in experiments.rows if not row.skip):
        words = [*arguments_of(experiments, row, overrides), "--output_dir", str(output_dir)]
        try:
            model_args, _, training_args = parse_arguments(words)
        except RecipeError as error:
            raise RecipeError(f"row {row.name!r}: {error}") from error
        for name in ("push_to_hub", "resume_from_checkpoint"):
            if getattr(training_args, name):
                raise RecipeError(f"{experiments.base} sets {name}, which every row would do: drop it there")
        if "model_name_or_path" in row.fields.keys() & given:
            name = row.fields["model_name_or_path"]
            row.skip = f"its base model is {name}: it runs where the command line names no model_name_or_path"
            continue
        try:
            load_config(model_args.model_name_or_path, model_args.model_revision)
        except RecipeError as error:
            row.skip = str(error)
            if row is experiments.rows[0]:
                raise


def summarize(
    experiments: Experiments, runs: Mapping[str, Mapping[int, Path]], problems: Mapping[str, str]
) -> pd.DataFrame:
    """Return a line a row: accuracy over its seeds, and the comparison with the first row.

    Columns: `accuracy` (mean over seeds), `sd`, `low` and `high` (Wilson's 95 % interval of the right answers of all seeds
    together: the texts are the same, so for other texts it is too narrow), `macro_f1`, `mcnemar_p` (exact, of the
    answers of the first seed that both have, where the test texts are the first row's), `seconds` of training (mean of
    the runs that were not interrupted),
    `trainable_parameters`, `seeds` (finished), `test_texts`, `published`, `note`.

    Args:
        runs: finished ones' folders, by row and seed (see row_runs.finished_runs).
        problems: errors' lines by row.
    """
    lines, of_first = {}, runs.get(experiments.rows[0].name, {})
    for row in experiments.rows:
        of_row = runs.get(row.name, {})
        note = problems.get(row.name) or (row.skip if not of_row else "") or ""
        line = {"published": row.published, "seeds": len(of_row), "note": note}
        if of_row:
            line |= measure_row([*of_row.values()])
            if row is not experiments.rows[0] and (shared := [seed for seed in of_row if seed in of_first]):
                line["mcnemar_p"] = compare_runs(of_row[shared[0]], of_first[shared[0]])
        lines[row.name] = line
    columns = ["accuracy", "sd", "low", "high", "macro_f1", "mcnemar_p", "seconds", "trainable_parameters"]
    table = pd.DataFrame.from_dict(lines, orient="index")
    return table.reindex(columns=[*columns, "seeds", "test_texts", "published", "note"]).rename_axis("row")


def measure_row(runs: Sequence[Path]) -> dict[str, float | None]:
    """Return the figures of a row that do not depend on another (see summarize)."""
    tests = [json.loads((run / "test_results.json").read_text(encoding="utf-8")) for run in runs]
    trains = [json.loads((run / "train_results.json").read_text(encoding="utf-8")) for run in runs]
    seconds = [train["train_runtime"] for train in trains if not train.get("train_resumed")]
    right = [correct(run) for run in runs]
    accuracies = [100 * answers.mean() for answers in right]
    low, high = wilson_interval(int(sum(map(np.sum, right))), sum(map(len, right)))
    return {
        "accuracy": np.mean(accuracies),
        "sd": np.std(accuracies, ddof=1) if len(runs) > 1 else None,
        "low": 100 * low,
        "high": 100 * high,
        "macro_f1": np.mean([test["test_macro_f1"] for test in tests]),
        "seconds": np.mean(seconds) if seconds else None,
        "trainable_parameters": trains[0]["trainable_parameters"],
        "test_texts": len(right[0]),
    }


def compare_runs(run: Path, other: Path) -> float | None:
    """Return McNemar's p for the answers of two runs; None if they were tested on different texts."""
    texts, theirs = (pd.read_parquet(path / SPLITS_FOLDER / "test.parquet", columns=["text"]) for path in (run, other))
    return compare_paired(correct(run), correct(other)).p_value if texts.equals(theirs) else None


def describe(table: pd.DataFrame) -> str:
    """Return the table as people read it, and under it why rows were not run."""
    notes = table["note"][table["note"] != ""]
    notes = [f"{name}: {note}" if table["seeds"][name] else f"not run: {name}: {note}" for name, note in notes.items()]
    if not table["seeds"].any():
        return "\n".join(notes)
    numbers = dict.fromkeys(("sd", "mcnemar_p", "seconds", "published"), float)
    run = table[table["accuracy"].notna()].astype(numbers)
    interval = run["low"].map("{:.1f}".format) + " - " + run["high"].map("{:.1f}".format)
    shown = run.assign(interval=interval)[[*SHOWN]].rename(columns=SHOWN).rename_axis(None)
    formats = {"accuracy %": 1, "sd": 1, "seconds": 0, "published %": 1}
    formatters = {name: f"{{:.{digits}f}}".format for name, digits in formats.items()}
    formatters["McNemar's p"] = format_p
    text = shown.to_string(formatters={**formatters, "parameters": "{:,.0f}".format}, na_rep="")
    if table["seeds"].max() > 1:
        notes.insert(0, "The interval is of all seeds' answers, whose texts are the same: for other texts it is wider.")
    return "\n".join([text, "", *notes])


def correct(run: Path) -> np.ndarray:
    """Return which test texts a run has right: bool [N]."""
    answers = pd.read_csv(run / "test_predictions.csv", dtype=str, keep_default_na=False)
    return (answers["label"] == answers["prediction"]).to_numpy()
