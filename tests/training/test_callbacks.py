"""SIGTERM and patience: runs that stop before their end, and resume."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import run_training, run_unfinished, same_weights
from transformers import TrainerCallback

from recipe.errors import stop_on_sigterm
from recipe.training.checkpoints import last_complete_checkpoint
from recipe.training.trainer import RecipeTrainer

pytestmark = pytest.mark.launch


class StopAt(TrainerCallback):
    """SIGTERM at the beginning of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def stop_at(monkeypatch):
    """Have the next training get SIGTERM at a step, and exit with 143."""

    def run(step, *arguments):
        class Stopped(RecipeTrainer):
            def __init__(self, *args, **keywords):
                super().__init__(*args, **keywords)
                self.add_callback(StopAt(step))

        with monkeypatch.context() as patched:
            patched.setattr("recipe.training.steps.RecipeTrainer", Stopped)
            with pytest.raises(SystemExit) as stop:
                run_training(*arguments)
        assert stop.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    return run


STRATEGIES = {
    "epoch": ["--num_train_epochs", "2"],
    "steps": ["--max_steps", "14", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "4",
              "--save_steps", "4"],
    "patience": ["--num_train_epochs", "6", "--early_stopping_patience", "1", "--learning_rate", "0.1",
                 "--lr_scheduler_type", "constant"],
}  # fmt: skip


@pytest.mark.parametrize(("strategy", "step"), [("epoch", 5), ("steps", 13), ("patience", 8)])
def test_stopped_at_any_step_ends_with_the_same_weights(three_labels, tmp_path, stop_at, strategy, step):
    """84 texts in batches of 16: 6 steps an epoch, so step 5 is an epoch's last and 13 the last of all by max_steps."""
    fields = [*STRATEGIES[strategy], "--feature_cache_dir", str(tmp_path / "cache")]
    straight = run_training(three_labels, tmp_path / "straight", *fields)
    stop_at(step, three_labels, tmp_path / "stopped", *fields)
    assert run_training(three_labels, tmp_path / "stopped", *fields) == straight
    assert same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_after_sigterm_save_strategy_best_saves_another_than_the_best(three_labels, tmp_path, stop_at):
    fields = ["--num_train_epochs", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "best"]
    fields += ["--metric_for_best_model", "loss", "--learning_rate", "1e-9"]
    stop_at(7, three_labels, tmp_path / "x", *fields)
    assert Path(last_complete_checkpoint(tmp_path / "x")).name == "checkpoint-8"


def test_run_that_patience_ended_stays_ended(three_labels, tmp_path):
    """Killed after its last checkpoint, before its model was saved."""
    fields = [*STRATEGIES["patience"], "--save_total_limit", "5"]
    straight = run_training(three_labels, tmp_path / "straight", *fields)
    run_unfinished(three_labels, tmp_path / "x", *fields)
    last = last_complete_checkpoint(tmp_path / "x")
    assert int(last.rpartition("-")[2]) < 36  # the first of six epochs that patience spared
    assert run_training(three_labels, tmp_path / "x", *fields) == straight
    assert last_complete_checkpoint(tmp_path / "x") == last


def test_the_loss_of_every_epoch_is_logged_unless_none_is(three_labels, tmp_path):
    """Six steps an epoch, and the loss is due every 50."""
    run_training(three_labels, tmp_path / "run", "--num_train_epochs", "2", "--logging_steps", "50")
    run_training(three_labels, tmp_path / "silent", "--num_train_epochs", "2", "--logging_strategy", "no")
    for name, steps in (("run", [6, 12]), ("silent", [])):
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        assert [entry["step"] for entry in history if "loss" in entry] == steps


def test_handler_is_removed_after_an_error(three_labels, tmp_path):
    with pytest.raises(ValueError, match="the loss is"):
        run_training(three_labels, tmp_path / "x", "--learning_rate", "1e30", "--max_grad_norm", "0")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_while_the_trunk_runs_ends_at_once(three_labels, tmp_path, monkeypatch):
    def terminated(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came too late")

    monkeypatch.setattr("recipe.training.features.run_trunk", terminated)
    before = signal.signal(signal.SIGTERM, stop_on_sigterm)  # as run_script does
    try:
        with pytest.raises(SystemExit) as stop:
            run_training(
                three_labels, tmp_path / "x", "--feature_cache", "on", "--feature_cache_dir", str(tmp_path / "c")
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
