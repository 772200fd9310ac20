"""Checks of a model's config.json, before the model is built."""

from typing import Any

from transformers import GPT2Config

from recipe.errors import RecipeError

MODEL_TYPE = "gpt2_last_token_classifier"  # of GPT2LastTokenClassifier's own folders
POOLINGS = ("last", "first", "mean")
PROBLEM_TYPES = (None, "single_label_classification")


def config_from_fields(name: str, fields: Any) -> GPT2Config:
    """Return the config of a GPT-2's config.json.

    Raises:
        RecipeError: another architecture, or fields that no GPT-2 classifier can have.
    """
    if not isinstance(fields, dict) or not fields.get("model_type"):
        raise RecipeError(f"model {name!r} has no readable config.json: give a folder that save_pretrained wrote")
    if fields["model_type"] not in ("gpt2", MODEL_TYPE):
        raise RecipeError(f"model {name!r} is of type {fields['model_type']!r}, not 'gpt2': take a GPT-2 model")
    try:
        check_fields(fields)
        return GPT2Config.from_dict(fields)
    except Exception as error:  # whatever the fields hold: transformers checks some of them, each in its own way
        problem = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"model {name!r}: config.json cannot be used: {problem}: restore it, or take another"
        ) from error


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
    if config.num_labels < 2:
        raise RecipeError(f"num_labels is {config.num_labels}: a classifier needs at least 2 labels")
    if config.problem_type not in PROBLEM_TYPES:
        raise RecipeError(f"problem_type is {config.problem_type!r}, but a text is given one label here: leave it out")
    if config._attn_implementation != "sdpa":  # the others are not causal when they get no mask
        raise RecipeError(f"attn_implementation is {config._attn_implementation!r}: only 'sdpa' is supported")
