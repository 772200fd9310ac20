"""Runs that are killed or changed, and what the same command then makes of their folder."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import FAST, NANO, ROOT, fields_of, make_texts, run_training, same_weights, unfinished
from recipe.training.preparing import prepare_run
from recipe.training.run import train

from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.training.run_folder import data_hash

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
    fields = ["--num_train_epochs", "4", "--per_device_train_batch_size", "4", "--dropout", "0.1"]
    cache = ["--feature_cache_dir", str(tmp_path / "cache")]
    command = [*fields_of(NANO, three_labels, tmp_path / "unused"), *FAST, *fields, *cache]
    found = kill_at_random(command, tmp_path, kills=5)
    assert any("checkpoint" in left for left in found), found


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data" / "sms_spam.tsv").is_file(), reason="data/sms_spam.tsv: make data/sms_spam.tsv")
def test_the_quickstart_killed_at_ten_moments(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = ["--config", "recipe/configs/quickstart.yaml", "--disable_tqdm", "true"]
    found = kill_at_random([*command, "--feature_cache_dir", str(tmp_path / "cache")], tmp_path, kills=10)
    print(*found, sep="\n")


def test_another_config_or_other_data_is_refused_by_name(three_labels, tmp_path):
    unfinished(three_labels, tmp_path / "x")
    message = r"an unfinished run of another config \(learning_rate 0.001 there, 0.01 here; seed 42 there, 7 here\)"
    with pytest.raises(RecipeError, match=message):
        run_training(three_labels, tmp_path / "x", "--learning_rate", "0.01", "--seed", "7")
    make_texts(117, ["sport", "medicine", "technology"], seed=5).to_csv(three_labels, index=False)
    with pytest.raises(RecipeError, match="an unfinished run on other data: the files have changed since"):
        run_training(three_labels, tmp_path / "x")
    run_training(three_labels, tmp_path / "x", "--overwrite_output_dir")
    with pytest.raises(RecipeError, match=r"a finished run of another config \(num_train_epochs 1.0 there, 2.0 here\)"):
        run_training(three_labels, tmp_path / "x", "--num_train_epochs", "2")


def test_a_folder_with_the_remains_of_a_killed_write_is_empty(three_labels, tmp_path):
    (tmp_path / "x" / ".saving-abc").mkdir(parents=True)
    run_training(three_labels, tmp_path / "x")
    assert not list((tmp_path / "x").glob(".saving-*"))


def test_the_data_hash_tells_texts_labels_and_order(three_labels, tmp_path):
    argv = [*fields_of(NANO, three_labels, tmp_path / "x"), *FAST]
    splits = prepare_run(*parse_arguments(argv)).splits
    original = data_hash(splits)
    assert original == data_hash(splits)
    for change in (
        lambda frame: frame.iloc[::-1],
        lambda frame: frame.assign(text=frame["text"] + " "),
        lambda frame: frame.assign(label=0),
    ):
        train_frame, splits.train = splits.train, change(splits.train)
        assert data_hash(splits) != original
        splits.train = train_frame


def test_going_on_from_another_folders_checkpoint(three_labels, tmp_path, caplog):
    """Its best checkpoint lies there too; and once begun, the same command goes on with its own."""
    fields = ["--num_train_epochs", "3", "--save_total_limit", "3", "--learning_rate", "0.02"]
    run_training(three_labels, tmp_path / "a", *fields, "--lr_scheduler_type", "constant")
    command = [
        *fields,
        "--lr_scheduler_type",
        "constant",
        "--resume_from_checkpoint",
        str(tmp_path / "a" / "checkpoint-12"),
    ]
    whole = run_training(three_labels, tmp_path / "b", *command)
    unfinished(three_labels, tmp_path / "c", *command)
    caplog.set_level("INFO")
    assert run_training(three_labels, tmp_path / "c", *command) == whole
    assert f"goes on from {tmp_path / 'c' / 'checkpoint-18'}" in caplog.text


def test_two_runs_in_one_folder_are_told(three_labels, tmp_path):
    command = [*fields_of(NANO, three_labels, tmp_path / "x"), *FAST, "--num_train_epochs", "200"]
    child = start(command)
    while not (tmp_path / "x" / "run_state.json").is_file():
        time.sleep(0.05)
    with pytest.raises(RecipeError, match="another process trains there"):
        train(*parse_arguments(command))
    child.kill()
    child.join()
    run_training(three_labels, tmp_path / "x", "--overwrite_output_dir")


def test_an_output_dir_that_cannot_be_is_said_first(three_labels, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecipeError, match="file is a file: give a folder"):
        run_training(three_labels, tmp_path / "file" / "x")
