"""The trunk's hidden states as a cached dataset: the frozen trunk runs once per text, whatever run comes next.

A cache folder holds one folder a trunk, named by a hash of all that a hidden state depends on but the text: weights,
split depth, dtype, and what the config says of the computation. In it lie Arrow files, each named by the hash of its own
bytes, so a file that was cut short or damaged cannot be taken for a whole one. A row is one token sequence: its hash
and its hidden states as bytes. Runs add the rows that are missing and never change a file.
"""

import contextlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
import xxhash
from huggingface_hub.constants import HF_HOME
from torch.nn.utils.rnn import pad_sequence

from recipe.atomic import file_hash, write_json
from recipe.data.tokenization import batch_tokens, batches_by_length
from recipe.distributed import shares, wait_for_everyone
from recipe.model.classifier import GPT2LastTokenClassifier

logger = logging.getLogger(__name__)
# Rows are read only, and views of read-only memory.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

DEFAULT_FOLDER = Path(HF_HOME) / "gpt2_trunk_features"
FORMAT = 1  # of the rows; a change makes old caches unknown
COLUMNS = datasets.Features({"key": datasets.Value("binary"), "hidden": datasets.Value("binary")})
ROWS_AT_ONCE = 64  # rows computed and written together: what is held in memory
SHARD_TOKENS = 250_000  # tokens a file (0.8 GB at GPT-2 small's width): what a run that is killed loses at most
ABOUT_FILE = "about.json"
WRITING_PREFIX = ".writing-"


class TrunkFeatures:
    """Hidden states at the entrance of the first trainable block, by token sequence."""

    def __init__(self, width: int, dtype: torch.dtype):
        self.width, self.dtype = width, dtype
        self.places: dict[bytes, tuple[pa.ChunkedArray, int]] = {}  # a file's column of bytes, and a row
        self.files: set[Path] = set()  # those that have been read
        self.on_device: dict[bytes, torch.Tensor] = {}

    def read(self, folder: Path, wanted: Collection[bytes]) -> None:
        """Finds the wanted rows in files whose bytes are what their name says, those of earlier calls apart.

        A file that is not whole is said and removed, so that its rows are made again.
        """
        for path in sorted(set(folder.glob("*.arrow")) - self.files):
            with contextlib.suppress(FileNotFoundError):  # another process was first to remove it
                if file_hash(path) != path.stem:
                    logger.warning("%s is damaged: removed, what it held is computed again", path)
                    path.unlink(missing_ok=True)
                    continue
                table = datasets.Dataset.from_file(str(path)).data
                self.files.add(path)
                for row, key in enumerate(table.column("key").to_pylist()):
                    if key in wanted and key not in self.places:
                        self.places[key] = (table.column("hidden"), row)

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def row(self, key: bytes) -> torch.Tensor:
        """[T, n_embd], a view of the memory-mapped file (or of the device's memory): not to be written to."""
        if key in self.on_device:
            return self.on_device[key]
        column, row = self.places[key]
        return torch.frombuffer(column[row].as_buffer(), dtype=self.dtype).view(-1, self.width)

    def to_device(self, device: torch.device) -> bool:
        """Copies the rows to a GPU, if they take up no more than half of its free memory, and says whether it did.

        For a CPU there is nothing to copy: the file's pages are in memory after their first use.
        """
        if device.type != "cuda":
            return False
        size = sum(self.row(key).nbytes for key in self.places)
        if size > torch.cuda.mem_get_info(device)[0] / 2:
            return False
        self.on_device = {key: self.row(key).to(device) for key in self.places}
        return True


class FeatureDataset(torch.utils.data.Dataset):
    """A tokenized split with `hidden`, [T, n_embd], in place of its token ids."""

    def __init__(self, features: TrunkFeatures, split: datasets.Dataset):
        self.features = features
        self.keys = [sequence_key(ids) for ids in token_arrays(split)]
        self.labels = list(split["labels"])
        self.lengths = [features.row(key).shape[0] for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int | str) -> dict[str, torch.Tensor | int] | list[int]:
        if i == "length":  # a column, as in datasets.Dataset: what a sampler groups by
            return self.lengths
        return {"hidden": self.features.row(self.keys[i]), "labels": self.labels[i]}


