"""The runs of a table of experiments: each row and seed is train.py in a process of its own, several at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2Model

from recipe.config import parse_arguments
from recipe.experiments.rows import Experiments, Row, arguments_of
from recipe.model.loading import load_config
from recipe.shipped import find_script
from recipe.training.run_folder import read_state


def run_rows(
    experiments: Experiments, overrides: Sequence[str], output_dir: Path, jobs: int
) -> Iterator[tuple[Row, int, str | None]]:
    """Run every row and seed that has not finished, and yield each of all with its error's line, or None.

    What a run prints goes to `ROW/seed-N.log`. An unfinished run resumes; where this is stopped, the runs save first.

    Args:
        jobs: how many run at a time, each with its share of the cores.
    """
    runs = [(row, seed) for row in experiments.rows if not row.skip for seed in experiments.seeds]
    threads, children = max(1, torch.get_num_threads() // jobs), set()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {}
            for row, seed in runs:
                folder = output_dir / row.folder / f"seed-{seed}"
                command = command_of(experiments, row, overrides, seed, folder)
                futures[pool.submit(run_train, command, folder, threads, children)] = row, seed
            for future in as_completed(futures):
                yield *futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in [*children]:
                child.terminate()


def command_of(experiments: Experiments, row: Row, overrides: Sequence[str], seed: int, folder: Path) -> list[str]:
    """Return the command of a row and a seed, once its random weights are there; none for a finished run."""
    if (state := read_state(folder)) and state["finished"]:
        return []
    words = arguments_of(experiments, row, overrides)
    if row.random_weights:
        words += ["--model_name_or_path", str(random_base(words, folder.parent / "random_weights", seed))]
    return [sys.executable, str(find_script("train")), *words, "--seed", str(seed), "--output_dir", str(folder)]


def random_base(words: Sequence[str], folder: Path, seed: int) -> Path:
    """Return a folder with random weights of the base model's shape, as GPT-2 starts, and its tokenizer."""
    name = parse_arguments([*words, "--output_dir", str(folder)])[0].model_name_or_path
    target = folder / f"seed-{seed}"
    torch.manual_seed(seed)
    GPT2Model(load_config(name)).save_pretrained(target)
    AutoTokenizer.from_pretrained(name).save_pretrained(target)
    return target


def run_train(command: Sequence[str], folder: Path, threads: int, children: set[subprocess.Popen]) -> str | None:
    """Run a command, if there is one; return its error's line, or None. While it runs it is one of `children`."""
    if not command:
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads)}
    with folder.with_name(f"{folder.name}.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        children.add(child)
        code = child.wait()
        children.remove(child)
    if code == 0:
        return None
    lines = Path(log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with exit code {code}"
