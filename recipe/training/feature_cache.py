"""The feature cache: the frozen trunk's hidden states on disk, computed once per text, whatever run comes next.

A cache folder holds one folder a trunk, named by a hash of everything a hidden state depends on except the text: weights,
split depth, dtype, and the config's settings of the computation. It holds Arrow files, each named by the hash of its own
bytes, so a truncated or damaged file cannot pass for a complete one, and beside each its keys. A row is one token sequence:
its hash (the key) and its hidden states as bytes. Runs add the rows that are missing and never change a file.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
import transformers
import xxhash
from accelerate import PartialState
from huggingface_hub.constants import HF_HOME
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_utils import has_length

from recipe.atomic import file_hash, write_json
from recipe.distributed import on_main_process, shares, wait_for_everyone
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.trunk_pass import as_bytes, hash_parameters, in_dtype, run_trunk

logger = logging.getLogger(__name__)
# Rows are read only, and views of read-only memory.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

DEFAULT_FOLDER = Path(HF_HOME) / "gpt2_trunk_features"
FORMAT = 2  # of the rows; a change makes old caches unknown
COLUMNS = datasets.Features({"key": datasets.Value("binary"), "hidden": datasets.Value("binary")})
ROWS_AT_ONCE = 64  # rows computed and written together: what is held in memory
MAX_BATCH = 1 << 30  # bytes computed and written together
SHARD_TOKENS = 250_000  # tokens a file (0.8 GB at GPT-2 small's width): what a killed run loses at most
KEEP_UNFINISHED = 24 * 60 * 60  # seconds; writing a file takes less
ABOUT_FILE = "about.json"
KEYS_SUFFIX, KEY = ".keys", np.dtype("V16")
WRITING_PREFIX = ".writing-"


class TrunkFeatures:
    """Hidden states at the entrance of the first trainable block, by token sequence.

    Rows are views of memory-mapped files, so that a copy sent to a dataloader worker carries the files' names alone.
    """

    def __init__(self, width: int, dtype: torch.dtype):
        self.width, self.dtype = width, dtype
        self.rows: dict[bytes, tuple[pa.ChunkedArray, int]] = {}  # a file's column of bytes, and the row in it
        self.paths: set[Path] = set()
        self.passed: set[Path] = set()  # files without a wanted row
        self.on_device: dict[bytes, torch.Tensor] = {}

    def read(self, folder: Path, wanted: Collection[bytes], verify: bool = True) -> None:
        """Find the wanted rows in the folder's files, those of earlier calls apart.

        A file with wanted rows whose bytes are not those that its name was made from is reported and removed, to be
        computed again. Of the others nothing but the keys is read.
        """
        for path in sorted(set(folder.glob("*.arrow")) - self.paths - self.passed):
            with contextlib.suppress(FileNotFoundError):  # another process was first to remove it
                keys = np.fromfile(path.with_suffix(KEYS_SUFFIX), dtype=KEY)
                if not any(key in wanted for key in keys.tolist()):
                    self.passed.add(path)
                elif verify and file_hash(path) != path.stem:
                    logger.warning("%s is damaged: removed, its rows are computed again", path)
                    path.unlink(missing_ok=True)
                else:
                    self.index(path, wanted)

    def index(self, path: Path, wanted: Collection[bytes] | None = None) -> None:
        """Note where the file's rows are: the wanted ones, or all."""
        table = datasets.Dataset.from_file(str(path)).data
        self.paths.add(path)
        for row, key in enumerate(table.column("key").to_pylist()):
            if wanted is None or key in wanted:
                self.rows.setdefault(key, (table.column("hidden"), row))

    def __contains__(self, key: bytes) -> bool:
        return key in self.rows

    def __getitem__(self, key: bytes) -> torch.Tensor:
        """Return [T, n_embd], a view of the memory-mapped file (or of the device's memory): not to be written to."""
        if key in self.on_device:
            return self.on_device[key]
        column, row = self.rows[key]
        return torch.frombuffer(column[row].as_buffer(), dtype=self.dtype).view(-1, self.width)

    def to_device(self, device: torch.device) -> bool:
        """Copy the rows to a GPU if they take at most half of its free memory, and return whether it did.

        For a CPU there is nothing to copy: the file's pages are in memory after their first use.
        """
        if device.type != "cuda":
            return False
        size = sum(self[key].nbytes for key in self.rows)
        if size > torch.cuda.mem_get_info(device)[0] / 2:
            return False
        self.on_device = {key: self[key].to(device) for key in self.rows}
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"width": self.width, "dtype": self.dtype, "paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["width"], state["dtype"])
        for path in state["paths"]:
            self.index(path)


