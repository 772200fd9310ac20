"""Files written whole or not at all, and known by the hash of their bytes."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

TEMPORARY_PREFIX = ".saving-"


def save_whole(folder: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Runs `write` on a temporary folder inside `folder`, then moves what it wrote into place, file by file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY_PREFIX) as temporary:
        write(Path(temporary))
        for path in sorted(Path(temporary).iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)


def write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    save_whole(path.parent, lambda folder: (folder / path.name).write_text(text, encoding="utf-8"))


def file_hash(path: Path) -> str:
    """xxh3 of the file's bytes, 128 bits in hex: tells damage, not malice."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
