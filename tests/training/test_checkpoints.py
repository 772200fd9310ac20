"""Checkpoints that are whole, and those that are not."""

import json
from pathlib import Path

from conftest import run_training, same_weights, unfinished

from recipe.training.checkpoints import fault_of, last_whole_checkpoint, mark_whole


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


def test_newer_checkpoints_than_the_named_one_are_set_aside(three_labels, tmp_path):
    fields = ["--num_train_epochs", "3", "--save_total_limit", "5"]
    whole = run_training(three_labels, tmp_path / "x", *fields)
    named = ["--resume_from_checkpoint", str(tmp_path / "x" / "checkpoint-6")]
    assert run_training(three_labels, tmp_path / "x", *fields, *named) == whole
    names = {path.name for path in (tmp_path / "x").iterdir() if path.is_dir()}
    assert names == {f"checkpoint-{step}" for step in (6, 12, 18)} | {
        f"replaced-checkpoint-{step}" for step in (12, 18)
    }
