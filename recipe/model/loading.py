"""Checks of a checkpoint, before and after its weights are loaded: is it a GPT-2, is it complete, whose head has it."""

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import GPT2Config
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from recipe.errors import RecipeError, first_line

HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")
MODEL_TYPE = "gpt2_last_token_classifier"  # of GPT2LastTokenClassifier's own folders
POOLINGS = ("last", "first", "mean")
PYTORCH_ENDINGS = (".bin", ".pt", ".pth", ".safetensors")  # of files of weights


def load_config(name: str, revision: str = "main", **hub_arguments: Any) -> GPT2Config:
    """Load the config of a GPT-2 of any kind: a folder, or a hub id.

    transformers itself would load another architecture's folder as a GPT-2 of random weights, with a mere warning.

    Raises:
        RecipeError: no such folder or hub model, no readable config.json, or another architecture's.
    """
    folder = Path(name).expanduser()
    is_folder, parent_exists = folder.is_dir(), folder.parent != Path(".") and folder.parent.is_dir()
    if not (folder / "config.json").is_file() and (command := conversion(folder)):
        raise RecipeError(f"model {name!r} holds weights of another form: convert them: {command}")
    if not is_folder and (name.startswith((".", "~", "/")) or name.count("/") > 1 or parent_exists):
        raise RecipeError(f"model folder {name!r} does not exist: give one that save_pretrained wrote, or a hub id")
    try:
        with quiet_loading():
            fields, _ = PreTrainedConfig.get_config_dict(name, revision=revision, **hub_arguments)
    except Exception as error:  # the hub, the network and the file each raise their own
        where = "has no readable config.json" if is_folder else "is neither a local folder nor found on the hub"
        raise RecipeError(f"model {name!r} {where}: {first_line(error)}") from error
    if not fields.get("model_type"):
        raise RecipeError(f"model {name!r} has no readable config.json: give a folder that save_pretrained wrote")
    if fields["model_type"] not in ("gpt2", MODEL_TYPE):
        raise RecipeError(f"model {name!r} is of type {fields['model_type']!r}, not 'gpt2': take a GPT-2 model")
    labels = fields.get("id2label") or {}  # which people edit to rename labels
    if sorted(labels) != sorted(map(str, range(len(labels)))) or len({*labels.values()}) < len(labels):
        problem = f"config.json: id2label does not name each of its {len(labels)} labels once, by ids from 0 up"
        raise RecipeError(f"model {name!r}: {problem}: restore it")
    return GPT2Config.from_dict(fields)


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


def check_classifier_config(config: GPT2Config) -> None:
    """Raise RecipeError for a config that GPT2LastTokenClassifier cannot be built from."""
    if config.pooling not in POOLINGS:
        raise RecipeError(f"pooling is {config.pooling!r}: take one of {', '.join(POOLINGS)}")
    if config.num_labels < 2:
        raise RecipeError(f"num_labels is {config.num_labels}: a classifier needs at least 2 labels")
    if config.problem_type not in (None, "single_label_classification"):
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


def check_loaded_weights(
    name: str, base_config: GPT2Config, model: nn.Module, info: dict[str, Any], fresh_head: bool
) -> None:
    """Raise RecipeError where weights other than the head's are missing, or of other shapes than config.json's."""
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
