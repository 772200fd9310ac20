"""Which checkpoints are whole: each holds `complete.json`, written last, with the hash of every file."""

import json
import logging
import re
import shutil
from pathlib import Path

from recipe.atomic import file_hash, write_json

logger = logging.getLogger(__name__)

MARKER = "complete.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoints_of(folder: Path) -> list[Path]:
    """By step, the last one last."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(CHECKPOINT.fullmatch(checkpoint.name)[1])


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; says which ones are passed over."""
    for checkpoint in reversed(checkpoints_of(folder)):
        fault = fault_of(checkpoint) or fault_of_best(checkpoint)
        if fault is None:
            return str(checkpoint)
        logger.warning("%s is not whole (%s): passed over", checkpoint, fault)
    return None


def mark_whole(checkpoint: Path) -> None:
    """Writes the marker, last of all."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    write_json(checkpoint / MARKER, {str(path.relative_to(checkpoint)): file_hash(path) for path in files})


def fault_of(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole; None if it is."""
    try:
        hashes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {MARKER}"
    except (ValueError, OSError):
        return f"{MARKER} cannot be read"
    for name, expected in hashes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} is damaged"
    return None


def fault_of_best(checkpoint: Path) -> str | None:
    """Of the checkpoint that load_best_model_at_end would come back to; a whole one's own state names it.

    It lies beside, or, where a run has gone on from another folder's checkpoint, still there.
    """
    recorded = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
    if not recorded:
        return None
    beside = checkpoint.parent / Path(recorded).name
    best = beside if beside.is_dir() else Path(recorded)
    fault = fault_of(best)
    return fault and f"{best}, the best so far, is not: {fault}"


def set_newer_aside(folder: Path, checkpoint: Path) -> None:
    """Renames checkpoints after the one that training goes on from: they are of steps that are taken anew."""
    for path in checkpoints_of(folder):
        if checkpoint.resolve().parent == folder.resolve() and step_of(path) > step_of(checkpoint):
            aside = folder / f"replaced-{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logger.warning("%s is newer than %s, which training goes on from: renamed to %s", path, checkpoint, aside)
