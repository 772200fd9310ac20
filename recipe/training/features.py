"""The feature cache: the frozen trunk is run once per text, and its output is a column of the dataset, `trunk_output`.

    cached = cache_features(model, tokenized)
    trainer = Trainer(model, args, train_dataset=cached["train"], data_collator=FeatureCollator(tokenizer))

A cache folder holds a folder for each trunk, with Arrow files whose rows are the hash of a text's token ids and its hidden
states as bytes. Each run adds files of the rows that it does not find; a complete file is never changed.
"""

import contextlib
import functools
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets.features.features import register_feature
from datasets.utils import tqdm  # which datasets.disable_progress_bars silences
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, PreTrainedTokenizerBase, TrainingArguments

from recipe.atomic import TEMPORARY_PREFIX, write_json
from recipe.data.tokenization import PaddingCollator
from recipe.distributed import in_every_process, on_main_process
from recipe.errors import RecipeError, as_recipe_error, first_line
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.cache_folder import ABOUT_FILE, DEFAULT_FOLDER, ROWS, bytes_held, evict_least_recent, limit_of
from recipe.training.trunk import (
    classifier_of,
    dtype_of,
    folder_name,
    in_dtype,
    keep_freed_memory,
    run_trunk,
    trunk_key,
    why_not_constant,
)

logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message="The given buffer is not writable")  # views of mapped files are only read

Data = TypeVar("Data", datasets.Dataset, datasets.DatasetDict)
COLUMN, DEPTH_COLUMN = "trunk_output", "trunk_depth"
BOOKKEEPING = ("length", "uncut_length", "text_index")  # columns of `tokenize` that no model takes
CHECKED_AT_ONCE = 10_000  # rows
SHARD_TOKENS = 250_000  # tokens a file (0.8 GB at GPT-2 small's width): what a killed run loses at most
KEY = np.dtype("S16")
SCHEMA = pa.schema({"key": pa.binary(16), "hidden": pa.large_binary()})


def cache_features(
    model: nn.Module,
    dataset: Data,
    cache_dir: str | os.PathLike | None = None,
    dtype: str = "float32",
    when: str = "auto",
    max_gb: float | None = None,
    args: TrainingArguments | None = None,
) -> Data:
    """Return the dataset, or each of a DatasetDict's, with two more columns:

    trunk_output: the hidden states after the frozen blocks, a tensor [T, n_embd] a row, memory-mapped from disk
        ([1, n_embd] where nothing but the head trains).
    trunk_depth: the number of frozen blocks, which the model checks.

    Rows that an earlier run left are found; others are computed, each text once, divided among the processes. Call it after
    `freeze_except` and after all changes of the texts.

    Args:
        model: a GPT2LastTokenClassifier, plain or with peft adapters; it is moved to the device that trains.
        dataset: with `input_ids`, and perhaps `attention_mask`, of up to n_positions tokens a text.
        cache_dir: by default a folder in the Hugging Face home.
        dtype: of the trunk and of what is stored: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware has it.
        when: `on`, `off`, or `auto`: where a trunk is frozen, the data will be read more than once, and the size fits.
        max_gb: what the folder may hold (by default half of what is free on the disk or held by the cache); beyond it the
            files that were used least recently are removed.
        args: of the training to come, which say how often it reads the data, and on which device.

    Raises:
        RecipeError: `on`, or `bfloat16`, where the trunk cannot be cached; no space or permission; a text without tokens.
    """
    if when not in ("auto", "on", "off"):
        raise RecipeError(f"when is {when!r}: take one of auto, on, off")
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    classifier, device = classifier_of(model), args.device if args is not None else PartialState().device
    reason = why_not_cached(classifier, splits, when, args)
    if reason is None:
        folder, fix = Path(cache_dir or DEFAULT_FOLDER), "pass --feature_cache_dir DIR, or --feature_cache off"
        with as_recipe_error(OSError, f"feature cache in {folder}", fix):
            rows = in_every_process(Rows, classifier.config, splits)
            store = in_every_process(FeatureStore, classifier, dtype_of(dtype, device), device, folder)
            limit = in_every_process(limit_of, folder, when, max_gb)
            reason = on_main_process(store.why_too_large, rows, limit)
            if reason is None:
                model.to(device)
                keep_freed_memory()
                cached = store.attach(splits, rows, limit)
                return datasets.DatasetDict(cached) if isinstance(dataset, Mapping) else cached["train"]
    if when == "on" or dtype == "bfloat16":
        raise RecipeError(f"feature_cache is on, or trunk_dtype bfloat16, but {reason}: leave both at their defaults")
    logger.info("Feature cache: not used (%s)", reason)
    return dataset


