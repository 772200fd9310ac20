"""Whether to cache the trunk's output: its size on disk, its gain; and the caches that exist."""

import contextlib
import ctypes
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from recipe.atomic import TEMPORARY_PREFIX
from recipe.distributed import on_main_process
from recipe.errors import RecipeError, explain
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.feature_cache import (
    ABOUT_FILE,
    DEFAULT_FOLDER,
    TrunkFeatures,
    cache_features,
    token_sequences,
    trunk_key,
)
from recipe.training.feature_files import KEYS_SUFFIX, WRITING_PREFIX

logger = logging.getLogger(__name__)

CHOICES = ("auto", "on", "off")
DTYPES = ("float32", "bfloat16", "auto")
IN_USE = 3600  # seconds since its last use in which a cache may be another run's
NOT_CACHED = "trunk_dtype is bfloat16, but the trunk is not cached: it needs --feature_cache on"


@dataclass(frozen=True)
class CachePolicy:
    """RecipeTrainer's options for the feature cache.

    choice: `on`, `off`, or `auto`: where the trunk is frozen, more than one pass reads a text, and the disk has room.
    folder: of the cache; one in the Hugging Face home if None.
    max_gb: what the folder may hold, of all trunks together: those that were not used longest are forgotten first; half of
        the disk that is free or the cache's if None.
    trunk_dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware multiplies it natively.
    """

    choice: str = "auto"
    folder: str | None = None
    max_gb: float | None = None
    trunk_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("feature_cache", self.choice, CHOICES),
            ("trunk_dtype", self.trunk_dtype, DTYPES),
        ):
            if value not in choices:
                raise RecipeError(f"{name} is {value!r}: take one of {', '.join(choices)}")

    def check(self, model: GPT2LastTokenClassifier) -> None:
        """Raise RecipeError for options that the model's filter contradicts."""
        frozen = model.split_depth > 0
        if self.choice == "on" and not frozen:
            raise RecipeError(
                "feature_cache is on, but the first block trains: freeze it, or leave feature_cache at auto"
            )
        if self.trunk_dtype == "bfloat16" and (self.choice == "off" or not frozen):
            raise RecipeError(NOT_CACHED)

    def compute(
        self, model: GPT2LastTokenClassifier, cacheable: Sequence[Any], device: torch.device, reads: float
    ) -> TrunkFeatures | None:
        """Return the trunk's output for every text of the datasets, computing rows that are missing; None if not wanted.

        Raises:
            RecipeError: a folder without room or permission.
        """
        sequences = [ids for dataset in cacheable for ids in token_sequences(dataset)]
        if not on_main_process(self.wants_cache, model, [len(ids) for ids in sequences], reads, device):
            return None
        fix = "pass --feature_cache_dir DIR, or --feature_cache off"
        with explain(OSError, f"feature cache in {self.folder or DEFAULT_FOLDER}", fix):
            return cache_features(model.to(device).eval(), sequences, self.folder, self.dtype(device))

    def refuse_if_required(self, reason: str) -> None:
        """Raise RecipeError if the cache was asked for and cannot be."""
        if self.choice == "on" or self.trunk_dtype == "bfloat16":
            raise RecipeError(
                f"feature_cache is on, or trunk_dtype bfloat16, but {reason}: leave both at their defaults"
            )

    def wants_cache(
        self, model: GPT2LastTokenClassifier, lengths: Sequence[int], reads: float, device: torch.device
    ) -> bool:
        """Decide, and log the reasons.

        Args:
            lengths: tokens of each text, of all datasets together.
            reads: how often training reads each text.
            device: that the trunk will run on.
        """
        numbers = (len(lengths) if model.keeps_one_token else sum(lengths)) * model.config.n_embd
        size = numbers * self.dtype(device).itemsize / 1e9
        folder = Path(self.folder or DEFAULT_FOLDER)
        held = sum(size for *_, size in list_caches(folder))
        limit = (free_disk(folder) + held) / 2e9 if self.max_gb is None else self.max_gb
        used = self.choice == "on" or (size <= limit and reads > 1)
        logger.info(
            "Feature cache: up to %.3f GB on disk (at most %.1f GB, see --feature_cache_max_gb), each text read %.1f times: %s",
            size, limit, reads, "used" if used else "not used",
        )  # fmt: skip
        if self.trunk_dtype == "bfloat16" and not used:
            raise RecipeError(NOT_CACHED)
        if used:
            key = trunk_key(model, self.dtype(device), device)
            forget_unused(folder, key, max(limit - size, 0) * 1e9)
        return used

    def dtype(self, device: torch.device) -> torch.dtype:
        """Return the dtype that the trunk runs in; where bfloat16 is emulated it would be slower than float32."""
        if self.trunk_dtype == "auto":
            return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
        return getattr(torch, self.trunk_dtype)


