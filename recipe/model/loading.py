"""Checks of a checkpoint, before and after its weights are loaded: is it a GPT-2, is it complete, whose head has it."""

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, GPT2Config
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from recipe.errors import RecipeError, as_recipe_error, first_line

HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")
MODEL_TYPE = "gpt2_last_token_classifier"  # of GPT2LastTokenClassifier's own folders
POOLINGS = ("last", "first", "mean")
PROBLEM_TYPES = (None, "single_label_classification")
PYTORCH_ENDINGS = (".bin", ".pt", ".pth", ".safetensors")  # of files of weights


def load_config(name: str, revision: str = "main", **hub_arguments: Any) -> GPT2Config:
    """Load the config of a GPT-2 of any kind: a folder, or a hub id.

    transformers itself would load another architecture's folder as a GPT-2 of random weights, with a mere warning.

    Raises:
        RecipeError: no such folder or hub model, no readable config.json, or one that no GPT-2 classifier has.
    """
    folder = Path(name).expanduser()
    with as_recipe_error((OSError, ValueError), f"model {name[:200]!r} is no folder and no hub id", "check the name"):
        parent_exists = folder.parent != Path(".") and folder.parent.is_dir()
        looks_local = name.startswith((".", "~", "/")) or name.count("/") > 1 or parent_exists
        is_folder = folder.is_dir()
        if not (folder / "config.json").is_file() and (command := conversion(folder)):
            raise RecipeError(f"model {name!r} holds weights of another form: convert them: {command}")
    if not is_folder and looks_local:
        raise RecipeError(f"model folder {name!r} does not exist: give one that save_pretrained wrote, or a hub id")
    try:
        with quiet_loading():
            fields, _ = PreTrainedConfig.get_config_dict(name, revision=revision, **hub_arguments)
    except Exception as error:  # the hub, the network and the file each raise their own
        where = "has no readable config.json" if is_folder else "is neither a local folder nor found on the hub"
        raise RecipeError(f"model {name!r} {where}: {first_line(error)}") from error
    if not isinstance(fields, dict) or not fields.get("model_type"):
        raise RecipeError(f"model {name!r} has no readable config.json: give a folder that save_pretrained wrote")
    if fields["model_type"] not in ("gpt2", MODEL_TYPE):
        raise RecipeError(f"model {name!r} is of type {fields['model_type']!r}, not 'gpt2': take a GPT-2 model")
    try:
        check_fields(fields)
        return GPT2Config.from_dict(fields)
    except Exception as error:  # whatever the fields hold: transformers checks some of them, each in its own way
        problem = f"config.json cannot be used: {' '.join(str(error).split())[:200]}"
        raise RecipeError(f"model {name!r}: {problem}: restore it, or take another model") from error


def conversion(path: Path) -> str | None:
    """Return the command that converts weights, for a file or folder that holds other than save_pretrained's."""
    if path.is_dir():
        files = [*path.glob("*.index"), *pytorch_files(path)]
        found = files and not any(file.suffix == ".safetensors" for file in files)
    else:
        found = path.is_file() and path.suffix in PYTORCH_ENDINGS
    source, name = shlex.quote(str(path)), shlex.quote(f"models/{path.resolve().stem}-converted")
    return f"python scripts/convert_weights.py --source {source} --output_dir {name}" if found else None


def pytorch_files(folder: Path) -> list[Path]:
    """Return the files of PyTorch weights in a folder, without those that Trainer writes beside them."""
    others = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
    files = [file for file in sorted(folder.iterdir()) if file.suffix in PYTORCH_ENDINGS]
    return [file for file in files if not file.name.startswith(others)]


def check_fields(fields: dict[str, Any]) -> None:
    """Raise an error for a config.json whose model would answer wrongly."""
    if fields.get("problem_type") not in PROBLEM_TYPES:
        raise ValueError(f"it was trained for problem_type {fields['problem_type']!r}, not for one label a text")
    if fields.get("quantization_config"):
        raise ValueError("its weights are quantized")
    labels = fields.get("id2label") or {}  # which people edit to rename labels
    if sorted(int(i) for i in labels) != list(range(len(labels))):
        raise ValueError(f"id2label names the ids {', '.join(map(str, labels))[:80]}, not 0 to {len(labels) - 1}")
    names = labels.values() if labels else ()
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("id2label holds a name twice, or one that is not a string")


def check_classifier_config(config: GPT2Config) -> None:
    """Raise RecipeError for a config that GPT2LastTokenClassifier cannot be built from."""
    if config.pooling not in POOLINGS:
        raise RecipeError(f"pooling is {config.pooling!r}: take one of {', '.join(POOLINGS)}")
    if config.n_head < 1:
        raise RecipeError(f"n_head is {config.n_head}: restore the model's config.json")
    if config.num_labels < 2:
        raise RecipeError(f"num_labels is {config.num_labels}: a classifier needs at least 2 labels")
    if config.problem_type not in PROBLEM_TYPES:
        raise RecipeError(f"problem_type is {config.problem_type!r}, but a text is given one label here: leave it out")
    if config._attn_implementation != "sdpa":  # the others are not causal when they get no mask
        raise RecipeError(f"attn_implementation is {config._attn_implementation!r}: only 'sdpa' is supported")


