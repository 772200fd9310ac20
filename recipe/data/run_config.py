"""The options of the run that saved a model, and how it read its files, for whatever reads more of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.errors import RecipeError, as_recipe_error
from recipe.shipped import PACKAGE, shipped

if TYPE_CHECKING:
    from recipe.arguments import DataArguments  # not imported here, since scripts for saved models do without

RUN_CONFIG_FILE = "run_config.yaml"  # the fields of a run, in its output_dir
# How a run has read its files, for whatever reads more of them for its model; and the types of these fields.
READING = {
    "text_column": list | str | None,
    "text_pair_column": str | None,
    "text_pair_separator": str,
    "label_column": str | None,
    "column_names": list | None,
    "delimiter": str | None,
    "csv_quoting": str,
    "encoding": str | None,
}
READ_AGAIN = {**READING, "normalize_labels": bool, "class_weight": str, "drop_missing": bool, "missing_label": str}


def read_run_config(model_dir: str | Path) -> dict[str, Any]:
    """Return the fields of the run that saved a model; empty for a model that no run of ours saved."""
    import yaml

    path = Path(model_dir).expanduser() / RUN_CONFIG_FILE
    errors = (OSError, ValueError, RecursionError, yaml.YAMLError)
    with as_recipe_error(errors, f"{path}: cannot be read", "restore it, or remove it"):
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(fields, dict):
        raise RecipeError(f"{path}: holds no `field: value` lines: restore it, or remove it")
    for name, kinds in READ_AGAIN.items():
        if name in fields and not isinstance(fields[name], kinds):
            raise RecipeError(f"{path}: {name} is {str(fields[name])[:40]!r}: restore it, or remove the file")
    return fields


def base_model_name(model_dir: str | Path) -> str:
    """Return the name of the model that a saved one was trained from, as it is shown."""
    return shown_name(read_run_config(model_dir).get("model_name_or_path") or model_dir)


def shown_name(model_name_or_path: str | Path) -> str:
    """Return a model's name for tables and pictures; `this model` for a folder, whose name may be private."""
    path = Path(shipped(str(model_name_or_path)))
    is_public = not path.exists() or path.resolve().is_relative_to(PACKAGE)
    return path.name if is_public else "this model"


def reading_of(model_dir: str | Path) -> dict[str, Any]:
    """Return how the run that saved a model has read its files: the options of READING that it has."""
    fields = {name: value for name, value in read_run_config(model_dir).items() if name in READING}
    if isinstance(fields.get("text_column"), str):
        fields["text_column"] = [fields["text_column"]]
    return fields


def keep_columns(data_args: "DataArguments", model_dir: str | Path) -> None:
    """Have a saved model of several columns of texts read these when it is trained again, unless others are named."""
    reading = reading_of(model_dir)
    several = len(reading.get("text_column") or []) > 1 or reading.get("text_pair_column")
    if several and data_args.text_column is None and data_args.text_pair_column is None:
        for name in ("text_column", "text_pair_column", "text_pair_separator"):
            setattr(data_args, name, reading.get(name, getattr(data_args, name)))
