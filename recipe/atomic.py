"""Files that are written completely or not at all, and the hash that tells a damaged one."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

TEMPORARY_PREFIX = ".recipe-saving-"


def write_files(folder: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Run `write` on a temporary folder inside `folder`, then move what it wrote into place, file by file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY_PREFIX) as temporary:
        write(Path(temporary))
        for path in sorted(Path(temporary).iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8 for writing, line ends as they are; it is in its place once the block ends, or not at all.

    What a symbolic link leads to is replaced, and not the link.
    """
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY_PREFIX) as temporary:
        written = Path(temporary) / "content"
        with written.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(written, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, line ends as they are."""
    write_files(path.parent, lambda folder: (folder / path.name).write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, with null in place of NaN and infinities."""
    write_text(path, json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Return a value with None in place of NaN and infinities, which Python writes into JSON, though it has none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_hash(path: Path) -> str:
    """Return xxh3 of the file's bytes, 128 bits in hex: it tells damage, not malice."""
    import xxhash

    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
