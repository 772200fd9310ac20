"""The output folder of a run: start in it, resume what it holds, or refuse it.

From its first step on a run's folder holds `run_state.json`: the resolved config, the number of processes, and whether the
run has finished; and its splits (see recipe/data/dataset.py).
"""

import glob
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import yaml
from accelerate import PartialState
from filelock import FileLock, Timeout

from recipe.arguments import RecipeTrainingArguments
from recipe.atomic import TEMPORARY_PREFIX, write_json, write_text
from recipe.data.dataset import load_saved_splits, same_texts, save_splits
from recipe.data.run_config import RUN_CONFIG_FILE
from recipe.distributed import check_world_size, on_main_process
from recipe.errors import RecipeError, as_recipe_error
from recipe.training.checkpoints import (
    complete_checkpoint,
    last_complete_checkpoint,
    list_checkpoints,
    step_of,
    why_incomplete,
)

logger = logging.getLogger(__name__)

STATE_FILE, LOCK_FILE = "run_state.json", ".run.lock"
UNFINISHED = "unfinished"  # folder of the current run's splits, until its model is saved and they go beside it
INPUTS = ("model_name_or_path", "dataset_name", "train_file", "validation_file", "test_file")
FOUND = ("text_column", "label_column")
SHOWN_DIFFERENCES = 5


class RunFolder:
    """`output_dir`: checked when it is opened, changed when the run starts, complete when it is saved and finished.

    `checkpoint` is what training resumes from, or None. The folder of an unfinished run of the same config resumes from
    its last complete checkpoint by itself. With several processes the main one decides and writes.

    Raises:
        RecipeError: the folder cannot be used, another process trains in it, or it holds something else and
            `overwrite_output_dir` does not allow to write over it.
    """

    def __init__(self, training_args: RecipeTrainingArguments, config: dict[str, Any]):
        check_world_size(training_args.world_size)
        self.path, self.args, self.config = Path(training_args.output_dir), training_args, config
        self.lock: FileLock | None = None
        self.checkpoint: str | None = on_main_process(self._find_checkpoint)
        self.resumes_by_itself = self.checkpoint is not None and not training_args.resume_from_checkpoint
        if self.resumes_by_itself:  # early stopping continues its count
            training_args.restore_callback_states_from_checkpoint = True

    def start(self, splits: datasets.DatasetDict) -> None:
        """Remove what a killed or older run left, and record the run that starts; a finished model stays until it is replaced.

        Raises:
            RecipeError: an unfinished run on other texts, or a folder that not all machines see.
        """
        on_main_process(self._start, splits)
        PartialState().wait_for_everyone()
        if not (self.path / STATE_FILE).is_file():  # every process reads checkpoints and the saved model
            raise RecipeError(f"output_dir {self.path} is not visible to all machines: take one on a shared disk")

    def save(self, splits: datasets.DatasetDict) -> None:
        """Write what belongs to the saved model: its splits and run_config.yaml."""
        if PartialState().is_main_process:
            columns = getattr(splits, "summary", {}).get("columns", {})  # as they were found
            config = {**with_absolute_paths(self.config), **columns}
            config = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            write_text(self.path / RUN_CONFIG_FILE, config)
            save_splits(splits, self.path)
            shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)

    def finish(self) -> None:
        """Mark the run as finished: called after everything else."""
        if PartialState().is_main_process:
            self._write_state(True)
            (self.path / LOCK_FILE).unlink(missing_ok=True)
            self.lock.release()

    def _find_checkpoint(self) -> str | None:
        folder, named, overwrite = self.path, self.args.resume_from_checkpoint, self.args.overwrite_output_dir
        check_writable(folder)
        if (folder / STATE_FILE).is_file():  # a folder that holds something else is not written to before it is taken
            self.lock = lock(folder)
        if named:
            checkpoint = complete_checkpoint(folder, named)
            if Path(checkpoint).resolve().parent != folder.resolve():
                raise RecipeError(f"resume_from_checkpoint is {named}, not in output_dir {folder}: give its own folder")
            return checkpoint
        if overwrite or is_empty(folder):
            return None
        fix = "give another one, or pass --overwrite_output_dir to start from scratch"
        if (state := read_state(folder)) is None:
            raise RecipeError(f"output_dir {folder} is not empty: {fix}")
        different = differences(state, self.config, self.args.world_size)
        if state["finished"] or different:
            kind = "a finished run" if state["finished"] else "an unfinished run"
            holds = f"it holds {kind} of {f'another config ({different})' if different else 'this config'}"
            raise RecipeError(f"output_dir {folder} is not empty: {holds}: {fix}")
        if self.args.save_only_model:
            logger.info("%s: its checkpoints hold no optimizer (save_only_model): training starts over", folder)
            return None
        checkpoint = last_complete_checkpoint(folder)
        logger.info("%s: an unfinished run, which resumes from %s", folder, checkpoint or "its start")
        return checkpoint

    def _start(self, splits: datasets.DatasetDict) -> None:
        unfinished = self.path / UNFINISHED
        saved = unfinished if unfinished.is_dir() else self.path
        if self.resumes_by_itself and not same_texts(load_saved_splits(saved), splits):
            raise RecipeError(
                f"output_dir {self.path} holds an unfinished run on other data: the files have changed since; pass"
                " --overwrite_output_dir to start from scratch"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = self.lock or lock(self.path)
        for path in self.path.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path)
        last = -1 if self.checkpoint is None else step_of(Path(self.checkpoint))
        for path in list_checkpoints(self.path):
            if self.checkpoint is None or why_incomplete(path):
                shutil.rmtree(path)
            elif step_of(path) > last:  # its steps are taken again
                logger.warning("%s is newer than %s, which training resumes from: renamed", path, self.checkpoint)
                shutil.rmtree(aside := self.path / f"replaced-{path.name}", ignore_errors=True)
                path.rename(aside)
        self._write_state(False)  # first, so that a kill leaves a folder that is known
        save_splits(splits, unfinished)

    def _write_state(self, finished: bool) -> None:
        processes = self.args.world_size
        write_json(self.path / STATE_FILE, {"finished": finished, "processes": processes, "config": self.config})


