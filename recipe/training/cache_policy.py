"""Whether the trunk runs once per text, and in what: decided before it runs, and said."""

import logging
import shutil
from pathlib import Path

import torch
from datasets import Dataset

from recipe.arguments import ModelArguments, RecipeTrainingArguments
from recipe.errors import RecipeError
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.feature_cache import DEFAULT_FOLDER

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def use_feature_cache(
    model: GPT2LastTokenClassifier,
    splits: dict[str, Dataset],
    model_args: ModelArguments,
    training_args: RecipeTrainingArguments,
) -> bool:
    """`on` and `off` are orders; `auto` wants a frozen trunk, more than one pass over the texts, and room on the disk.

    Raises:
        RecipeError: `on`, but nothing is frozen; a bfloat16 trunk without the cache.
    """
    choice = model_args.feature_cache
    frozen = model.embeddings_frozen and model.split_depth > 0
    if choice == "on" and not frozen:
        raise RecipeError("feature_cache is on, but the first block trains: freeze it, or leave feature_cache at auto")
    used = choice != "off" and frozen and (fits_and_pays(model, splits, model_args, training_args) or choice == "on")
    if model_args.trunk_dtype == "bfloat16" and not used:
        raise RecipeError("trunk_dtype is bfloat16, but the trunk is not cached: it needs --feature_cache on")
    logger.info("Feature cache: %s", "used" if used else "not used")
    return used


def fits_and_pays(
    model: GPT2LastTokenClassifier,
    splits: dict[str, Dataset],
    model_args: ModelArguments,
    training_args: RecipeTrainingArguments,
) -> bool:
    """Says what the cache would take up; whether that is allowed, and whether more than one pass will read it."""
    size = estimated_bytes(model, splits, trunk_dtype(model_args.trunk_dtype, training_args.device)) / 1e9
    limit = model_args.feature_cache_max_gb
    if limit is None:
        limit = free_disk(Path(model_args.feature_cache_dir or DEFAULT_FOLDER)) / 2e9
    reads = passes(len(splits["train"]), training_args)
    logger.info(
        "Feature cache: up to %.3f GB on disk (at most %.1f GB, see --feature_cache_max_gb), read %g times",
        size, limit, reads,
    )  # fmt: skip
    return size <= limit and reads > 1


def passes(texts: int, training_args: RecipeTrainingArguments) -> float:
    """How often training reads each text."""
    if training_args.max_steps > 0:
        per_step = training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
        return training_args.max_steps * per_step / texts
    return training_args.num_train_epochs


def estimated_bytes(model: GPT2LastTokenClassifier, splits: dict[str, Dataset], dtype: torch.dtype) -> int:
    """What the hidden states of all texts take up on disk, were each one new and none a copy."""
    tokens = sum(len(split) if model.keeps_one_token else sum(split["length"]) for split in splits.values())
    return tokens * model.config.n_embd * dtype.itemsize


def free_disk(folder: Path) -> int:
    """Bytes free where the folder is, or will be."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def trunk_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it itself; elsewhere it would be slower than float32."""
    if name == "auto":
        name = "bfloat16" if native_bfloat16(device) else "float32"
    return DTYPES[name]


def native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
