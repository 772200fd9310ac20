"""The folder of the feature cache: what it holds, what it may hold, and which files go first."""

import contextlib
import json
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from recipe.atomic import TEMPORARY_PREFIX

DEFAULT_FOLDER = Path(HF_HOME) / "gpt2_trunk_features"
ABOUT_FILE = "about.json"
TRUNK = "[0-9a-f]" * 32  # the pattern of a trunk's folder
ROWS = f"{TRUNK}.arrow"  # and of a file in it
KEEP_UNFINISHED = 24 * 60 * 60  # seconds; writing a file takes less


def limit_of(folder: Path, when: str, max_gb: float | None) -> float:
    """Return how many bytes the cache may hold: max_gb, or half (with `on`, all) of what is free or its own."""
    if max_gb is not None:
        return max_gb * 1e9
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return (shutil.disk_usage(existing).free + bytes_held(folder)) / (1 if when == "on" else 2)


def list_caches(folder: Path = DEFAULT_FOLDER) -> Iterator[tuple[Path, dict, int]]:
    """Yield each trunk's folder, its description, and its size in bytes."""
    for about in sorted(folder.glob(f"{TRUNK}/{ABOUT_FILE}")):
        size = sum(size_and_age(path)[0] for path in about.parent.rglob("*"))
        fields = {}
        with contextlib.suppress(ValueError):  # of a damaged file, whose rows can be cleared all the same
            fields = json.loads(about.read_text(encoding="utf-8"))
        yield about.parent, fields, size


def files_of(folder: Path) -> list[Path]:
    """Return the files of all trunks' rows, unfinished ones too."""
    return [*folder.glob(f"{TRUNK}/{ROWS}"), *folder.glob(f"{TRUNK}/{TEMPORARY_PREFIX}*/*")]


def bytes_held(folder: Path) -> int:
    """Return the bytes that all trunks together hold."""
    return sum(size_and_age(path)[0] for path in files_of(folder))


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
    for path in sorted(files_of(folder), key=lambda path: -size_and_age(path)[1]):
        size, age = size_and_age(path)
        unfinished = path.parent.name.startswith(TEMPORARY_PREFIX)  # of a run that was killed, or one that is writing
        if age > KEEP_UNFINISHED if unfinished else held > limit and path not in used:
            held -= size
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # its folder goes too, if nothing but a description is left there
                if [left.name for left in path.parent.iterdir()] == [ABOUT_FILE]:
                    (path.parent / ABOUT_FILE).unlink()
                path.parent.rmdir()


def clear_caches(folder: Path = DEFAULT_FOLDER, unused_days: float = 0) -> int:
    """Remove the trunks' folders that were not used for so many days; return the bytes that this frees."""
    freed = 0
    for trunk, _, size in list(list_caches(folder)):
        if min(size_and_age(path)[1] for path in trunk.rglob("*")) >= unused_days * 86_400:
            shutil.rmtree(trunk)
            freed += size
    return freed
