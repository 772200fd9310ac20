"""SIGTERM, and patience: runs that stop before their end, and go on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FAST, NANO, ROOT, fields_of, run_training, same_weights, unfinished
from recipe.training.run import make_trainer, train
from transformers import TrainerCallback

from recipe.config import parse_arguments
from recipe.training.checkpoints import last_whole_checkpoint

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

    monkeypatch.setattr("recipe.training.run.make_trainer", with_stop)
    with pytest.raises(SystemExit) as stop:
        run_training(three_labels, tmp_path / "stopped", *fields)
    assert stop.value.code == 143
    monkeypatch.undo()
    assert run_training(three_labels, tmp_path / "stopped", *fields) == whole
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_after_sigterm_save_strategy_best_saves_what_is_not_best(three_labels, tmp_path, monkeypatch):
    fields = ["--num_train_epochs", "3", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "best"]
    fields += ["--metric_for_best_model", "loss", "--learning_rate", "1e-9"]

    def with_stop(*args):
        trainer = make_trainer(*args)
        trainer.add_callback(StopAt(7))
        return trainer

    monkeypatch.setattr("recipe.training.run.make_trainer", with_stop)
    with pytest.raises(SystemExit):
        run_training(three_labels, tmp_path / "x", *fields)
    assert Path(last_whole_checkpoint(tmp_path / "x")).name == "checkpoint-8"


def test_a_run_that_patience_ended_stays_ended(three_labels, tmp_path):
    """Killed after its last checkpoint, before its model was saved."""
    fields = [*STRATEGIES["patience"], "--save_total_limit", "5"]
    whole = run_training(three_labels, tmp_path / "whole", *fields)
    unfinished(three_labels, tmp_path / "x", *fields)
    last = last_whole_checkpoint(tmp_path / "x")
    assert int(last.rpartition("-")[2]) < 36  # the first of six epochs that patience spared
    assert run_training(three_labels, tmp_path / "x", *fields) == whole
    assert last_whole_checkpoint(tmp_path / "x") == last
