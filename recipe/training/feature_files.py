"""The files of the feature cache: Arrow files of rows, written beside their place and renamed once complete."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from recipe.atomic import file_hash
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.trunk_pass import as_bytes, in_dtype, run_trunk

COLUMNS = datasets.Features({"key": datasets.Value("binary"), "hidden": datasets.Value("binary")})
ROWS_AT_ONCE = 64  # rows computed and written together: what is held in memory
MAX_BATCH = 1 << 30  # bytes computed and written together
SHARD_TOKENS = 250_000  # tokens a file (0.8 GB at GPT-2 small's width): what a killed run loses at most
KEEP_UNFINISHED = 24 * 60 * 60  # seconds; writing a file takes less
KEYS_SUFFIX, KEY = ".keys", np.dtype("V16")
WRITING_PREFIX = ".writing-"


def write_shards(
    model: GPT2LastTokenClassifier,
    sequences: dict[bytes, Sequence[int]],
    folder: Path,
    dtype: torch.dtype,
    depth: int,
    known: Mapping[bytes, torch.Tensor],
) -> None:
    """Run the trunk over sequences that come longest first, and add Arrow files of SHARD_TOKENS each.

    `known` are rows, of some sequences or none, that enter block `depth` in the same trunk: see run_trunk.
    """
    trunk, shards, room = in_dtype(model, dtype), [], 0
    for key, ids in sequences.items():
        if room < len(ids):
            shards.append([])
            room = SHARD_TOKENS
        shards[-1].append(key)
        room -= len(ids)
    for number, keys in enumerate(shards, start=1):
        part = f", part {number} of {len(shards)}" if len(shards) > 1 else ""
        desc = f"Running {f'blocks {depth} to {trunk.split_depth - 1}' if known else 'the trunk'} (texts{part})"
        write_shard(trunk, keys, sequences, folder, desc, depth, known)


def write_shard(
    trunk: GPT2LastTokenClassifier,
    keys: list[bytes],
    sequences: dict[bytes, Sequence[int]],
    folder: Path,
    desc: str,
    depth: int,
    known: Mapping[bytes, torch.Tensor],
) -> None:
    """Write one Arrow file: beside its place first, renamed once it is complete."""
    rows = datasets.Dataset.from_dict({"key": keys}, features=datasets.Features({"key": datasets.Value("binary")}))

    def compute(batch: dict[str, list[bytes]]) -> dict[str, list]:
        keys = batch["key"]
        hidden = run_trunk(trunk, [sequences[key] for key in keys], depth, [known.get(key) for key in keys])
        return {"hidden": [as_bytes(states) for states in hidden]}

    rows_at_once = ROWS_AT_ONCE if trunk.device.type == "cpu" else 8 * ROWS_AT_ONCE  # a GPU wants to be filled
    largest = len(sequences[keys[0]]) * trunk.config.n_embd * 4  # bytes; Arrow's binary arrays end at 2 GB
    rows_at_once = max(1, min(rows_at_once, MAX_BATCH // largest))
    with tempfile.TemporaryDirectory(dir=folder, prefix=WRITING_PREFIX) as temporary:
        path = Path(temporary) / "rows.arrow"
        rows.map(
            compute,
            batched=True,
            batch_size=rows_at_once,
            writer_batch_size=ROWS_AT_ONCE,
            features=COLUMNS,
            cache_file_name=str(path),
            load_from_cache_file=False,
            new_fingerprint="rows",  # the name is the key: nothing to gain from hashing the model once more
            desc=desc,
        )
        name = file_hash(path)
        np.array(keys, dtype=KEY).tofile(path.with_suffix(KEYS_SUFFIX))
        os.replace(path.with_suffix(KEYS_SUFFIX), folder / f"{name}{KEYS_SUFFIX}")
        os.replace(path, folder / f"{name}.arrow")


def remove_unfinished(folder: Path) -> None:
    """Remove files that killed runs were writing."""
    for path in folder.glob(f"{WRITING_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > KEEP_UNFINISHED:
                shutil.rmtree(path)
