"""Runs that are killed, stopped, broken or changed, and what the same command then makes of their folder."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import FAST, NANO, ROOT, fields_of, make_texts, run_training
from safetensors.torch import load_file
from transformers import TrainerCallback

from recipe.errors import RecipeError
from recipe.parsing import parse_arguments
from recipe.preparing import prepare_run
from recipe.resuming import data_hash, fault_of, last_whole_checkpoint, mark_whole
from recipe.training import make_trainer, train

FORK = multiprocessing.get_context("fork")  # a child that has imported everything already


def start(argv: list[str]) -> multiprocessing.Process:
    """The training of a command line, in a process of its own."""

    def work() -> None:
        log = os.open(os.devnull, os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(*parse_arguments(argv))

    child = FORK.Process(target=work)
    child.start()
    return child


def complete(argv: list[str]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    child = start(argv)
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - began


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def kill_at_random(command: list[str], folder: Path, kills: int) -> list[str]:
    """Kills as many runs, each at another moment, and completes each; returns what each had left when it was killed."""
    seconds, found = complete([*command, "--output_dir", str(folder / "whole")]), []
    for number in range(kills):
        argv = [*command, "--output_dir", str(folder / str(number))]
        child = start(argv)
        time.sleep(random.Random(number).uniform(0, seconds))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        left = sorted(path.name for path in (folder / str(number)).glob("*"))
        found.append(" ".join(left) or "nothing")
        state = folder / str(number) / "run_state.json"
        if not (state.is_file() and json.loads(state.read_text())["finished"]):
            complete(argv)
        assert same_weights(folder / "whole", folder / str(number)), (number, left)
        assert not list((folder / str(number)).glob(".saving-*"))
    return found


def test_killed_at_any_moment_ends_with_the_same_weights(three_labels, tmp_path):
    fields = ["--num_train_epochs", "6", "--per_device_train_batch_size", "4", "--dropout", "0.1"]
    cache = ["--feature_cache_dir", str(tmp_path / "cache")]
    command = [*fields_of(NANO, three_labels, tmp_path / "unused"), *FAST, *fields, *cache]
    found = kill_at_random(command, tmp_path, kills=6)
    assert any("checkpoint" in left for left in found), found


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data" / "sms_spam.tsv").is_file(), reason="data/sms_spam.tsv: make data/sms_spam.tsv")
def test_the_quickstart_killed_at_ten_moments(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = ["--config", "recipe/configs/quickstart.yaml", "--disable_tqdm", "true"]
    found = kill_at_random([*command, "--feature_cache_dir", str(tmp_path / "cache")], tmp_path, kills=10)
    print(*found, sep="\n")
