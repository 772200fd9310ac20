"""How long ten learning rates take on one feature cache: all to their end, and as scripts/sweep.py tries them."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from protocol import our_trainer, set_up

from recipe.experiments.runs import Results, Runner
from recipe.experiments.sweep import compare_best, plan_trials, search

SEEDS = 3  # sweep.py's default


def measure_sweep(job: dict[str, Any]) -> dict[str, float]:
    """Measure learning rates, one after another, on one cache: the first run pays for the trunk. And as sweep.py runs them."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for i, factor in enumerate(np.geomspace(0.1, 10, job["runs"])):
            rate = str(job["learning_rate"] * factor)
            fields = ["--learning_rate", rate, "--feature_cache", "on", "--feature_cache_dir", f"{folder}/cache"]
            start = time.perf_counter()
            our_trainer(set_up(job, f"{folder}/{i}", *fields)).train()
            seconds.append(time.perf_counter() - start)
        halving = measure_halving(job, folder)
    single = {"first_s": seconds[0], "next_s": statistics.median(seconds[1:])}
    return {"runs": job["runs"], "sweep_s": sum(seconds), **single, **halving}


def measure_halving(job: dict[str, Any], folder: str) -> dict[str, float]:
    """Measure sweep.py on a cache of its own: the search, and then the best setting's other seeds.

    `halving_runs` is how many complete runs' epochs the trials of the search had.
    """
    start = time.perf_counter()
    fields = ["--feature_cache", "on", "--feature_cache_dir", f"{folder}/halving"]
    setup = set_up(job, f"{folder}/trials", *fields)
    space = {"learning_rate": (job["learning_rate"] / 10, job["learning_rate"] * 10)}
    runner = Runner(setup.arguments, {part: setup.splits[part] for part in ("train", "validation")}, keep_head=True)
    trials, plan = plan_trials(space, job["runs"], setup.training_args.seed)
    results = Results(Path(folder, "results.jsonl"))
    table = search(runner, results, space, trials, plan)
    searched = time.perf_counter()
    epochs = table["epochs"].sum() / setup.training_args.num_train_epochs
    compare_best(runner, results, space, table, SEEDS)
    ended = time.perf_counter()
    return {"halving_s": searched - start, "halving_runs": epochs, "seeds_s": ended - searched, "seeds": SEEDS}
