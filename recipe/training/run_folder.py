"""Go on or refuse: what an output_dir holds, and whether a run may use it.

A run's folder holds `run_state.json` from its first step on: the resolved config, the number of processes, a hash of the
data, and whether the run has finished.
"""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import xxhash
from filelock import FileLock, Timeout
from huggingface_hub.constants import HF_HOME

from recipe.arguments import RecipeTrainingArguments
from recipe.atomic import TEMPORARY_PREFIX, write_json
from recipe.data.dataset import TextSplits
from recipe.distributed import wait_for_everyone
from recipe.errors import RecipeError, one_line
from recipe.training.checkpoints import checkpoints_of, fault_of, last_whole_checkpoint, set_newer_aside

logger = logging.getLogger(__name__)

STATE_FILE = "run_state.json"
SHOWN_DIFFERENCES = 5
LOCKS: dict[str, FileLock] = {}  # held until this process ends, however it does


def where_to_start(training_args: RecipeTrainingArguments, config: dict[str, Any]) -> str | None:
    """The checkpoint to go on from, or None for a start from scratch.

    The folder of an unfinished run of the same config goes on from its last whole checkpoint.

    Raises:
        RecipeError: the folder cannot be used, another process trains in it, or it holds something else and
            `overwrite_output_dir` does not allow to write over it.
    """
    folder, named = Path(training_args.output_dir), training_args.resume_from_checkpoint
    check_writable(folder)
    lock(folder)
    state = None if training_args.overwrite_output_dir else read_state(folder)
    different = differences(state, config, training_args.world_size) if state else ""
    goes_on = state is not None and not state["finished"] and not different
    if named and not (goes_on and not lies_in(folder, named)):
        return named_checkpoint(training_args)
    if training_args.overwrite_output_dir or is_empty(folder):
        return None
    if state is None:
        raise RecipeError(f"output_dir {folder} is not empty: give another one, or pass --overwrite_output_dir")
    if not goes_on:
        kind = "a finished run" if state["finished"] else "an unfinished run"
        which = f"another config ({different})" if different else "this config"
        raise RecipeError(
            f"output_dir {folder} is not empty: it holds {kind} of {which}: give another one, or pass"
            " --overwrite_output_dir to start from scratch"
        )
    if training_args.save_only_model:
        logger.info("%s: its checkpoints hold no optimizer (save_only_model): training starts over", folder)
        return None
    checkpoint = last_whole_checkpoint(folder) or named
    logger.info("%s: an unfinished run, which goes on from %s", folder, checkpoint or "its start")
    return checkpoint


def check_writable(folder: Path) -> None:
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:
        raise RecipeError(f"output_dir {folder} cannot be used ({one_line(error)}): give another folder") from error
    if not there.is_dir():
        raise RecipeError(f"output_dir {folder}: {there} is a file: give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RecipeError(f"output_dir {folder}: {there} cannot be written to: give another folder")


def lock(folder: Path) -> None:
    """Keeps a second process of this machine from training in the folder; a killed one's lock goes with it.

    Where no lock can be written, there is none.
    """
    key = str(folder.resolve())
    if key in LOCKS:
        return
    path = Path(HF_HOME) / "gpt2_run_locks" / f"{xxhash.xxh3_128_hexdigest(key.encode())}.lock"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        LOCKS[key] = FileLock(path)
        try:
            LOCKS[key].acquire(timeout=0)
        except Timeout as error:
            del LOCKS[key]
            raise RecipeError(f"output_dir {folder}: another process trains there: wait for it, or stop it") from error


def lies_in(folder: Path, checkpoint: str) -> bool:
    return checkpoint.lower() in ("true", "last") or Path(checkpoint).resolve().parent == folder.resolve()


def named_checkpoint(training_args: RecipeTrainingArguments) -> str:
    """What --resume_from_checkpoint names: a folder, or `last` (or true) for the last whole one of output_dir."""
    folder, checkpoint = Path(training_args.output_dir), training_args.resume_from_checkpoint
    here = lies_in(folder, checkpoint)
    if checkpoint.lower() in ("true", "last"):
        checkpoint = last_whole_checkpoint(folder)
        if checkpoint is None:
            raise RecipeError(f"output_dir {folder} holds no checkpoint to resume from: drop --resume_from_checkpoint")
    fault = fault_of(Path(checkpoint))
    if fault:
        raise RecipeError(f"resume_from_checkpoint: {checkpoint} is no whole checkpoint ({fault}): give another one")
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


def data_hash(splits: TextSplits) -> str:
    """Of every text and label, in order."""
    digest = xxhash.xxh3_128("\n".join(splits.label_names).encode())
    for frame in (splits.train, splits.validation, splits.test):
        digest.update(pd.util.hash_pandas_object(frame[["text", "label"]], index=False).to_numpy().tobytes())
    return digest.hexdigest()


def check_data(training_args: RecipeTrainingArguments, data: str, checkpoint: str | None) -> None:
    """Refuses to go on by itself with other data than before; where a checkpoint is named, that is the user's choice."""
    folder = Path(training_args.output_dir)
    if checkpoint and not training_args.resume_from_checkpoint and read_state(folder)["data"] != data:
        raise RecipeError(
            f"output_dir {folder} holds an unfinished run on other data: the files have changed since; pass"
            " --overwrite_output_dir to start from scratch"
        )


def begin(training_args: RecipeTrainingArguments, config: dict[str, Any], data: str, checkpoint: str | None) -> None:
    """Clears what a killed or an older run left, and says in the folder what runs now.

    A finished model that is there stays until it is replaced.
    """
    folder = Path(training_args.output_dir)
    ours = (folder / STATE_FILE).is_file()
    try:
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path)
        for path in checkpoints_of(folder):
            stale = checkpoint is None and (ours or (path / "trainer_state.json").is_file())
            if stale or (ours and fault_of(path)):
                shutil.rmtree(path)
        if checkpoint is not None:
            set_newer_aside(folder, Path(checkpoint))
        processes = training_args.world_size
        write_json(folder / STATE_FILE, {"finished": False, "processes": processes, "data": data, "config": config})
    except OSError as error:
        raise RecipeError(
            f"output_dir {folder} cannot be written to ({one_line(error)}): give another folder"
        ) from error


def check_shared(folder: Path) -> None:
    """Every process reads checkpoints and the saved model, so each has to see what the main one writes."""
    wait_for_everyone()
    if not (folder / STATE_FILE).is_file():
        raise RecipeError(f"output_dir {folder} is not seen by all machines: take one on a disk that they share")


def finish(folder: Path) -> None:
    """Written after all else: from here on the folder is a finished run's."""
    write_json(folder / STATE_FILE, {**read_state(folder), "finished": True})