def head_labels(config: GPT2Config) -> list[str] | None:
    """Return the labels by id of a classifier's head, or None if the checkpoint has no head or does not name them."""
    has_head = any("Classif" in name for name in config.architectures or [])
    names = [config.id2label[i] for i in range(config.num_labels)]
    return names if has_head and names != [f"LABEL_{i}" for i in range(len(names))] else None


def has_other_labels(name: str, config: GPT2Config, id2label: dict[int, str] | None, fresh_head: bool) -> bool:
    """Return whether the checkpoint has a named head that is not for these labels in this order.

    Raises:
        RecipeError: it has, and no fresh head is asked for.
    """
    labels = head_labels(config)
    if labels is None or id2label is None or labels == [id2label[i] for i in range(len(id2label))]:
        return False
    if not fresh_head:
        raise RecipeError(
            f"{name}: its head is for the labels {', '.join(labels)}, the data has {', '.join(id2label.values())}: pass"
            " --ignore_mismatched_sizes true to start with a fresh head"
        )
    return True


def describe_weights(name: str, error: Exception) -> str:
    """Return why weights do not load: a local folder's file names tell, elsewhere the error."""
    folder = Path(name).expanduser()
    endings = {path.suffix for path in folder.iterdir()} if folder.is_dir() else set()
    if ".safetensors" in endings:
        return f"{first_line(error)}: restore its safetensors files (those of a git checkout by `git lfs pull`)"
    if folder.is_dir() and (command := conversion(folder)):
        return f"they are pickled, which is not safe to load: convert them: {command}"
    return first_line(error)


def pad_token_id(name: str, config: GPT2Config) -> int | None:
    """Return what a model's tokenizer pads with, `<|endoftext|>` if it has no pad token; without one, what the config says.

    A stock GPT2ForSequenceClassification finds the end of a text by its config's id alone, so this may not be another.
    A tokenizer is looked for in a local folder only: load_tokenizer sets the id for all others.
    """
    ids = [config.pad_token_id, config.eos_token_id]
    if Path(name, "tokenizer_config.json").is_file():
        with suppress(Exception), quiet_loading():  # what is wrong with a tokenizer is the concern of who needs it
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            ids = [tokenizer.pad_token_id, tokenizer.eos_token_id, *ids]
    return next((token_id for token_id in ids if token_id is not None), None)


def check_loaded_weights(
    name: str, base_config: GPT2Config, model: nn.Module, info: dict[str, Any], fresh_head: bool
) -> None:
    """Raise RecipeError where weights other than the head's are missing, not finite, or of other shapes than config.json's."""
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("score."))
    if missing and Path(name, "trainer_state.json").is_file():
        raise RecipeError(
            f"{name}: is a run's checkpoint, which holds the trained weights alone: give the run's output_dir, {Path(name).parent}"
        )
    if missing:
        lacks = f"lacks {len(missing)} GPT-2 weights ({missing[0]} ...)"
        raise RecipeError(f"{name}: the checkpoint {lacks}: it is incomplete")
    blocks = {int(found[1]) + 1 for key in info["unexpected_keys"] if (found := re.search(r"\bh\.(\d+)\.", key))}
    if max(blocks, default=0) > (n_layer := base_config.n_layer):  # not one that the caller has chosen
        raise RecipeError(f"{name}: config.json says n_layer {n_layer}, but the weights have {max(blocks)} blocks")
    if any(key.startswith("score.") for key in info["unexpected_keys"]) and not fresh_head:
        saved_by = (model.config.architectures or ["?"])[0]
        raise RecipeError(f"{name}: was saved by {saved_by}, a class with a head of its own: load it with that class")
    for key, parameter in model.named_parameters():
        if not torch.isfinite(parameter.sum()) and not torch.isfinite(parameter).all():  # the sum takes half the time
            raise RecipeError(f"{name}: {key} holds values that are not finite: train it again, or take another model")
    for key, saved, wanted in sorted(info["mismatched_keys"], reverse=True):  # the head last
        if not key.startswith("score."):
            raise RecipeError(f"{name}: {key} is {list(saved)} in the checkpoint but {list(wanted)} by its config.json")
        if not fresh_head:
            raise RecipeError(
                f"{name}: its head has {saved[0]} labels but {wanted[0]} are needed: restore config.json, or, to train a"
                " fresh head, pass ignore_mismatched_sizes (train.py: --ignore_mismatched_sizes true)"
            )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence load reports, bars and retries: an error is reported once, by the caller."""
    disabled, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(disabled)
        if bars:
            transformers_logging.enable_progress_bar()