def why_not_cached(
    model: GPT2LastTokenClassifier, splits: Mapping[str, Any], when: str, args: TrainingArguments | None
) -> str | None:
    """Return why the trunk's output is not to be cached, its size apart; None if it is."""
    if when == "off":
        return "it is off"
    if reason := why_not_constant(model):
        return reason
    if not splits:
        return "there are no splits"
    for name, split in splits.items():
        if not isinstance(split, datasets.Dataset) or "input_ids" not in split.column_names or not len(split):
            return f"{name} is no datasets.Dataset with the column input_ids, and rows"
        if split.format["type"] == "custom":
            return f"{name} has a transform (set_transform), whose output is not known beforehand"
    train = splits.get("train")
    if when == "auto" and args and train and (passes := passes_over_data(len(train), args)) <= 1:
        return f"{passes:.1f} passes over the training texts expected"
    return None


def passes_over_data(texts: int, args: TrainingArguments) -> float:
    """Return how often training reads each text."""
    if args.max_steps > 0:
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return args.max_steps * per_step / texts
    return args.num_train_epochs


class Rows:
    """The token sequences of all splits, numbered from split to split: on disk, but for a hash (KEY [N]) and a length each."""

    def __init__(self, config: GPT2Config, splits: Mapping[str, datasets.Dataset]):
        """Look all rows through; raise RecipeError for one that a model of this config cannot read."""
        self.starts = np.cumsum([0, *map(len, splits.values())])
        self.parts, keys, lengths = [], bytearray(), []
        for name, split in splits.items():
            check_rows_for_model(split, config, name)
            columns = {"input_ids", "attention_mask"}.intersection(split.column_names)
            self.parts.append(split.select_columns([*columns]).with_format("arrow"))
            for table in self.parts[-1].iter(1000):
                sequences = token_sequences(table)
                keys += b"".join(map(xxhash.xxh3_128_digest, sequences))
                lengths += map(len, sequences)
        self.keys, self.lengths = np.frombuffer(bytes(keys), KEY), np.array(lengths, np.int64)
        if len(empty := np.flatnonzero(self.lengths == 0)):
            raise RecipeError(f"the text of row {empty[0]} has no tokens: give it one, such as <|endoftext|>")

    def sequences(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the token ids of some rows: int32 [T] each."""
        found: dict[int, np.ndarray] = {}
        for start, stop, part in zip(self.starts[:-1], self.starts[1:], self.parts, strict=True):
            here = numbers[(start <= numbers) & (numbers < stop)]
            if len(here):
                found |= zip(here.tolist(), token_sequences(part[(here - start).tolist()]), strict=True)
        return [found[number] for number in numbers.tolist()]


def check_rows_for_model(rows: datasets.Dataset, config: GPT2Config, split: str = "train") -> None:
    """Raise RecipeError for the first row, counted from 0, whose `labels` or `input_ids` do not fit the model.

    In a batch torch would stop at a wrong id, and name no row. A column that the split does not have is passed over.
    """
    columns = {
        "labels": ("label id", config.num_labels, "load it with the data's labels (num_labels, id2label)"),
        "input_ids": ("token id", config.vocab_size, "tokenize with the model's own tokenizer"),
    }
    for column in [name for name in columns if name in rows.column_names]:
        kind, size, fix = columns[column]
        batches = rows.select_columns(column).with_format("arrow").iter(batch_size=CHECKED_AT_ONCE)
        for start, table in zip(range(0, len(rows), CHECKED_AT_ONCE), batches, strict=False):
            ids, row_of = table[column].combine_chunks(), range(len(table))
            if column == "input_ids":
                is_empty = pc.less_equal(pc.fill_null(pc.list_value_length(ids), 0), 0)
                if (row := pc.index(is_empty, True).as_py()) >= 0:
                    raise RecipeError(f"{split}, row {start + row}: has no token: give an empty text one <|endoftext|>")
                ids, row_of = pc.list_flatten(ids), pc.list_parent_indices(ids).to_numpy()
            if not pa.types.is_integer(ids.type):
                raise RecipeError(f"{split}: {column} has values of the type {ids.type}: give a {kind}, an integer")
            fits = pc.and_(pc.greater_equal(ids, 0), pc.less(ids, size))
            if (place := pc.index(pc.fill_null(fits, False), False).as_py()) >= 0:
                has = f"has the {kind} {ids[place]}, and the model's are 0 to {size - 1}"
                raise RecipeError(f"{split}, row {start + row_of[place]}: {has}: {fix}")


def token_sequences(table: pa.Table) -> list[np.ndarray]:
    """Return the token ids of each row of a table, int32 [T], without its padding."""
    counts = pc.list_value_length(table["input_ids"]).to_numpy()
    ids = pc.list_flatten(table["input_ids"]).to_numpy().astype(np.int32)
    ends = np.cumsum(counts)
    if "attention_mask" in table.column_names:
        is_token = pc.list_flatten(table["attention_mask"]).to_numpy().astype(bool)
        ids, ends = ids[is_token], np.concatenate([[0], np.cumsum(is_token)])[ends]
    return np.split(ids, ends[:-1])


class FeatureStore:
    """A trunk's folder of the cache: `files`, each with the keys of its rows, KEY [M]."""

    def __init__(self, model: GPT2LastTokenClassifier, dtype: torch.dtype, device: torch.device, cache_dir: Path):
        self.model, self.dtype, self.device = model, dtype, device
        self.trunk_key = trunk_key(model)
        self.folder = cache_dir / folder_name(self.trunk_key, dtype, device)
        self.read()

    def read(self) -> None:
        """Look up what the folder holds; remove a file that is truncated, or has other rows than its name says."""
        self.files: dict[Path, np.ndarray] = {}
        for path in sorted(self.folder.glob(ROWS)):
            try:
                keys = read_keys(path)
                if xxhash.xxh3_128_hexdigest(keys) != path.stem:
                    raise ValueError("it holds other rows than were written")
                self.files[path] = keys
            except FileNotFoundError:  # another run has just removed it
                continue
            except (OSError, ValueError) as error:  # Arrow's are of these kinds
                if getattr(error, "errno", None):  # the system's: the file may be sound
                    raise
                logger.warning("%s is damaged (%s): removed, its rows are computed again", path, first_line(error))
                path.unlink(missing_ok=True)
                open_hidden.cache_clear()

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Return the place of each key among the rows of all `files`, int64 [N]; -1 for one that no file holds."""
        if not self.files:
            return np.full(len(keys), -1)
        held = np.concatenate([*self.files.values()])
        order = np.argsort(held, kind="stable")
        found = order[np.searchsorted(held, keys, sorter=order).clip(max=len(order) - 1)]
        return np.where(held[found] == keys, found, -1)

    def used(self, keys: np.ndarray) -> list[Path]:
        """Return the files that `places` finds any of the keys in."""
        places, ends = self.places(keys), np.cumsum([*map(len, self.files.values())])
        paths = list(self.files)
        return [paths[i] for i in np.unique(np.searchsorted(ends, places[places >= 0], side="right"))]

    def missing(self, rows: Rows) -> np.ndarray:
        """Return the numbers of the rows that no file holds, each text once, the longest first."""
        keys, numbers = np.unique(rows.keys, return_index=True)
        numbers = numbers[self.places(keys) < 0]
        return numbers[np.argsort(-rows.lengths[numbers], kind="stable")]

    def bytes_of(self, lengths: np.ndarray) -> int:
        """Return how many bytes the hidden states of texts of these lengths take."""
        tokens = len(lengths) if self.model.keeps_one_token else int(lengths.sum())
        return tokens * self.model.config.n_embd * self.dtype.itemsize

    def why_too_large(self, rows: Rows, limit: float) -> str | None:
        """Log the size on disk, and return why it is too large for the limit, in bytes, if it is."""
        size = self.bytes_of(rows.lengths[np.unique(rows.keys, return_index=True)[1]])
        about = f"{size / 1e9:.3g} GB on disk, of at most {limit / 1e9:.3g} GB (--feature_cache_max_gb)"
        if size > limit:
            return f"it takes {about}"
        logger.info("Feature cache: %s, %d texts to compute", about, len(self.missing(rows)))
        return None

    def make_room(self, rows: Rows, limit: float) -> None:
        """Remove the files of all trunks that were used least recently, until the missing rows fit the limit, in bytes."""
        if not PartialState().is_local_main_process:
            return
        used = self.used(rows.keys)
        for path in used:
            with contextlib.suppress(OSError):  # another user's
                os.utime(path)
        cache_dir, new = self.folder.parent, self.bytes_of(rows.lengths[self.missing(rows)])
        evict_least_recent(cache_dir, limit - new, used)
        if new and bytes_held(cache_dir) + new > limit:  # used files hold other rows too: all rows of this run do fit
            evict_least_recent(cache_dir, 0)

    def attach(self, splits: Mapping[str, datasets.Dataset], rows: Rows, limit: float) -> dict[str, datasets.Dataset]:
        """Compute the rows that are missing, divided among the processes, and return the splits with the column."""
        if len({*gather_object([(self.folder.name, xxhash.xxh3_64_hexdigest(rows.keys))])}) > 1:
            raise RecipeError("the processes have other weights or texts than each other: load the same in each")
        in_every_process(self.make_room, rows, limit)
        state = PartialState()
        of_machine = state.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # with a folder of its own
        for index, count in ((state.process_index, state.num_processes), of_machine):
            in_every_process(self.read)
            numbers = in_every_process(self.missing, rows)
            in_every_process(self.compute, rows, numbers[index::count])
        in_every_process(self.read)
        self.files = {path: self.files[path] for path in self.used(rows.keys)}
        places = self.places(rows.keys)
        if (places < 0).any():
            raise RecipeError(f"{self.folder}: files were removed by another run: run it again, or raise max_gb")
        files = [str(path.absolute()) for path in self.files]
        open_hidden(tuple(files))  # so that they stay mapped, even if another run removes them
        config, dtype = self.model.config, str(self.dtype).removeprefix("torch.")
        feature = TrunkOutput(files, dtype, config.n_embd, self.model.split_depth, self.trunk_key)
        parts = zip(splits.items(), np.split(places, rows.starts[1:-1]), strict=True)
        return {name: add_column(split, part, feature) for (name, split), part in parts}

    def compute(self, rows: Rows, numbers: np.ndarray) -> None:
        """Run the trunk over rows, which come longest first, and write them to files of SHARD_TOKENS each."""
        if not len(numbers):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"model": self.model.config.name_or_path, "blocks": self.model.split_depth, "dtype": str(self.dtype)}
        write_json(self.folder / ABOUT_FILE, {**about, "one_token_a_text": self.model.keeps_one_token})
        model, quiet = in_dtype(self.model, self.dtype), not PartialState().is_local_main_process
        with tqdm(total=len(numbers), desc="Running the trunk", unit=" texts", disable=quiet) as bar:
            for shard in cut_shards(numbers, rows.lengths[numbers]):
                parts = run_trunk(model, rows.sequences(shard), self.device)
                write_shard(self.folder, rows.keys[shard], parts, bar)


def cut_shards(numbers: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers in parts of up to SHARD_TOKENS; after a part, the same rest gives the same parts.

    So a run that was killed goes on with the batches that it would have made, and gets the same states to the last bit.
    """
    start, left = 0, SHARD_TOKENS
    for i, length in enumerate(lengths.tolist()):
        if i > start and left < length:
            yield numbers[start:i]
            start, left = i, SHARD_TOKENS
        left -= length
    yield numbers[start:]


def write_shard(folder: Path, keys: np.ndarray, parts: Iterator[tuple[torch.Tensor, list[int]]], bar: tqdm) -> None:
    """Write the rows of these keys, from `run_trunk`, into one file: beside its place, renamed once complete."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY_PREFIX) as temporary:
        path, start = Path(temporary) / "rows.arrow", 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            for states, sizes in parts:
                offsets = pa.py_buffer(np.cumsum([0, *sizes]) * states.shape[1] * states.element_size())
                data = pa.py_buffer(states.view(torch.uint8).numpy())  # numpy, and so Arrow, has no bfloat16
                hidden = pa.Array.from_buffers(pa.large_binary(), len(sizes), [None, offsets, data])
                key = pa.py_buffer(keys[start : start + len(sizes)])
                key = pa.Array.from_buffers(pa.binary(16), len(sizes), [None, key])
                writer.write_batch(pa.record_batch([key, hidden], schema=SCHEMA))
                start += len(sizes)
                bar.update(len(sizes))
        os.replace(path, folder / f"{xxhash.xxh3_128_hexdigest(keys)}.arrow")


def open_table(path: str | Path) -> pa.Table:
    """Return the rows of a file, memory-mapped."""
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def read_keys(path: Path) -> np.ndarray:
    """Return the keys of a file's rows: KEY [N]."""
    chunks = open_table(path)["key"].chunks
    return np.concatenate([np.frombuffer(chunk.buffers()[1], KEY, len(chunk)) for chunk in chunks])


@functools.lru_cache(maxsize=16)
def open_hidden(files: tuple[str, ...]) -> pa.ChunkedArray:
    """Return the hidden states of all rows of some files, as bytes, memory-mapped; raise RecipeError if one was cleared since."""
    with as_recipe_error(OSError, "trunk_output lies in a file that cannot be read", "call cache_features again"):
        return pa.chunked_array([chunk for path in files for chunk in open_table(path)["hidden"].chunks])


@dataclass
class TrunkOutput:
    """The type of the column `trunk_output`: a row's place in Arrow files, counted over all of them, which reads as its states.

    dtype and n_embd are the states', depth and trunk_key the trunk's.
    """

    files: list[str]
    dtype: str
    n_embd: int
    depth: int
    trunk_key: str
    pa_type: ClassVar[pa.DataType] = pa.int64()
    _type: str = field(default="TrunkOutput", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def decode_example(self, place: int, token_per_repo_id: Any = None) -> torch.Tensor:
        """Return [T, n_embd], a view of the mapped file: not to be written to."""
        states = torch.frombuffer(open_hidden(tuple(self.files))[place].as_buffer(), dtype=getattr(torch, self.dtype))
        return states.view(-1, self.n_embd)


with warnings.catch_warnings(action="ignore"):  # `datasets` calls this function experimental
    register_feature(TrunkOutput, "TrunkOutput")


def add_column(split: datasets.Dataset, places: np.ndarray, feature: TrunkOutput) -> datasets.Dataset:
    """Return a split with the columns `trunk_output` and `trunk_depth`, in place of those that it may have."""
    columns, new = split.format["columns"], (COLUMN, DEPTH_COLUMN)
    split = split.remove_columns([name for name in new if name in split.column_names])
    name = xxhash.xxh3_64(f"{split._fingerprint} {feature}".encode())
    name.update(places)
    shown = {**split.format, "columns": [*(c for c in columns if c not in new), *new]}
    split = split.add_column(DEPTH_COLUMN, np.full(len(places), feature.depth, np.int8), new_fingerprint="depth")
    return split.add_column(COLUMN, places, new_fingerprint=name.hexdigest(), feature=feature).with_format(
        shown["type"], shown["columns"], shown["output_all_columns"], **shown["format_kwargs"]
    )


class FeatureCollator:
    """A data collator that pads `trunk_output` with the other columns; where rows lack it, the model runs its trunk.

    Args:
        tokenizer: pads input_ids and attention_mask on the right; or another collator, which gets the other columns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | Callable[[list[dict[str, Any]]], dict[str, Any]]):
        is_tokenizer = isinstance(tokenizer, PreTrainedTokenizerBase)
        self.collator = PaddingCollator(tokenizer) if is_tokenizer else tokenizer
        self.tokenizer = tokenizer if is_tokenizer else getattr(tokenizer, "tokenizer", None)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with `trunk_output` [B, T, n_embd] and `trunk_depth`, int64 [B], if all its rows are cached."""
        apart = (COLUMN, DEPTH_COLUMN, *BOOKKEEPING)
        batch = self.collator([{name: row[name] for name in row if name not in apart} for row in rows])
        if any(row.get(COLUMN) is None for row in rows):
            return batch
        states = [torch.as_tensor(row[COLUMN]) for row in rows]  # lists, where another `map` has written them anew
        for row, cached in zip(rows, states, strict=True):
            tokens = int(sum(row["attention_mask"])) if "attention_mask" in row else len(row["input_ids"])
            if len(cached) not in (1, tokens):
                was = f"a text of {tokens} tokens was cached with {len(cached)}"
                raise RecipeError(f"{was}: call cache_features after all changes of the texts")
        batch[COLUMN] = pad_sequence(states, batch_first=True)
        depths = [row.get(DEPTH_COLUMN) for row in rows]
        return batch if None in depths else {**batch, DEPTH_COLUMN: torch.as_tensor(depths).long()}


def check_trunk(model: GPT2LastTokenClassifier, dataset: Any) -> None:
    """Raise RecipeError for a dataset whose rows were cached from another trunk than the model has now."""
    feature = (getattr(dataset, "features", None) or {}).get(COLUMN)
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())  # which were checked before
    if isinstance(feature, TrunkOutput) and not sharded and feature.trunk_key != trunk_key(model):
        was = "other weights, or other frozen blocks, than it has now"
        raise RecipeError(f"the trunk was cached with {was}: call cache_features again, after all changes of the model")
