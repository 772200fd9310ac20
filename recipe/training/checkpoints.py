"""Complete checkpoints: each holds `complete.json`, written last, with the hash of every file."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from recipe.atomic import file_hash, write_json
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

MARKER, WEIGHTS_FILE = "complete.json", "model.safetensors"
LAST = ("true", "last")  # as a name of a checkpoint: the folder's last complete one
CHECKPOINT = re.compile(r"checkpoint-\d+")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, complete or not, by step."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def last_complete_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, or None; log those that are passed over."""
    for checkpoint in reversed(list_checkpoints(folder)):
        reason = why_incomplete(checkpoint)
        if reason is None:
            state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            best = state["best_model_checkpoint"]  # which load_best_model_at_end would return to
            best = folder / Path(best).name if best else checkpoint
            if (reason := why_incomplete(best)) is None:
                return str(checkpoint)
            reason = f"{best}, the best so far, is incomplete: {reason}"
        logger.warning("%s is incomplete (%s): passed over", checkpoint, reason)
    return None


def complete_checkpoint(folder: Path, named: str | bool) -> str:
    """Return the named checkpoint, or the folder's last complete one; raise RecipeError if it is not complete or there is none."""
    if str(named).lower() in LAST:
        if (last := last_complete_checkpoint(folder)) is None:
            raise RecipeError(f"{folder} holds no complete checkpoint to resume from: drop resume_from_checkpoint")
        return last
    if reason := why_incomplete(Path(named)):
        raise RecipeError(f"{named} is no complete checkpoint ({reason}): resume from another one")
    return str(named)


def mark_complete(checkpoint: Path) -> None:
    """Write the marker, last of all."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    write_json(checkpoint / MARKER, {str(path.relative_to(checkpoint)): file_hash(path) for path in paths})


def why_incomplete(checkpoint: Path) -> str | None:
    """Return why a checkpoint is incomplete, or None if it is complete."""
    if not (checkpoint / MARKER).is_file():
        return f"no {MARKER}"
    try:
        hashes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except ValueError:
        return f"{MARKER} cannot be read"
    for name, expected in hashes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} is damaged"
    return None


def trained_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that train."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_trained(tensors: Mapping[str, torch.Tensor], checkpoint: Path, base: dict[str, str]) -> None:
    """Write a checkpoint's weights, with `base`, hashes of what they were trained on top of."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, checkpoint / WEIGHTS_FILE, metadata={"format": "pt", **base})


def load_trained(model: nn.Module, checkpoint: Path, base: dict[str, str]) -> None:
    """Load a checkpoint's weights, the trained ones or all, into the model.

    Raises:
        RecipeError: weights of another filter, or trained on top of another model or tokenizer.
    """
    with safe_open(checkpoint / WEIGHTS_FILE, "pt") as file:
        noted = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    here, there = set(trained_names(model)), set(state)
    wrong = sorted(here - there) or ([] if there == set(model.state_dict()) else sorted(there - here))
    if wrong:
        what = f"{wrong[0]} trains {'here' if wrong[0] in here else 'there'} alone"
        raise RecipeError(f"{checkpoint}: was saved with another filter: {what}: give the same `trainable`")
    for part, value in base.items():
        if part in noted and noted[part] != value:
            fix = "give the same model_name_or_path, with the files it had then"
            raise RecipeError(f"{checkpoint}: was trained on another {part.replace('_', ' ')}: {fix}")
    model.load_state_dict(state, strict=False)
