"""Checks of a model's config.json, and of its weights' headers, before anything of the sizes named there is built."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import GPT2Config
from transformers.activations import ACT2FN
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from recipe.errors import RecipeError, first_line

MODEL_TYPE = "gpt2_last_token_classifier"  # of GPT2LastTokenClassifier's own folders
POOLINGS = ("last", "first", "mean")
PROBLEM_TYPES = (None, "single_label_classification")
SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")


def config_from_fields(name: str, fields: Any) -> GPT2Config:
    """Return the config of a GPT-2's config.json.

    Raises:
        RecipeError: another architecture, or fields that no GPT-2 classifier can have.
    """
    if not isinstance(fields, dict) or not fields.get("model_type"):
        raise RecipeError(f"model {name!r} has no readable config.json: give a folder that save_pretrained wrote")
    if fields["model_type"] not in ("gpt2", MODEL_TYPE):
        raise RecipeError(f"model {name!r} is of type {fields['model_type']!r}, not 'gpt2': take a GPT-2 model")
    if fields.get("problem_type") not in PROBLEM_TYPES:
        raise RecipeError(
            f"model {name!r} was trained for problem_type {fields['problem_type']!r}, and its answers are no probabilities"
            " of labels that exclude each other: take a model of one label a text"
        )
    try:
        problem = config_problem(fields)
        if problem is None:
            return GPT2Config.from_dict(fields)
    except Exception as error:  # whatever the fields hold: transformers checks some of them, each in its own way
        problem = " ".join(str(error).split())[:200]
    raise RecipeError(f"model {name!r}: config.json cannot be used: {problem}: restore the file")


def config_problem(fields: dict[str, Any]) -> str | None:
    """Return what is wrong with the fields of a config.json, or None."""
    sizes = {name: fields.get(name, getattr(GPT2Config, name)) for name in SIZES}
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            return f"{name} is {size!r}, not a number from 1 up"
    if sizes["n_embd"] % sizes["n_head"]:
        return f"n_head is {sizes['n_head']}, which does not divide n_embd, {sizes['n_embd']}"
    activation = fields.get("activation_function", "gelu_new")
    if activation not in ACT2FN:
        return f"activation_function is {activation!r}, which transformers does not know"
    if fields.get("quantization_config"):
        return "its weights are quantized"
    if not all(isinstance(name, str) for name in fields.get("architectures") or []):
        return "architectures is no list of names"
    for name in ("window", "window_overlap", "window_max_length"):
        least = 0 if name == "window_overlap" else 1
        if not (fields.get(name) is None or (type(fields[name]) is int and fields[name] >= least)):
            return f"{name} is {fields[name]!r}, not a number of tokens"
    labels = fields.get("id2label")
    if labels is not None:
        if sorted(int(i) for i in labels) != list(range(len(labels))):
            return f"id2label names the ids {', '.join(map(str, labels))[:80]}, not 0 to {len(labels) - 1}"
        if not all(isinstance(label, str) for label in labels.values()) or len(set(labels.values())) < len(labels):
            return "id2label holds a name twice, or one that is not a string"
        if fields.get("num_labels", len(labels)) != len(labels):
            return f"num_labels is {fields['num_labels']}, but id2label has {len(labels)} entries"
    return None


def check_classifier_config(config: GPT2Config) -> None:
    """Raise RecipeError for a config that GPT2LastTokenClassifier cannot be built from."""
    if config.pooling not in POOLINGS:
        raise RecipeError(f"pooling is {config.pooling!r}: take one of {', '.join(POOLINGS)}")
    if config.num_labels < 2:
        raise RecipeError(f"num_labels is {config.num_labels}: a classifier needs at least 2 labels")
    if config.problem_type not in PROBLEM_TYPES:
        raise RecipeError(f"problem_type is {config.problem_type!r}, but a text is given one label here: leave it out")
    if config._attn_implementation != "sdpa":  # the others are not causal when they get no mask
        raise RecipeError(f"attn_implementation is {config._attn_implementation!r}: only 'sdpa' is supported")


def check_weights_header(name: str, config: GPT2Config) -> None:
    """Compare the headers of a local folder's weights with its config: thousands of blocks would be built for hours.

    Raises:
        RecipeError: other sizes, weights that are not floats, files outside of the folder, or headers that do not load.
    """
    folder = Path(name).expanduser()
    shapes: dict[str, list[int]] = {}
    try:
        for path in weights_files(folder):
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118, not a dict
                    part = file.get_slice(key)
                    shapes[key.removeprefix("transformer.")] = part.get_shape()
                    if key.endswith((".attn.bias", ".attn.masked_bias")):  # masks that older versions saved
                        continue
                    if part.get_dtype()[0] not in "FB" or part.get_dtype() == "BOOL":  # F32, BF16 ...; I64, U8 ...
                        raise RecipeError(f"{path}: {key} is of dtype {part.get_dtype()}: weights are floating point")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"{folder}: no weights that load ({first_line(error)}): restore its safetensors files"
            " (those of a git checkout by `git lfs pull`)"
        ) from error
    if not shapes:
        return  # a hub id, or a folder without such files, which loading reports
    blocks = 1 + max((int(key.split(".")[1]) for key in shapes if key.startswith("h.")), default=config.n_layer - 1)
    if blocks != config.n_layer:
        raise RecipeError(f"{folder}: config.json says n_layer {config.n_layer}, but the weights have {blocks} blocks")
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    expected = {"wte.weight": [config.vocab_size, width], "wpe.weight": [config.n_positions, width]}
    expected |= {f"h.{i}.mlp.c_fc.weight": [width, inner] for i in range(blocks)}
    for key, shape in expected.items():
        if shapes.get(key, shape) != shape:
            raise RecipeError(f"{folder}: {key} is {shapes[key]} in the weights, but {shape} by config.json")


def weights_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers would load from a local folder."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if Path(name).name != name:
            raise RecipeError(f"{index}: names {name!r}, which is not a file of its folder: do not trust this model")
    return [folder / name for name in names]
