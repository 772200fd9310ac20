"""Go on or refuse: what an output_dir holds, which of its checkpoints are whole, and whether a run may use it.

A run's folder holds `run_state.json` from its first step on: the resolved config, the number of processes, a hash of the
data, and whether the run has finished. A checkpoint holds `complete.json`, written last, with each file's hash.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import xxhash

from recipe.arguments import RecipeTrainingArguments
from recipe.data import TextSplits
from recipe.errors import RecipeError
from recipe.files import TEMPORARY_PREFIX, file_hash, write_json
from recipe.processes import wait_for_everyone

logger = logging.getLogger(__name__)

STATE_FILE = "run_state.json"
MARKER = "complete.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
SHOWN_DIFFERENCES = 5


def where_to_start(training_args: RecipeTrainingArguments, config: dict[str, Any]) -> str | None:
    """The checkpoint to go on from, or None for a start from scratch.

    The folder of an unfinished run of the same config goes on from its last whole checkpoint.

    Raises:
        RecipeError: the folder holds something else, and `overwrite_output_dir` does not allow to write over it.
    """
    folder = Path(training_args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"output_dir {folder} is a file: give a folder")
    if training_args.resume_from_checkpoint:
        return named_checkpoint(training_args)
    if training_args.overwrite_output_dir or is_empty(folder):
        return None
    state = read_state(folder)
    if state is None:
        raise RecipeError(f"output_dir {folder} is not empty: give another one, or pass --overwrite_output_dir")
    different = differences(state, config, training_args.world_size)
    if state["finished"] or different:
        kind = "a finished" if state["finished"] else "an unfinished"
        which = f"another config ({different})" if different else "this config"
        raise RecipeError(
            f"output_dir {folder} is not empty: it holds {kind} run of {which}: give another one, or pass"
            " --overwrite_output_dir to start from scratch"
        )
    if training_args.save_only_model:
        logger.info("%s: its checkpoints hold no optimizer (save_only_model): training starts over", folder)
        return None
    checkpoint = last_whole_checkpoint(folder)
    logger.info("%s: an unfinished run, which goes on from %s", folder, checkpoint or "its start")
    return checkpoint


def named_checkpoint(training_args: RecipeTrainingArguments) -> str:
    """What --resume_from_checkpoint names: a folder, or `last` (or true) for the last whole one of output_dir."""
    folder, checkpoint = Path(training_args.output_dir), training_args.resume_from_checkpoint
    if checkpoint.lower() in ("true", "last"):
        checkpoint = last_whole_checkpoint(folder)
        if checkpoint is None:
            raise RecipeError(f"output_dir {folder} holds no checkpoint to resume from: drop --resume_from_checkpoint")
    fault = fault_of(Path(checkpoint))
    if fault:
        raise RecipeError(f"resume_from_checkpoint: {checkpoint} is no whole checkpoint ({fault}): give another one")
    here = Path(checkpoint).resolve().parent == folder.resolve()
    if not here and not training_args.overwrite_output_dir and not is_empty(folder):
        raise RecipeError(f"output_dir {folder} is not empty: give another one, or pass --overwrite_output_dir")
    return checkpoint


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in it but what a killed run had not yet put into place."""
    return not folder.is_dir() or all(path.name.startswith(TEMPORARY_PREFIX) for path in folder.iterdir())


def read_state(folder: Path) -> dict[str, Any] | None:
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return {name: state[name] for name in ("finished", "processes", "data", "config")}
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"{path} cannot be read: pass --overwrite_output_dir to start from scratch") from error


def differences(state: dict[str, Any], config: dict[str, Any], processes: int) -> str:
    """What differs between a folder's run and this one, in one line; empty if nothing does."""
    there, here = (
        {**fields, "output_dir": str(Path(fields["output_dir"]).resolve()), "processes": count}  # runs/x is ./runs/x
        for fields, count in ((state["config"], state["processes"]), (config, processes))
    )
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    shown = [f"{name} {there.get(name)!r} there, {here.get(name)!r} here" for name in names[:SHOWN_DIFFERENCES]]
    return "; ".join(shown) + ("; ..." if len(names) > len(shown) else "")


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; says which ones are passed over."""
    for checkpoint in reversed(checkpoints_of(folder)):
        fault = fault_of(checkpoint) or fault_of_best(checkpoint)
        if fault is None:
            return str(checkpoint)
        logger.warning("%s is not whole (%s): passed over", checkpoint, fault)
    return None


def checkpoints_of(folder: Path) -> list[Path]:
    """By step, the last one last."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(CHECKPOINT.fullmatch(path.name)[1]))


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
    """Of the checkpoint that load_best_model_at_end would come back to; a whole one's own state names it."""
    best = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
    best = best and checkpoint.parent / Path(best).name
    fault = fault_of(best) if best else None
    return fault and f"{best}, the best so far, is not: {fault}"


def data_hash(splits: TextSplits) -> str:
    """Of every text and label, in order."""
    digest = xxhash.xxh3_128("\n".join(splits.label_names).encode())
    for frame in (splits.train, splits.validation, splits.test):
        digest.update(pd.util.hash_pandas_object(frame[["text", "label"]], index=False).to_numpy().tobytes())
    return digest.hexdigest()


def begin(training_args: RecipeTrainingArguments, config: dict[str, Any], data: str, checkpoint: str | None) -> None:
    """Clears what a killed or an older run left, and says in the folder what runs now.

    A finished model that is there stays until it is replaced.

    Raises:
        RecipeError: the run would go on with other data.
    """
    folder = Path(training_args.output_dir)
    ours = folder.is_dir() and (folder / STATE_FILE).is_file()
    if checkpoint and not training_args.resume_from_checkpoint and read_state(folder)["data"] != data:
        raise RecipeError(
            f"output_dir {folder} holds an unfinished run on other data: the files have changed since; pass"
            " --overwrite_output_dir to start from scratch"
        )
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path)
    for path in checkpoints_of(folder):
        stale = checkpoint is None and (ours or (path / "trainer_state.json").is_file())
        if stale or (ours and fault_of(path)):
            shutil.rmtree(path)
    processes = training_args.world_size
    write_json(folder / STATE_FILE, {"finished": False, "processes": processes, "data": data, "config": config})


def check_shared(folder: Path) -> None:
    """Every process reads checkpoints and the saved model, so each has to see what the main one writes."""
    wait_for_everyone()
    if not (folder / STATE_FILE).is_file():
        raise RecipeError(f"output_dir {folder} is not seen by all machines: take one on a disk that they share")


def finish(folder: Path) -> None:
    """Written after all else: from here on the folder is a finished run's."""
    write_json(folder / STATE_FILE, {**read_state(folder), "finished": True})
