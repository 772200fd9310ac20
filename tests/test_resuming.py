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

from recipe.checkpoints import fault_of, last_whole_checkpoint, mark_whole
from recipe.errors import RecipeError
from recipe.parsing import parse_arguments
from recipe.preparing import prepare_run
from recipe.resuming import data_hash
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


LAUNCH = [f"{Path(sys.executable).parent}/accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml"]


@pytest.mark.parametrize(("launcher", "exit_code"), [([sys.executable], 143), (LAUNCH, -signal.SIGTERM)])
def test_sigterm_saves_says_so_and_the_same_command_goes_on(three_labels, tmp_path, launcher, exit_code):
    fields = ["--num_train_epochs", "20", "--per_device_train_batch_size", "4", "--save_strategy", "no"]
    fields += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--logging_steps", "1"]
    command = [*fields_of(NANO, three_labels, tmp_path / "stopped"), *FAST, *fields]
    script = [*launcher, "scripts/train.py", *command]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        script, cwd=ROOT, env=unbuffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if "'loss'" in line:  # in the middle of its training
            break
    process.terminate()
    _, errors = process.communicate()  # until the launcher's child has closed its end too
    assert process.returncode == exit_code, errors
    assert "Traceback" not in errors
    assert "SIGTERM: saved at step" in errors
    (checkpoint,) = (tmp_path / "stopped").glob("checkpoint-*")
    assert 0 < int(checkpoint.name.removeprefix("checkpoint-")) < 420
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    if launcher == LAUNCH:
        return
    train(*parse_arguments(command))
    train(*parse_arguments([*command, "--output_dir", str(tmp_path / "whole")]))
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")


class StopAt(TrainerCallback):
    """SIGTERM that comes at the beginning of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


STRATEGIES = {
    "epoch": ["--num_train_epochs", "3"],
    "steps": ["--max_steps", "14", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "4",
              "--save_steps", "4"],
    "patience": ["--num_train_epochs", "6", "--early_stopping_patience", "1", "--learning_rate", "0.03",
                 "--lr_scheduler_type", "constant"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "step"), [("epoch", 3), ("epoch", 5), ("steps", 9), ("steps", 13), ("patience", 8)]
)
def test_stopped_at_any_step_ends_with_the_same_weights(three_labels, tmp_path, monkeypatch, strategy, step):
    """84 texts in batches of 16: 6 steps an epoch, so step 5 is an epoch's last and 13 the last of all by max_steps."""
    fields = [*STRATEGIES[strategy], "--feature_cache_dir", str(tmp_path / "cache")]
    whole = run_training(three_labels, tmp_path / "whole", *fields)

    def with_stop(*args):
        trainer = make_trainer(*args)
        trainer.add_callback(StopAt(step))
        return trainer

    monkeypatch.setattr("recipe.training.make_trainer", with_stop)
    with pytest.raises(SystemExit) as stop:
        run_training(three_labels, tmp_path / "stopped", *fields)
    assert stop.value.code == 143
    monkeypatch.undo()
    assert run_training(three_labels, tmp_path / "stopped", *fields) == whole
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")


def unfinished(data: Path, folder: Path, *fields: str) -> None:
    """A folder as a run leaves it that was killed before it saved its model."""
    run_training(data, folder, *fields)
    state = json.loads((folder / "run_state.json").read_text())
    (folder / "run_state.json").write_text(json.dumps({**state, "finished": False}))
    (folder / "model.safetensors").unlink()


