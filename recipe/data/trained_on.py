"""Training texts of a saved model (optional): their hashes, which tell whether a later test is on texts of training.

A run's folder holds `trained_on.npy`; a run that starts from that model adds its own texts.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from recipe.atomic import write_files
from recipe.data.texts import hash_texts
from recipe.errors import as_recipe_error

logger = logging.getLogger(__name__)

TRAINED_ON_FILE = "trained_on.npy"


def read_trained_on(model_dir: str | os.PathLike) -> np.ndarray:
    """Return uint64 [N], sorted: hashes of the texts that the model, and those it started from, were trained on.

    Empty for a model that no run of ours saved.
    """
    path = Path(model_dir).expanduser() / TRAINED_ON_FILE
    if not path.is_file():
        return np.array([], dtype=np.uint64)
    fix = "remove it: an overlap with earlier trainings will then not be detected"
    with as_recipe_error(Exception, f"{path}: cannot be read", fix):  # numpy raises whatever it meets
        hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ValueError(f"it holds {hashes.dtype} of {hashes.ndim} dimensions")
        return np.array(hashes)


def save_trained_on(run_dir: str | os.PathLike, texts: Iterable[str], base_model: str | os.PathLike) -> None:
    """Write the hashes of the training texts, and those of the model that training started from."""
    hashes = np.union1d(hash_texts(texts), read_trained_on(base_model))
    write_files(Path(run_dir), lambda folder: np.save(folder / TRAINED_ON_FILE, hashes))


def count_trained_on(texts: Iterable[str], model_dir: str | os.PathLike) -> int:
    """Return how many of the texts the model was trained on."""
    return int(np.isin(hash_texts(texts), read_trained_on(model_dir)).sum())


def warn_about_trained_texts(texts: Sequence[str], model_dir: str | os.PathLike) -> None:
    """Log a warning if a test is on texts that the model was trained on."""
    if count := count_trained_on(texts, model_dir):
        problem = "%d of the %d test texts were trained on, by %s or the model it started from, so the test figures are"
        logger.warning(problem + " optimistic: give others as --test_file", count, len(texts), model_dir)
