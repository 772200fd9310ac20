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
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from recipe.errors import one_line
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.feature_files import KEY, KEYS_SUFFIX, remove_unfinished, write_shards
from recipe.training.trunk_pass import hash_parameters

logger = logging.getLogger(__name__)
# Rows are read only, and views of read-only memory.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

DEFAULT_FOLDER = Path(HF_HOME) / "gpt2_trunk_features"
FORMAT = 2  # of the rows; a change makes old caches unknown
ABOUT_FILE = "about.json"


class TrunkFeatures(Mapping[bytes, torch.Tensor]):
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

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

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

    Where a shallower cut of the same trunk has been cached, its rows are computed on: if they came from the same texts, and
    so from the same batches, the result is the same to the last bit.

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
            write_shards(model, share, trunk_folder, dtype, *find_shallower(model, share, trunk_folder.parent, dtype))
        wait_for_everyone()
        read()
    with contextlib.suppress(OSError):  # a cache that others own, or that is empty
        os.utime(trunk_folder / ABOUT_FILE)  # caches that were not used longest go first
    return features


def sequence_key(input_ids: Sequence[int] | np.ndarray | torch.Tensor) -> bytes:
    """Return the hash of a token sequence, 16 bytes."""
    return xxhash.xxh3_128_digest(np.asarray(input_ids, dtype=np.int32).tobytes())


def trunk_key(
    model: GPT2LastTokenClassifier, dtype: torch.dtype, device: torch.device | None = None, depth: int | None = None
) -> str:
    """Return a hash of everything a hidden state depends on, except the token ids, to its last bit.

    `device` is the one that the trunk will run on, by default the model's; `depth` is that of a shallower cut.
    """
    depth = model.split_depth if depth is None else depth
    config, device = model.config, (device or model.device).type
    fields = ("n_head", "layer_norm_epsilon", "activation_function", "scale_attn_weights")
    fields += ("scale_attn_by_inverse_layer_idx",)
    settings = {name: getattr(config, name) for name in fields}
    kept = model.pooling if model.keeps_one_token and depth == model.split_depth else "all"
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    where = [device, backend.matmul.fp32_precision, torch.__version__, transformers.__version__]
    about = [FORMAT, depth, str(dtype), kept, settings, where]
    digest = xxhash.xxh3_128(json.dumps(about, sort_keys=True).encode())
    hash_parameters(digest, trunk_parameters(model, depth))
    return digest.hexdigest()


def trunk_parameters(
    model: GPT2LastTokenClassifier, depth: int | None = None
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the parameters of the trunk (or of its first `depth` blocks), embeddings first."""
    depth = model.split_depth if depth is None else depth
    for module in (model.transformer.wte, model.transformer.wpe, *model.transformer.h[:depth]):
        yield from module.named_parameters()


def find_shallower(
    model: GPT2LastTokenClassifier, wanted: Collection[bytes], folder: Path, dtype: torch.dtype
) -> tuple[int, Mapping[bytes, torch.Tensor]]:
    """Return the shallower cut of this trunk whose cached rows spare most blocks, and its rows: depth 0 and none without one.

    Its rows have all tokens, since a block comes after it. What cannot be read is left: the text is always there.
    """
    depths, best = set(), (0, {})
    for path in folder.glob(f"*/{ABOUT_FILE}"):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            depths.add(json.loads(path.read_text(encoding="utf-8")).get("blocks"))
    for depth in sorted(depths & set(range(1, model.split_depth))):
        rows = TrunkFeatures(model.config.n_embd, dtype)
        try:
            rows.read(folder / trunk_key(model, dtype, depth=depth), wanted)
        except Exception as error:  # of numpy, Arrow or the file system
            logger.warning("Feature cache: rows after block %d are left, not read (%s)", depth - 1, one_line(error))
        else:
            best = max(best, (depth, rows), key=lambda cut: cut[0] * len(cut[1]))
    depth, rows = best
    if rows:
        logger.info(
            "Feature cache: %d of %d texts start from their cached states after block %d, the others from their tokens",
            len(rows), len(wanted), depth - 1,
        )  # fmt: skip
    return best
