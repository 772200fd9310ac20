"""Which texts a saved model was trained on, by their hashes: so that no later test on them is taken for a fair one.

A run's folder holds `trained_on.npy`, and what goes on from it adds its own.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from recipe.atomic import save_whole

SEEN_FILE = "trained_on.npy"


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """uint64 [N], the same on every machine."""
    return pd.util.hash_array(np.array(list(texts), dtype=object), categorize=False)


def read_seen(folder: str | os.PathLike) -> np.ndarray:
    """uint64 [N], sorted: hashes of the texts that the folder's model, and those before it, were trained on; none if unknown."""
    path = Path(folder).expanduser() / SEEN_FILE
    return np.load(path, allow_pickle=False) if path.is_file() else np.array([], dtype=np.uint64)


def save_seen(folder: Path, texts: Iterable[str], before: str | os.PathLike) -> None:
    """Writes the hashes of the training texts, and those of the model that training started from."""
    hashes = np.union1d(hash_texts(texts), read_seen(before))
    save_whole(folder, lambda temporary: np.save(temporary / SEEN_FILE, hashes))


def count_seen(texts: Iterable[str], folder: str | os.PathLike) -> int:
    """How many of the texts the folder's model was trained on."""
    return int(np.isin(hash_texts(texts), read_seen(folder)).sum())
