"""Experiments: rows of a YAML file, each a change of one recipe, run over several seeds and compared with the first row."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, GPT2Model

from recipe.arguments import DataArguments, ModelArguments
from recipe.config import field_of, fields_to_argv, parse_arguments, read_yaml_mapping, resolved_config
from recipe.data.dataset import SPLITS_FOLDER
from recipe.data.readers import expand_paths
from recipe.errors import RecipeError
from recipe.evaluation.intervals import compare_paired, format_p, wilson_interval
from recipe.experiments.options import model_files
from recipe.model.loading import load_config
from recipe.shipped import find_script, shipped
from recipe.training.run_folder import STATE_FILE, differences, read_state

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
        runs: finished ones' folders, by row and seed (see finished_runs).
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
    if "number" in answers:  # the file is sorted by mistakes, and runs are paired by text
        answers = answers.sort_values("number", key=pd.to_numeric)
    return (answers["label"] == answers["prediction"]).to_numpy()


def run_rows(
    experiments: Experiments, overrides: Sequence[str], output_dir: Path, jobs: int
) -> Iterator[tuple[Row, int, str | None]]:
    """Run every row and seed that has not finished, and yield each of all with its error's line, or None.

    What a run prints goes to `ROW/seed-N.log`. An unfinished run resumes; where this is stopped, the runs save first.

    Args:
        jobs: how many run at a time, each with its share of the cores.

    Raises:
        RecipeError: before the first run, for a finished run of other options or data.
    """
    commands = {}
    for row in (row for row in experiments.rows if not row.skip):
        for seed in experiments.seeds:
            folder = output_dir / row.folder / f"seed-{seed}"
            commands[folder] = row, seed, command_of(experiments, row, overrides, seed, folder)
    threads, children = max(1, torch.get_num_threads() // jobs), set()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {
                pool.submit(run_train, command, folder, threads, children): (row, seed)
                for folder, (row, seed, command) in commands.items()
            }
            for future in as_completed(futures):
                yield *futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in [*children]:
                child.terminate()


def finished_runs(
    experiments: Experiments, overrides: Sequence[str], output_dir: Path, failed: Container[tuple[str, int]]
) -> dict[str, dict[int, Path]]:
    """Return the folders of finished runs by row and seed: those of these options and data, that have not failed just now.

    Rows that are skipped may have some too, of an earlier call.
    """
    found: dict[str, dict[int, Path]] = {row.name: {} for row in experiments.rows}
    for row in experiments.rows:
        for seed in experiments.seeds:
            folder = output_dir / row.folder / f"seed-{seed}"
            state = read_state(folder)
            if not state or not state["finished"] or (row.name, seed) in failed:
                continue
            try:
                words = words_of(experiments, row, overrides, seed, folder)
                if not changes(words, state, folder):
                    found[row.name][seed] = folder
            except RecipeError:  # a skipped row, whose options nobody has checked
                continue
    return found


def words_of(experiments: Experiments, row: Row, overrides: Sequence[str], seed: int, folder: Path) -> list[str]:
    """Return train.py's options of a row and a seed."""
    words = [*arguments_of(experiments, row, overrides), "--seed", str(seed), "--output_dir", str(folder)]
    base = folder.parent / "random_weights" / folder.name
    return [*words, "--model_name_or_path", str(base), "--model_revision", "main"] if row.random_weights else words


def command_of(experiments: Experiments, row: Row, overrides: Sequence[str], seed: int, folder: Path) -> list[str]:
    """Return the command of a row and a seed, once its random weights are there; none for a finished run.

    Raises:
        RecipeError: a finished run of other options, or of files that have changed since, unless they may be overwritten.
    """
    words, state = words_of(experiments, row, overrides, seed, folder), read_state(folder)
    model_args, _, training_args = parse_arguments(words)
    if state and state["finished"] and not training_args.overwrite_output_dir:
        if changed := changes(words, state, folder):
            raise RecipeError(
                f"{folder} holds a finished run of other options or data ({changed}): give another output_dir, or pass"
                " --overwrite_output_dir true to run all rows again"
            )
        return []
    if row.random_weights:
        base = parse_arguments([*arguments_of(experiments, row, overrides), "--output_dir", str(folder)])[0]
        save_random(base.model_name_or_path, base.model_revision, Path(model_args.model_name_or_path), seed)
    return [sys.executable, str(find_script("train")), *words]


def changes(words: Sequence[str], state: Mapping[str, Any], run: Path) -> str:
    """Return how a finished run's options or files differ from those of today; "" if they are the same."""
    arguments = parse_arguments(words)
    return differences(state, resolved_config(*arguments), state["processes"]) or newer_file(*arguments[:2], run)


def newer_file(model_args: ModelArguments, data_args: DataArguments, run: Path) -> str:
    """Return a file of the data or the base model that has changed since a run finished, as `NAME has changed since`.

    The files' times tell. "" if none has.
    """
    fields = ("train_file", "validation_file", "test_file")
    paths = [Path(path) for field in fields for path in expand_paths(getattr(data_args, field) or [], field)]
    paths += model_files(model_args.model_name_or_path)
    paths += Path(data_args.dataset_name).expanduser().rglob("*") if data_args.dataset_name else []
    finished = (run / STATE_FILE).stat().st_mtime
    newer = [path for path in paths if path.is_file() and path.stat().st_mtime > finished]
    return f"{newer[0]} has changed since" if newer else ""


def save_random(name: str, revision: str, folder: Path, seed: int) -> None:
    """Save random weights of a base model's shape, as GPT-2 starts, and its tokenizer."""
    torch.manual_seed(seed)
    GPT2Model(load_config(name, revision)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(name, revision=revision).save_pretrained(folder)


def run_train(command: Sequence[str], folder: Path, threads: int, children: set[subprocess.Popen]) -> str | None:
    """Run a command, if there is one; return its error's line, or None. While it runs it is one of `children`."""
    if not command:
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads)}
    with folder.with_name(f"{folder.name}.log").open("w", encoding="utf-8") as log:
        # A session of its own: Ctrl-C then reaches this process alone, which lets the run save first.
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        children.add(child)
        code = child.wait()
        children.remove(child)
    if code == 0:
        return None
    lines = Path(log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"it ended with exit code {code}"