class FeatureCollator:
    """A data collator that adds the cached `trunk_output` to the batches of another one.

    It looks rows up by the token ids of the finished batch, so it holds for any dataset and any collator; a batch with a
    text that is not cached goes through the complete model.
    """

    def __init__(self, collator: Callable[[list], dict[str, Any]], features: TrunkFeatures):
        self.collator, self.features = collator, features

    def __call__(self, rows: list) -> dict[str, Any]:
        batch = self.collator(rows)
        input_ids, mask = batch["input_ids"], batch.get("attention_mask")
        keys = [sequence_key(ids if mask is None else ids[mask[i].bool()]) for i, ids in enumerate(input_ids)]
        if all(key in self.features for key in keys):
            batch["trunk_output"] = pad_sequence([self.features[key] for key in keys], batch_first=True)
        return batch


def has_token_ids(dataset: Any) -> bool:
    """Return whether the dataset has a length and rows with `input_ids`, so that its texts can be cached."""
    return has_length(dataset) and len(dataset) > 0 and "input_ids" in dataset[0]


def trunk_versions(model: GPT2LastTokenClassifier) -> tuple[int, ...]:
    """Return how often each parameter of the trunk was changed in place."""
    return tuple(parameter._version for _, parameter in trunk_parameters(model))


def token_sequences(dataset: Any) -> Iterator[np.ndarray]:
    """Yield the token ids of each text, int32 [T], padding left out.

    Args:
        dataset: a datasets.Dataset, or any map-style dataset of rows with `input_ids` and perhaps `attention_mask`.
    """
    if isinstance(dataset, datasets.Dataset):
        columns = [name for name in ("input_ids", "attention_mask") if name in dataset.column_names]
        # Straight from Arrow: lists of Python integers take eight times the room.
        batches = dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000)
        rows = (row for batch in batches for row in zip(*(batch[name].to_numpy() for name in columns), strict=True))
    else:
        items = (dataset[i] for i in range(len(dataset)))
        rows = (
            (row["input_ids"], row["attention_mask"]) if "attention_mask" in row else (row["input_ids"],)
            for row in items
        )
    for input_ids, *mask in rows:
        ids = np.asarray(input_ids, dtype=np.int32)
        yield ids[np.asarray(mask[0], dtype=bool)] if mask else ids