def token_arrays(split: datasets.Dataset) -> Iterator[np.ndarray]:
    """`input_ids` of each text, int32 [T], straight from Arrow: lists of Python integers take eight times the room."""
    for chunk in split.data.column("input_ids").chunks:
        values, offsets = chunk.values.to_numpy().astype(np.int32), chunk.offsets.to_numpy()
        for start, stop in itertools.pairwise(offsets):
            yield values[start:stop]


def collate_features(rows: list[dict[str, torch.Tensor | int]]) -> dict[str, torch.Tensor]:
    """A batch for GPT2ClassifierTail: hidden [B, T, n_embd] padded on the right, lengths and labels int64 [B]."""
    hidden = [row["hidden"] for row in rows]
    return {
        "labels": torch.tensor([row["labels"] for row in rows]),
        "lengths": torch.tensor([len(states) for states in hidden]),
        "hidden": pad_sequence(hidden, batch_first=True),
    }


def cache_features(
    model: GPT2LastTokenClassifier,
    sequences: Iterable[Sequence[int] | np.ndarray],
    folder: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> TrunkFeatures:
    """The trunk's output for every sequence: read where it is cached, computed and cached where it is not.

    With several processes each computes a share and all read the whole. Machines that do not share the folder find the
    other machines' shares missing, and divide those among their own processes.

    Args:
        model: its trunk must be frozen; it runs on the model's device, in `dtype`.
        sequences: token ids of each text, 1 to n_positions of them; duplicates cost nothing.
        folder: of the cache; DEFAULT_FOLDER if None.
    """
    trunk_folder = Path(folder or DEFAULT_FOLDER) / trunk_key(model, dtype)
    wanted = {sequence_key(ids): ids for ids in sequences}
    features = TrunkFeatures(model.config.n_embd, dtype)
    features.read(trunk_folder, wanted)
    for index, count in shares():
        wait_for_everyone()  # else who writes first changes what the others find missing
        missing = sorted((key for key in wanted if key not in features), key=lambda key: -len(wanted[key]))
        share = {key: wanted[key] for key in missing[index::count]}
        if share:
            remove_remains(trunk_folder)
            about = {"model": model.config.name_or_path, "blocks": model.split_depth, "dtype": str(dtype)}
            write_json(trunk_folder / ABOUT_FILE, {**about, "one_token_a_text": model.keeps_one_token})
            write_shards(model, share, trunk_folder, dtype)
        wait_for_everyone()
        features.read(trunk_folder, wanted)
    return features


def sequence_key(input_ids: Sequence[int] | np.ndarray) -> bytes:
    return xxhash.xxh3_128_digest(np.asarray(input_ids, dtype=np.int32).tobytes())


def trunk_key(model: GPT2LastTokenClassifier, dtype: torch.dtype) -> str:
    """A hash of all that a hidden state depends on, the token ids apart."""
    config, depth = model.config, model.split_depth
    fields = ("n_head", "layer_norm_epsilon", "activation_function", "scale_attn_weights")
    fields += ("scale_attn_by_inverse_layer_idx",)
    settings = {name: getattr(config, name) for name in fields}
    kept = model.pooling if model.keeps_one_token else "all"
    tf32 = model.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    about = [FORMAT, depth, str(dtype), tf32, kept, settings]
    digest = xxhash.xxh3_128(json.dumps(about, sort_keys=True).encode())
    for module in (model.transformer.wte, model.transformer.wpe, *model.transformer.h[:depth]):
        for name, parameter in module.named_parameters():
            digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
            digest.update(as_bytes(parameter.detach().cpu()))
    return digest.hexdigest()


def write_shards(
    model: GPT2LastTokenClassifier, sequences: dict[bytes, Sequence[int]], folder: Path, dtype: torch.dtype
) -> None:
    """Runs the trunk over sequences that come longest first, and adds Arrow files of SHARD_TOKENS each."""
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


def remove_remains(folder: Path) -> None:
    """Of runs that were killed while they wrote a file, which takes no day."""
    for path in folder.glob(f"{WRITING_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 24 * 60 * 60:
                shutil.rmtree(path)


def write_shard(
    trunk: GPT2LastTokenClassifier, keys: list[bytes], sequences: dict[bytes, Sequence[int]], folder: Path, desc: str
) -> None:
    """One Arrow file: written beside, then under its name once it is whole."""
    rows = datasets.Dataset.from_dict({"key": keys}, features=datasets.Features({"key": datasets.Value("binary")}))

    def compute(batch: dict[str, list[bytes]]) -> dict[str, list]:
        hidden = run_trunk(trunk, [sequences[key] for key in batch["key"]])
        return {"hidden": [as_bytes(states) for states in hidden]}

    with tempfile.TemporaryDirectory(dir=folder, prefix=WRITING_PREFIX) as temporary:
        path = Path(temporary) / "rows.arrow"
        rows.map(
            compute,
            batched=True,
            batch_size=ROWS_AT_ONCE if trunk.device.type == "cpu" else 8 * ROWS_AT_ONCE,  # a GPU wants to be filled
            writer_batch_size=ROWS_AT_ONCE,
            features=COLUMNS,
            cache_file_name=str(path),
            load_from_cache_file=False,
            new_fingerprint="rows",  # the name is the key: nothing to gain from hashing the model once more
            desc=desc,
        )
        os.replace(path, folder / f"{file_hash(path)}.arrow")


def in_dtype(model: GPT2LastTokenClassifier, dtype: torch.dtype) -> GPT2LastTokenClassifier:
    """The model itself, or a copy whose trunk is in another dtype (the tail's weights are never used)."""
    if dtype == model.dtype:
        return model
    with torch.device("meta"):
        copy = GPT2LastTokenClassifier(model.config)
    copy.load_state_dict({name: p.detach().to(dtype) for name, p in model.state_dict().items()}, assign=True)
    for mine, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return copy


@torch.no_grad()
def run_trunk(model: GPT2LastTokenClassifier, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """[T, n_embd] of each sequence on the CPU, in their order; [1, n_embd] where the head reads one token alone."""
    model.eval()
    hidden: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    for indices in batches_by_length([len(ids) for ids in sequences], batch_tokens(model.device)):
        batch = [torch.as_tensor(sequences[i], dtype=torch.long) for i in indices]
        states = model.trunk(pad_sequence(batch, batch_first=True).to(model.device)).cpu()
        for i, ids, row in zip(indices, batch, states, strict=True):
            kept = row[: len(ids)]
            if model.keeps_one_token:
                kept = kept[-1:] if model.pooling == "last" else kept[:1]
            hidden[i] = kept
    return hidden


def as_bytes(states: torch.Tensor) -> bytes:
    """numpy, and so Arrow, has no bfloat16: its bytes go by as integers."""
    return states.contiguous().view(torch.uint8).numpy().tobytes()


def list_caches(folder: Path = DEFAULT_FOLDER) -> Iterator[tuple[Path, dict, int]]:
    """Each trunk's folder, what it is of, and its size in bytes."""
    for about in sorted(folder.glob(f"*/{ABOUT_FILE}")):
        size = sum(path.stat().st_size for path in about.parent.rglob("*") if path.is_file())
        yield about.parent, json.loads(about.read_text(encoding="utf-8")), size


def clear_caches(folder: Path = DEFAULT_FOLDER) -> int:
    """Removes every trunk's folder; returns the bytes that this frees."""
    freed = 0
    for path, _, size in list(list_caches(folder)):
        shutil.rmtree(path)
        freed += size
    return freed
