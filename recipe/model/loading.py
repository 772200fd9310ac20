"""What a checkpoint is, looked at before and after its weights are loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils import logging as hub_logging
from transformers import GPT2Config
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from recipe.errors import RecipeError, one_line


def load_config(name: str, revision: str) -> GPT2Config:
    check_is_gpt2(name, revision=revision)
    return GPT2Config.from_pretrained(name, revision=revision)


def labels_of_head(config: GPT2Config) -> list[str] | None:
    """The labels by id of a classifier's head, if the checkpoint has one and names them."""
    has_head = any(
        name.endswith(("SequenceClassification", "LastTokenClassifier")) for name in config.architectures or []
    )
    names = [config.id2label[i] for i in range(config.num_labels)]
    return names if has_head and names != [f"LABEL_{i}" for i in range(len(names))] else None


def check_is_gpt2(name: str, **hub_kwargs: Any) -> None:
    """transformers would load another architecture's folder as a GPT-2 of random weights, with a mere warning."""
    folder = Path(name).expanduser()
    looks_local = (
        name.startswith((".", "~", "/"))
        or name.count("/") > 1
        or (folder.parent != Path(".") and folder.parent.is_dir())
    )
    if not folder.is_dir() and looks_local:
        raise RecipeError(
            f"model folder {name!r} does not exist: give a folder with config.json and model.safetensors, or a hub id"
        )
    try:
        with quiet_loading():
            config, _ = PreTrainedConfig.get_config_dict(name, **hub_kwargs)
    except (OSError, ValueError) as error:
        where = (
            "has no readable config.json"
            if folder.is_dir()
            else "is neither a folder here nor a model that the hub gives"
        )
        raise RecipeError(f"model {name!r} {where}: {one_line(error)}") from error
    if not config.get("model_type"):
        raise RecipeError(f"model {name!r} has no readable config.json: give a folder that save_pretrained wrote")
    if config["model_type"] != "gpt2":
        raise RecipeError(f"model {name!r} is of type {config['model_type']!r}, not 'gpt2': take a GPT-2 model")


def describe_weights(name: str) -> str | None:
    """What is wrong with a folder whose weights do not load, where a look at its files tells."""
    folder = Path(name).expanduser()
    if not folder.is_dir() or list(folder.glob("*.safetensors")):
        return None
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
        return "they are pickled, which is not safe to load: save them again as model.safetensors"
    return "there is no model.safetensors in the folder: save the model with save_pretrained"


def check_loaded_weights(name: str, info: dict[str, Any], fresh_head_wanted: bool) -> None:
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("score."))
    if "transformer.wte.weight" in missing and "score.bias" not in info["missing_keys"]:
        raise RecipeError(
            f"{name}: holds the trained tail alone, as a run's checkpoints do: give the run's output_dir, {Path(name).parent}"
        )
    if missing:
        raise RecipeError(
            f"{name}: the checkpoint lacks {len(missing)} GPT-2 weights ({missing[0]} ...): it is incomplete"
        )
    for key, saved, wanted in sorted(info["mismatched_keys"]):
        if not key.startswith("score."):
            raise RecipeError(f"{name}: {key} is {list(saved)} in the checkpoint but {list(wanted)} by its config.json")
        if not fresh_head_wanted:
            raise RecipeError(
                f"{name}: its head has {saved[0]} labels but {wanted[0]} are needed:"
                " pass ignore_mismatched_sizes (--ignore_mismatched_sizes true) to start with a fresh head"
            )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No load report, no bar, no word of each retry: what went wrong is said once, by whoever catches it."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
