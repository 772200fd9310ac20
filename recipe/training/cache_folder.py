"""The folder of the feature cache: what it holds, what it may hold, and which files go first."""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from recipe.atomic import TEMPORARY_PREFIX

DEFAULT_FOLDER = Path(HF_HOME) / "gpt2_trunk_features"
ABOUT_FILE = "about.json"
NAME = re.compile("[0-9a-f]{32}")  # of a trunk's folder, and of a file in it
KEEP_UNFINISHED = 24 * 60 * 60  # seconds; writing a file takes less


def limit_of(folder: Path, when: str, max_gb: float | None) -> float:
    """Return how many bytes the cache may hold: max_gb, or half (with `on`, all) of what is free or its own."""
    if max_gb is not None:
        return max_gb * 1e9
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return (shutil.disk_usage(existing).free + bytes_held(folder)) / (1 if when == "on" else 2)


def list_caches(folder: Path = DEFAULT_FOLDER) -> Iterator[tuple[Path, dict, int]]:
    """Yield each trunk's folder, its description, and its size in bytes."""
    for about in sorted(folder.glob(f"*/{ABOUT_FILE}")):
        if not NAME.fullmatch(about.parent.name):  # a folder of the user's
            continue
        try:
            fields = dict(json.loads(about.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            fields = {}
        yield about.parent, fields, sum(size_and_age(path)[0] for path in our_files(about.parent))


def bytes_held(folder: Path) -> int:
    """Return the bytes that all trunks together hold."""
    return sum(size for *_, size in list_caches(folder))


def our_files(folder: Path) -> list[Path]:
    """Return the files of a trunk's folder that we have written, unfinished ones too."""
    rows = [path for path in folder.glob("*.arrow") if NAME.fullmatch(path.stem)]
    return [path for path in (*rows, folder / ABOUT_FILE, *folder.glob(f"{TEMPORARY_PREFIX}*/*")) if path.is_file()]


def size_and_age(path: Path) -> tuple[int, float]:
    """Return a file's bytes, and the seconds since it was last used; zeros where another run has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        stat = path.stat()
        return stat.st_size, time.time() - stat.st_mtime
    return 0, 0.0


def evict_least_recent(folder: Path, limit: float, used: Collection[Path] = ()) -> None:
    """Remove rows' files of all trunks, least recently used first, until all hold at most `limit` bytes; `used` ones stay.

    A run that reads a removed file goes on: what it has mapped stays.
    """
    held = bytes_held(folder)
    files = [path for cache, *_ in list_caches(folder) for path in our_files(cache) if path.name != ABOUT_FILE]
    for path in sorted(files, key=lambda path: -size_and_age(path)[1]):
        size, age = size_and_age(path)
        if path.parent.name.startswith(TEMPORARY_PREFIX):  # unfinished: a run that was killed, or one that is writing
            goes = age > KEEP_UNFINISHED
        else:
            goes = held > limit and path not in used
        if goes:
            held -= size
            remove(path)


def clear_caches(folder: Path = DEFAULT_FOLDER, unused_days: float = 0) -> int:
    """Remove the trunks' folders that were not used for so many days; return the bytes that this frees."""
    freed = 0
    for path, _, size in list(list_caches(folder)):
        files = our_files(path)
        if min(size_and_age(file)[1] for file in files) >= unused_days * 86_400:
            for file in files:
                remove(file)
            freed += size
    return freed


def remove(path: Path) -> None:
    """Remove a file, and its folder if nothing but a description is left there."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if [left.name for left in path.parent.iterdir()] == [ABOUT_FILE]:
            (path.parent / ABOUT_FILE).unlink()
        path.parent.rmdir()