def cache_features(
    model: GPT2LastTokenClassifier,
    sequences: Iterable[Sequence[int] | np.ndarray],
    folder: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> TrunkFeatures:
    """Return the trunk's output for every sequence: read where it is cached, computed and cached where it is not.

    With several processes each computes a share and all read everything. Machines that do not share the folder find the
    other machines' shares missing, and divide those among their own processes.

    Args:
        model: its trunk must be frozen; it runs on the model's device, in `dtype`.
        sequences: token ids of each text, up to n_positions of them; duplicates cost nothing.
        folder: of the cache; DEFAULT_FOLDER if None.
    """
    trunk_folder = Path(folder or DEFAULT_FOLDER) / trunk_key(model, dtype)
    wanted = {sequence_key(ids): ids for ids in sequences if len(ids)}
    features, state = TrunkFeatures(model.config.n_embd, dtype), PartialState()

    def read() -> None:
        with state.local_main_process_first():  # which verifies the files for the others of its machine
            features.read(trunk_folder, wanted, verify=state.is_local_main_process)

    def find_missing() -> list[bytes]:
        return sorted((key for key in wanted if key not in features), key=lambda key: -len(wanted[key]))

    read()
    for divide, (index, count) in zip((on_main_process, lambda find: find()), shares(), strict=True):
        wait_for_everyone()  # else the first writer changes what the others find missing
        share = {key: wanted[key] for key in divide(find_missing)[index::count]}
        if share:
            remove_unfinished(trunk_folder)
            about = {"model": model.config.name_or_path, "blocks": model.split_depth, "dtype": str(dtype)}
            write_json(trunk_folder / ABOUT_FILE, {**about, "one_token_a_text": model.keeps_one_token})
            write_shards(model, share, trunk_folder, dtype)
        wait_for_everyone()
        read()
    with contextlib.suppress(OSError):  # a cache that others own, or that is empty
        os.utime(trunk_folder / ABOUT_FILE)  # caches that were not used longest go first
    return features


def sequence_key(input_ids: Sequence[int] | np.ndarray | torch.Tensor) -> bytes:
    """Return the hash of a token sequence, 16 bytes."""
    return xxhash.xxh3_128_digest(np.asarray(input_ids, dtype=np.int32).tobytes())


def trunk_key(model: GPT2LastTokenClassifier, dtype: torch.dtype, device: torch.device | None = None) -> str:
    """Return a hash of everything a hidden state depends on, except the token ids, to its last bit.

    `device` is the one that the trunk will run on, by default the model's.
    """
    config, device = model.config, (device or model.device).type
    fields = ("n_head", "layer_norm_epsilon", "activation_function", "scale_attn_weights")
    fields += ("scale_attn_by_inverse_layer_idx",)
    settings = {name: getattr(config, name) for name in fields}
    kept = model.pooling if model.keeps_one_token else "all"
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    where = [device, backend.matmul.fp32_precision, torch.__version__, transformers.__version__]
    about = [FORMAT, model.split_depth, str(dtype), kept, settings, where]
    digest = xxhash.xxh3_128(json.dumps(about, sort_keys=True).encode())
    hash_parameters(digest, trunk_parameters(model))
    return digest.hexdigest()


def trunk_parameters(model: GPT2LastTokenClassifier) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the parameters of the trunk, embeddings first."""
    for module in (model.transformer.wte, model.transformer.wpe, *model.transformer.h[: model.split_depth]):
        yield from module.named_parameters()


def write_shards(
    model: GPT2LastTokenClassifier, sequences: dict[bytes, Sequence[int]], folder: Path, dtype: torch.dtype
) -> None:
    """Run the trunk over sequences that come longest first, and add Arrow files of SHARD_TOKENS each."""
    trunk, shards, room = in_dtype(model, dtype), [], 0
    for key, ids in sequences.items():
        if room < len(ids):
            shards.append([])
            room = SHARD_TOKENS
        shards[-1].append(key)
        room -= len(ids)
    for number, keys in enumerate(shards, start=1):
        part = f", part {number} of {len(shards)}" if len(shards) > 1 else ""
        write_shard(trunk, keys, sequences, folder, f"Running the trunk (texts{part})")


def write_shard(
    trunk: GPT2LastTokenClassifier, keys: list[bytes], sequences: dict[bytes, Sequence[int]], folder: Path, desc: str
) -> None:
    """Write one Arrow file: beside its place first, renamed once it is complete."""
    rows = datasets.Dataset.from_dict({"key": keys}, features=datasets.Features({"key": datasets.Value("binary")}))

    def compute(batch: dict[str, list[bytes]]) -> dict[str, list]:
        hidden = run_trunk(trunk, [sequences[key] for key in batch["key"]])
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