def check_writable(folder: Path) -> None:
    """Raise RecipeError for a path that cannot become a folder to write to."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise RecipeError(f"output_dir {folder}: {existing} is no folder that can be written to: give another one")


def lock(folder: Path) -> FileLock:
    """Keep a second process from training in the folder; a killed one's lock is released with it."""
    held = FileLock(folder / LOCK_FILE, is_singleton=True)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise RecipeError(f"output_dir {folder}: another process trains there: wait for it, or stop it") from error
    return held


def is_empty(folder: Path) -> bool:
    """Return whether the folder holds nothing but a killed run's temporary files, and its lock."""
    ours = (LOCK_FILE, TEMPORARY_PREFIX)
    return not folder.is_dir() or all(path.name.startswith(ours) for path in folder.iterdir())


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the content of run_state.json, or None."""
    path = folder / STATE_FILE
    with as_recipe_error(ValueError, f"{path}: cannot be read", "pass --overwrite_output_dir to start from scratch"):
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config with the files and folders that it reads as absolute paths: it then holds in any folder.

    What is not there, such as a name on the Hub, stays as it is. `output_dir` does too: what is written goes where one is.
    """

    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(item) for item in value]
        if value is None:
            return None
        if os.path.exists(value):
            return os.path.abspath(value)
        matches = glob.has_magic(value) and glob.glob(value, recursive=True)
        return os.path.join(glob.escape(os.getcwd()), value) if matches else value

    return {name: absolute(value) if name in INPUTS else value for name, value in config.items()}


def differences(state: dict[str, Any], config: dict[str, Any], processes: int) -> str:
    """Name the differences between a folder's run and this one, in one line; empty if there are none."""
    old, new = (  # runs/x is ./runs/x
        {**with_absolute_paths(fields), "output_dir": str(Path(fields["output_dir"]).resolve()), "processes": count}
        for fields, count in ((state["config"], state["processes"]), (config, processes))
    )
    for name in FOUND:  # run_config.yaml names a column that the command has left to be found
        if name not in old or name not in new:
            old.pop(name, None), new.pop(name, None)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [f"{name} {old.get(name)!r} there, {new.get(name)!r} here" for name in names[:SHOWN_DIFFERENCES]]
    return "; ".join(shown) + ("; ..." if len(names) > len(shown) else "")
