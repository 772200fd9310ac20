"""SIGTERM from outside: to a training, to its launcher, to their process group."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FAST, ROOT, fields_of, tiny_folder

from recipe.training.checkpoints import last_complete_checkpoint

LAUNCH = [f"{Path(sys.executable).parent}/accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml"]


def send_to_process(process: subprocess.Popen) -> None:
    process.terminate()


def send_to_group(process: subprocess.Popen) -> None:
    """As `timeout`, a scheduler or Ctrl-C do: launcher and training both get it, and the training a second time."""
    os.killpg(process.pid, signal.SIGTERM)


def start_training(launcher: list[str], data: Path, folder: Path) -> subprocess.Popen:
    """Start a long training, and return once it is in the middle of it."""
    fields = ["--num_train_epochs", "2000", "--per_device_train_batch_size", "4", "--save_strategy", "no"]
    fields += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--logging_steps", "1"]
    command = [*launcher, "scripts/train.py", *fields_of(tiny_folder(), data, folder), *FAST, *fields]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if "'loss'" in line:
            break
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "send", "exit_code"),
    [
        ([sys.executable], send_to_process, 143),
        (LAUNCH, send_to_process, -signal.SIGTERM),
        (LAUNCH, send_to_group, -signal.SIGTERM),
    ],
)
def test_sigterm_saves_a_complete_checkpoint(three_labels, tmp_path, launcher, send, exit_code):
    process = start_training(launcher, three_labels, tmp_path / "x")
    send(process)
    _, errors = process.communicate()  # until the launcher's child has closed its end too
    assert process.returncode == exit_code, errors
    assert "Traceback" not in errors
    assert "SIGTERM: saved at step" in errors
    assert last_complete_checkpoint(tmp_path / "x")
    assert not (tmp_path / "x" / "model.safetensors").exists()


@pytest.mark.slow
def test_processes_do_not_outlive_a_launcher_that_is_killed(three_labels, tmp_path):
    launcher = [*LAUNCH[:2], "--config_file", "accelerate_configs/multi_cpu.yaml"]
    process = start_training(launcher, three_labels, tmp_path / "x")
    process.kill()
    _, errors = process.communicate(timeout=60)  # until both of its children have closed their ends
    assert "SIGTERM: stopping after this step" in errors
    assert last_complete_checkpoint(tmp_path / "x")