def count_reads(texts: int, training_args: TrainingArguments) -> float:
    """Return how often training reads each text."""
    if training_args.max_steps > 0:
        per_step = training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
        return training_args.max_steps * per_step / texts
    return training_args.num_train_epochs


def free_disk(folder: Path) -> int:
    """Return the bytes free where the folder is, or will be."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def list_caches(folder: Path = DEFAULT_FOLDER) -> Iterator[tuple[Path, dict, int]]:
    """Yield each trunk's folder, its description, and its size in bytes."""
    for about in sorted(folder.glob(f"*/{ABOUT_FILE}")):
        if not re.fullmatch("[0-9a-f]{32}", about.parent.name):  # a folder of the user's
            continue
        try:
            fields = dict(json.loads(about.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            fields = {}
        yield about.parent, fields, sum(map(size_of, our_files(about.parent)))


def our_files(folder: Path) -> list[Path]:
    """Return the files of a trunk's folder that we have written."""
    patterns = ("*.arrow", f"*{KEYS_SUFFIX}", ABOUT_FILE, f"{WRITING_PREFIX}*/*", f"{TEMPORARY_PREFIX}*/*")
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def size_of(path: Path) -> int:
    """Return the bytes of a file, 0 of one that another run has just moved or removed."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def remove_cache(folder: Path) -> None:
    """Remove what we have written into a trunk's folder, and the folder if that leaves it empty."""
    paths = our_files(folder)
    for path in paths:
        path.unlink(missing_ok=True)
    for path in (*({path.parent for path in paths} - {folder}), folder):
        with contextlib.suppress(OSError):
            path.rmdir()


def clear_caches(folder: Path = DEFAULT_FOLDER, unused_days: float = 0) -> int:
    """Remove the trunks' folders that were not used for so many days; return the bytes that this frees."""
    freed = 0
    for path, _, size in list(list_caches(folder)):
        if time.time() - last_use(path) >= unused_days * 86_400:
            remove_cache(path)
            freed += size
    return freed


def forget_unused(folder: Path, key: str, room: float) -> None:
    """Remove trunks' folders, but `key`'s and those in use, until the others take at most `room` bytes."""
    others = sorted((item for item in list_caches(folder) if item[0].name != key), key=lambda item: last_use(item[0]))
    held = sum(size for *_, size in others)
    for path, about, size in others:
        if held > room and time.time() - last_use(path) > IN_USE:
            logger.info("Feature cache: forgets %.3f GB of %s, not used longest", size / 1e9, about.get("model"))
            remove_cache(path)
            held -= size


def last_use(folder: Path) -> float:
    """Return when a trunk's folder was last used, in seconds since 1970."""
    with contextlib.suppress(FileNotFoundError):  # another run has just removed it
        return (folder / ABOUT_FILE).stat().st_mtime
    return time.time()


def warn_of_long_evaluation(sizes: Mapping[str, int], args: TrainingArguments) -> None:
    """Log a warning where evaluation reads ten times the texts that training reads."""
    train = count_reads(sizes["train"], args) * sizes["train"]
    epochs = 1 if args.max_steps > 0 else max(1, round(args.num_train_epochs))
    validations = 1 + (epochs if args.eval_strategy != "no" else 0)  # and one of the best model
    evaluation = validations * sizes["validation"] + sizes["test"]
    if evaluation > 10 * train:
        logger.warning(
            "evaluation reads %d texts or more, training %d: --max_eval_samples and --max_predict_samples limit it",
            evaluation, train,
        )  # fmt: skip


def keep_freed_memory() -> None:
    """Have glibc keep the blocks that each step's gradients free, instead of handing them back to the kernel.

    Else each step on a CPU faults its gradients' pages in again (28 MB at GPT-2 small's shape, a quarter of the step).
    Does nothing where the C library is another one. The numbers are mallopt's M_MMAP_THRESHOLD, at its largest value, and
    M_TRIM_THRESHOLD.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)
        mallopt(-1, 1 << 30)
