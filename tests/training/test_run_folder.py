"""Runs that are killed or changed: what the same command then makes of their folder."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pandas as pd
import pytest
import torch
from conftest import (
    FAST,
    ROOT,
    fields_of,
    make_texts,
    run_training,
    run_unfinished,
    same_weights,
    tiny_folder,
    train_script,
)

from recipe.errors import RecipeError
from recipe.training.run_folder import with_absolute_paths

pytestmark = pytest.mark.launch
FORK = multiprocessing.get_context("fork")  # a child that has imported everything already


def start(argv: list[str]) -> multiprocessing.Process:
    """Start the training of a command line in a process of its own."""

    def work() -> None:
        log = os.open(os.devnull, os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)  # a forked child would wait for OpenMP threads that only its parent has
        train_script().main(argv)

    child = FORK.Process(target=work)
    child.start()
    return child


def complete(argv: list[str]) -> float:
    """Run a training to its end; return its seconds."""
    began = time.monotonic()
    child = start(argv)
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - began


def kill_at_random(command: list[str], folder, kills: int) -> list[str]:
    """Kill as many runs, each at another moment, every second once it has a checkpoint, and complete each.

    Returns:
        What each had left when it was killed.
    """
    seconds, found = complete([*command, "--output_dir", str(folder / "straight")]), []
    for number in range(kills):
        argv = [*command, "--output_dir", str(folder / str(number))]
        child = start(argv)
        while number % 2 and child.is_alive() and not list((folder / str(number)).glob("checkpoint-*")):
            time.sleep(0.001)
        time.sleep(random.Random(number).uniform(0, seconds / 8 if number % 2 else seconds))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        left = sorted(path.name for path in (folder / str(number)).glob("*"))
        found.append(" ".join(left) or "nothing")
        state = folder / str(number) / "run_state.json"
        if not (state.is_file() and json.loads(state.read_text())["finished"]):
            complete(argv)
        assert same_weights(folder / "straight", folder / str(number)), (number, left)
        assert not list((folder / str(number)).glob(".recipe-saving-*"))
    return found


@pytest.mark.slow
def test_killed_at_any_moment_ends_with_the_same_weights(three_labels, tmp_path):
    fields = ["--num_train_epochs", "3", "--per_device_train_batch_size", "4", "--dropout", "0.1"]
    cache = ["--feature_cache_dir", str(tmp_path / "cache")]
    command = [*fields_of(tiny_folder(), three_labels, tmp_path / "unused"), *FAST, *fields, *cache]
    found = kill_at_random(command, tmp_path, kills=2)
    assert any("checkpoint" in left for left in found), found


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data" / "sms_spam.tsv").is_file(), reason="data/sms_spam.tsv: make data/sms_spam.tsv")
def test_quickstart_killed_at_ten_moments(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = ["--config", "recipe/configs/quickstart.yaml", "--disable_tqdm", "true", "--plots", "false"]
    command += ["--baselines", "false", "--max_train_samples", "1000", "--max_predict_samples", "100"]
    found = kill_at_random([*command, "--feature_cache_dir", str(tmp_path / "cache")], tmp_path, kills=10)
    assert any("checkpoint" in left for left in found), found


def test_other_config_or_other_data_is_refused_by_name(three_labels, tmp_path):
    run_unfinished(three_labels, tmp_path / "x")
    message = r"an unfinished run of another config \(learning_rate 0.001 there, 0.01 here; seed 42 there, 7 here\)"
    with pytest.raises(RecipeError, match=message):
        run_training(three_labels, tmp_path / "x", "--learning_rate", "0.01", "--seed", "7")
    make_texts(117, ["sport", "medicine", "technology"], seed=5).to_csv(three_labels, index=False)
    with pytest.raises(RecipeError, match="an unfinished run on other data: the files have changed since"):
        run_training(three_labels, tmp_path / "x")
    run_training(three_labels, tmp_path / "x", "--overwrite_output_dir")
    with pytest.raises(RecipeError, match=r"a finished run of another config \(num_train_epochs 1.0 there, 2.0 here\)"):
        run_training(three_labels, tmp_path / "x", "--num_train_epochs", "2")


def test_finished_run_is_kept_unless_told(three_labels, tmp_path):
    output = tmp_path / "x"
    run_training(three_labels, output)
    (output / "notes.txt").write_text("mine")
    stamp = (output / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(
        RecipeError, match="a finished run of this config: give another one, or pass --overwrite_output_dir"
    ):
        run_training(three_labels, output)
    with pytest.raises(RecipeError, match="cannot be read"):
        run_training(tmp_path / "nowhere.csv", output, "--overwrite_output_dir")
    with pytest.raises(RecipeError, match="holds no complete checkpoint to resume from"):
        run_training(three_labels, tmp_path / "new", "--resume_from_checkpoint", "last")
    assert (output / "model.safetensors").stat().st_mtime_ns == stamp
    no_checkpoints = ["--save_strategy", "no", "--load_best_model_at_end", "false"]
    run_training(three_labels, output, "--overwrite_output_dir", *no_checkpoints)
    assert (output / "notes.txt").read_text() == "mine"
    assert not list(output.glob("checkpoint-*"))  # those of the old run, which this one does not make
    assert (output / "model.safetensors").stat().st_mtime_ns != stamp


def test_folder_with_the_remains_of_a_killed_write_is_empty(three_labels, tmp_path):
    (tmp_path / "x" / ".recipe-saving-abc").mkdir(parents=True)
    run_training(three_labels, tmp_path / "x")
    assert not list((tmp_path / "x").glob(".recipe-saving-*"))


def test_resuming_from_the_last_complete_checkpoint(three_labels, tmp_path, caplog):
    """The newest is damaged, the one before it incomplete, so the run resumes from the first."""
    fields = ["--num_train_epochs", "3", "--save_total_limit", "3"]
    straight = run_training(three_labels, tmp_path / "straight", *fields)
    run_unfinished(three_labels, tmp_path / "x", *fields)
    caplog.set_level("INFO")
    optimizer = tmp_path / "x" / "checkpoint-18" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    (tmp_path / "x" / "checkpoint-12" / "complete.json").unlink()
    assert run_training(three_labels, tmp_path / "x", *fields) == straight
    assert f"resumes from {tmp_path / 'x' / 'checkpoint-6'}" in caplog.text
    resumed = [json.loads((tmp_path / run / "train_results.json").read_text()) for run in ("straight", "x")]
    assert [figures.get("train_resumed") for figures in resumed] == [None, True]
    assert same_weights(tmp_path / "straight", tmp_path / "x")


def test_resuming_from_a_named_checkpoint_takes_its_steps_again(three_labels, tmp_path):
    fields = ["--num_train_epochs", "3", "--save_total_limit", "5"]
    straight = run_training(three_labels, tmp_path / "x", *fields)
    named = ["--resume_from_checkpoint", str(tmp_path / "x" / "checkpoint-6")]
    assert run_training(three_labels, tmp_path / "x", *fields, *named) == straight
    names = {path.name for path in (tmp_path / "x").glob("*checkpoint-*")}
    assert names == {*(f"checkpoint-{i}" for i in (6, 12, 18)), *(f"replaced-checkpoint-{i}" for i in (12, 18))}
    with pytest.raises(RecipeError, match=r"not in output_dir .*: give its own folder"):
        run_training(three_labels, tmp_path / "y", *fields, *named)


@pytest.mark.parametrize(("cache", "sampling"), [("on", "random"), ("off", "group_by_length")])
def test_resuming_in_the_middle_of_an_epoch_is_bit_exact(three_labels, tmp_path, cache, sampling):
    """84 texts in batches of 8: 11 steps an epoch. One run of 22 steps; one that resumes from step 16."""
    fields = ["--feature_cache", cache, "--feature_cache_dir", str(tmp_path / "cache"), "--num_train_epochs", "2"]
    fields += ["--per_device_train_batch_size", "8", "--train_sampling_strategy", sampling, "--dropout", "0.1"]
    fields += ["--eval_strategy", "steps", "--eval_steps", "16", "--save_strategy", "steps", "--save_steps", "16"]
    fields += ["--load_best_model_at_end", "false", "--save_total_limit", "5"]
    run_training(three_labels, tmp_path / "straight", *fields)
    (tmp_path / "parts").mkdir()
    shutil.copytree(tmp_path / "straight" / "checkpoint-16", tmp_path / "parts" / "checkpoint-16")
    run_training(three_labels, tmp_path / "parts", *fields, "--resume_from_checkpoint", "last")
    assert same_weights(tmp_path / "straight", tmp_path / "parts")


def test_two_runs_in_one_folder_are_refused(three_labels, tmp_path):
    command = [*fields_of(tiny_folder(), three_labels, tmp_path / "x"), *FAST, "--num_train_epochs", "2000"]
    child = start(command)
    while not (tmp_path / "x" / "run_state.json").is_file():
        time.sleep(0.05)
    with pytest.raises(RecipeError, match="another process trains there"):
        train_script().main(command)
    child.kill()
    child.join()
    run_training(three_labels, tmp_path / "x", "--overwrite_output_dir")


def test_impossible_output_dir_is_refused_first(three_labels, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecipeError, match="file is no folder that can be written to"):
        run_training(three_labels, tmp_path / "file" / "x")


def test_stopped_overwrite_leaves_the_old_model_with_its_splits(three_labels, tmp_path):
    folder = tmp_path / "x"
    run_training(three_labels, folder)
    before = {path: path.read_bytes() for path in (*folder.glob("*.json"), *folder.rglob("*.parquet"))}
    config = (folder / "run_config.yaml").read_text()
    with pytest.raises(RecipeError, match="the loss is"):
        run_training(three_labels, folder, "--overwrite_output_dir", "--split_seed", "7", "--learning_rate", "1e30")
    for path, content in before.items():
        if path.name != "run_state.json":
            assert path.read_bytes() == content, path
    assert (folder / "run_config.yaml").read_text() == config


def test_kill_before_the_first_step_leaves_a_folder_that_starts_again(three_labels, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("recipe.training.run_folder.save_splits", killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(three_labels, tmp_path / "x")
    run_training(three_labels, tmp_path / "x")


def test_run_config_holds_in_another_folder(tmp_path, monkeypatch):
    here, there = tmp_path / "a[1]", tmp_path / "b"  # a folder that is a pattern, and one with other texts
    for folder, seed in ((here, 0), (there, 1)):
        (folder / "parts").mkdir(parents=True)
        make_texts(60, ["sport", "medicine"], seed).to_csv(folder / "parts" / "x.csv", index=False)
        make_texts(20, ["sport", "medicine"], seed + 2).to_csv(folder / "test.csv", index=False)
    shutil.copytree(tiny_folder(), here / "base")
    monkeypatch.chdir(here)
    fields = ["--model_name_or_path", "base", "--train_file", "parts/*.csv", "--test_file", "test.csv", *FAST]
    train_script().main([*fields, "--output_dir", "run"])
    monkeypatch.chdir(there)
    recipe = ["--config", str(here / "run" / "run_config.yaml")]
    train_script().main([*recipe, "--output_dir", "run"])
    assert same_weights(here / "run", there / "run")
    texts = [pd.read_parquet(folder / "run" / "splits" / "test.parquet")["text"] for folder in (here, there)]
    pd.testing.assert_series_equal(*texts)
    monkeypatch.chdir(here)
    for same in ([*recipe, "--output_dir", "run"], [*fields, "--output_dir", "run"]):
        with pytest.raises(RecipeError, match="it holds a finished run of this config"):
            train_script().main(same)
    hub = {"model_name_or_path": "openai-community/gpt2", "dataset_name": "imdb", "train_file": None, "seed": 1}
    assert with_absolute_paths(hub) == hub
