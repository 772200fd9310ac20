"""The runs of a table of experiments: each row and seed is train.py in a process of its own, several at a time."""

import os
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Model

from recipe.arguments import DataArguments, ModelArguments
from recipe.config import parse_arguments, resolved_config
from recipe.data.readers import expand_paths
from recipe.errors import RecipeError
from recipe.experiments.options import model_files
from recipe.experiments.rows import Experiments, Row, arguments_of
from recipe.model.loading import load_config
from recipe.shipped import find_script
from recipe.training.run_folder import STATE_FILE, differences, read_state


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