def test_a_checkpoint_that_is_not_whole_is_passed_over(three_labels, tmp_path, caplog):
    fields = ["--num_train_epochs", "3", "--save_total_limit", "3"]
    whole = run_training(three_labels, tmp_path / "whole", *fields)
    unfinished(three_labels, tmp_path / "x", *fields)
    caplog.set_level("INFO")
    newest = tmp_path / "x" / "checkpoint-18"
    optimizer = (newest / "optimizer.pt").read_bytes()
    (newest / "optimizer.pt").write_bytes(optimizer[: len(optimizer) // 2])
    (tmp_path / "x" / "checkpoint-12" / "complete.json").unlink()
    assert run_training(three_labels, tmp_path / "x", *fields) == whole
    assert "checkpoint-18 is not whole (optimizer.pt is damaged): passed over" in caplog.text
    assert "checkpoint-12 is not whole (no complete.json): passed over" in caplog.text
    assert f"goes on from {tmp_path / 'x' / 'checkpoint-6'}" in caplog.text
    assert same_weights(tmp_path / "whole", tmp_path / "x")


def test_a_checkpoint_without_its_best_one_is_passed_over(three_labels, tmp_path, caplog):
    ruinous = ["--learning_rate", "0.02", "--lr_scheduler_type", "constant"]
    run_training(three_labels, tmp_path / "x", "--num_train_epochs", "3", "--save_total_limit", "2", *ruinous)
    state = json.loads((tmp_path / "x" / "checkpoint-18" / "trainer_state.json").read_text())
    best = tmp_path / "x" / Path(state["best_model_checkpoint"]).name
    assert best.name != "checkpoint-18"
    (best / "config.json").unlink()
    assert last_whole_checkpoint(tmp_path / "x") is None
    assert f"{best}, the best so far, is not: config.json is missing" in caplog.text


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


def test_a_marker_knows_every_file(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.bin").write_bytes(b"aa")
    assert fault_of(tmp_path) == "no complete.json"
    mark_whole(tmp_path)
    assert fault_of(tmp_path) is None
    (tmp_path / "part" / "a.bin").write_bytes(b"ab")
    assert fault_of(tmp_path) == "part/a.bin is damaged"
    (tmp_path / "part" / "a.bin").unlink()
    assert fault_of(tmp_path) == "part/a.bin is missing"
    (tmp_path / "complete.json").write_text("{")
    assert fault_of(tmp_path) == "complete.json cannot be read"


def test_a_loss_that_is_not_finite_stops_before_the_step(three_labels, tmp_path):
    """A learning rate that is sound for an epoch, then weights are made infinite: step 7's loss is not a number."""
    output = tmp_path / "x"

    class Ruin(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 6:
                model.score.bias.data[0] = float("nan")

    arguments = parse_arguments([*fields_of(NANO, three_labels, output), *FAST, "--num_train_epochs", "2"])
    trainer = make_trainer(prepare_run(*arguments), arguments[0], arguments[2])
    trainer.add_callback(Ruin())
    with pytest.raises(
        RecipeError, match=r"the loss is nan at step 7: training stops.*lower learning_rate \(0.001 now\)"
    ):
        trainer.train()
    assert trainer.state.global_step == 6
    assert Path(last_whole_checkpoint(output)).name == "checkpoint-6"


def test_weights_that_are_not_finite_replace_nothing(three_labels, tmp_path):
    """Gradients may overflow though the loss did not; no later step is there to tell."""
    output = tmp_path / "x"

    class RuinTheLast(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 12:
                model.score.bias.data[0] = float("inf")

    arguments = parse_arguments([*fields_of(NANO, three_labels, output), *FAST, "--num_train_epochs", "2"])
    trainer = make_trainer(prepare_run(*arguments), arguments[0], arguments[2])
    trainer.add_callback(RuinTheLast())
    with pytest.raises(RecipeError, match="weights are no longer finite after step 12"):
        trainer.train()
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-6"]
    assert fault_of(output / "checkpoint-6") is None


def test_a_signal_to_the_whole_group_is_one(three_labels, tmp_path):
    """`timeout`, a scheduler or Ctrl-C: launcher and training get it both, and the training a second time."""
    fields = ["--num_train_epochs", "20", "--per_device_train_batch_size", "4", "--logging_steps", "1"]
    command = [*LAUNCH, "scripts/train.py", *fields_of(NANO, three_labels, tmp_path / "x"), *FAST, *fields]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    next(line for line in process.stdout if "'loss'" in line)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert "SIGTERM: saved at step" in errors
    assert last_whole_checkpoint(tmp_path / "x")


def test_a_run_that_patience_ended_stays_ended(three_labels, tmp_path):
    """Killed after its last checkpoint, before its model was saved."""
    fields = [*STRATEGIES["patience"], "--save_total_limit", "5"]
    whole = run_training(three_labels, tmp_path / "whole", *fields)
    unfinished(three_labels, tmp_path / "x", *fields)
    last = last_whole_checkpoint(tmp_path / "x")
    assert int(last.rpartition("-")[2]) < 36  # the first of six epochs that patience spared
    assert run_training(three_labels, tmp_path / "x", *fields) == whole
    assert last_whole_checkpoint(tmp_path / "x") == last


def test_after_sigterm_save_strategy_best_saves_what_is_not_best(three_labels, tmp_path, monkeypatch):
    fields = ["--num_train_epochs", "3", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "best"]
    fields += ["--metric_for_best_model", "loss", "--learning_rate", "1e-9"]

    def with_stop(*args):
        trainer = make_trainer(*args)
        trainer.add_callback(StopAt(7))
        return trainer

    monkeypatch.setattr("recipe.training.make_trainer", with_stop)
    with pytest.raises(SystemExit):
        run_training(three_labels, tmp_path / "x", *fields)
    assert Path(last_whole_checkpoint(tmp_path / "x")).name == "checkpoint-8"


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


def test_newer_checkpoints_than_the_named_one_are_set_aside(three_labels, tmp_path):
    fields = ["--num_train_epochs", "3", "--save_total_limit", "5"]
    whole = run_training(three_labels, tmp_path / "x", *fields)
    named = ["--resume_from_checkpoint", str(tmp_path / "x" / "checkpoint-6")]
    assert run_training(three_labels, tmp_path / "x", *fields, *named) == whole
    names = {path.name for path in (tmp_path / "x").iterdir() if path.is_dir()}
    assert names == {f"checkpoint-{step}" for step in (6, 12, 18)} | {
        f"replaced-checkpoint-{step}" for step in (12, 18)
    }


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
