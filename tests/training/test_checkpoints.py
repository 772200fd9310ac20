"""Complete checkpoints, and incomplete ones, which are passed over."""

import json

import pytest

from recipe.training.checkpoints import (
    last_complete_checkpoint,
    mark_complete,
    why_incomplete,
)


@pytest.fixture
def folder(tmp_path):
    """Three complete checkpoints; the best is the first."""
    for step in (6, 12, 18):
        checkpoint = tmp_path / f"checkpoint-{step}"
        (checkpoint / "part").mkdir(parents=True)
        (checkpoint / "part" / "weights.bin").write_bytes(b"weights")
        state = {"best_model_checkpoint": str(tmp_path / "checkpoint-6")}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        mark_complete(checkpoint)
    return tmp_path


def test_marker_lists_every_file(folder):
    checkpoint = folder / "checkpoint-6"
    assert why_incomplete(checkpoint) is None
    (checkpoint / "part" / "weights.bin").write_bytes(b"weig")
    assert why_incomplete(checkpoint) == "part/weights.bin is damaged"
    (checkpoint / "part" / "weights.bin").unlink()
    assert why_incomplete(checkpoint) == "part/weights.bin is missing"
    (checkpoint / "complete.json").unlink()
    assert why_incomplete(checkpoint) == "no complete.json"


def test_last_complete_checkpoint_passes_incomplete_ones_over(folder, caplog):
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-18")
    (folder / "checkpoint-18" / "part" / "weights.bin").write_bytes(b"")
    (folder / "checkpoint-12" / "complete.json").unlink()
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-6")
    assert "checkpoint-18 is incomplete (part/weights.bin is damaged): passed over" in caplog.text
    assert "checkpoint-12 is incomplete (no complete.json): passed over" in caplog.text


def test_checkpoint_without_its_best_one_is_passed_over(folder, caplog):
    (folder / "checkpoint-6" / "part" / "weights.bin").unlink()
    assert last_complete_checkpoint(folder) is None
    assert "checkpoint-6, the best so far, is incomplete: part/weights.bin is missing" in caplog.text
