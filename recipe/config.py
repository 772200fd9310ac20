"""YAML recipes: a file and command-line overrides into the dataclasses of arguments.py, and a run back into YAML."""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

# transformers imports peft where it is installed: two seconds that printing the options can spare.
if {"-h", "--help"} & set(sys.argv):
    sys.modules.setdefault("peft", None)

import yaml
from transformers import HfArgumentParser, TrainingArguments

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.errors import OneLineErrors, RecipeError, as_recipe_error, first_line
from recipe.shipped import shipped

# Saved with a run even where they are the library's defaults, which may change.
ALWAYS_SAVED = ("learning_rate", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "optim", "seed")
ALWAYS_SAVED += ("per_device_train_batch_size", *RecipeTrainingArguments.__annotations__)
NEVER_SAVED = ("hub_token", "overwrite_output_dir", "dataloader_pin_memory", "resume_from_checkpoint")

HINTS = {  # for fields that other trainers have
    "num_labels": "it is the number of labels that the data has",
    "problem_type": "each text gets one label: leave it out",
    "streaming": "texts are read in batches and lie on disk anyway: leave it out",
    "no_cuda": "take --use_cpu",
    "max_seq_length": "take --max_length",
    "text_column_name": "take --text_column",
    "text_column_names": "take --text_column title body",
    "label_column_name": "take --label_column",
    "overwrite_cache": "rows are found by their content: leave it out, or clear the cache by scripts/feature_cache.py",
    "warmup_ratio": "transformers 5 takes --warmup_steps, a share under 1 or a number of steps",
}

Arguments = tuple[ModelArguments, DataArguments, RecipeTrainingArguments]


class UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings name each key once: of two values of a field, one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} occurs twice", key.start_mark)
        return super().construct_mapping(node, deep)


class FieldParser(OneLineErrors, HfArgumentParser):
    pass


class FieldHelp(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parse_arguments(argv: list[str], others: Sequence[str] = (), description: str | None = None) -> Arguments:
    """Read `--config FILE.yaml` and `--field value` overrides, which win; check names and types of both.

    `others` are a script's own options, which an unknown field may have meant.
    """
    parser = make_parser()
    parser.description = description
    parser.add_argument("--config", metavar="FILE.yaml", help="A recipe; the command line overrides its fields.")
    namespace, unknown = parser.parse_known_args(argv)
    if path := shipped(namespace.config):
        # YAML's values become command-line words, so that one parser checks the types of both.
        namespace, unknown = parser.parse_known_args(fields_to_argv(read_yaml_mapping(path), path) + argv)
    if unknown:
        raise unknown_field(parser, field_of(unknown[0]), "the command line", others)
    del namespace.config
    try:
        arguments = parser.parse_dict(vars(namespace))
    except RecipeError:
        raise
    except Exception as error:  # TrainingArguments checks its fields itself, and raises whatever it meets
        raise RecipeError(f"arguments: {' '.join(str(error).split())}") from error
    if arguments[1].class_weight != "none" and arguments[2].label_smoothing_factor:
        raise RecipeError("class_weight and label_smoothing_factor exclude each other: drop one of them")
    return arguments


def field_of(word: str) -> str:
    """Return the field that a word of the command line names: `--hub-token=x` is `hub_token`, as the parser takes it."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def make_parser() -> FieldParser:
    """Return a parser of all fields."""
    kinds = (ModelArguments, DataArguments, RecipeTrainingArguments)
    return FieldParser(kinds, allow_abbrev=False, formatter_class=FieldHelp)


def fields_to_argv(fields: dict[str, Any], where: str) -> list[str]:
    """Return a mapping out of YAML as command-line words, checked; errors begin with `where`. `null` leaves the default."""
    parser = make_parser()
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    argv: list[str] = []
    for name, value in fields.items():
        if name not in known:
            raise unknown_field(parser, str(name), where)
        takes_many = known[name].nargs == "+"
        if isinstance(value, list) and not takes_many:
            raise RecipeError(f"{where}: {name} takes one value, not a list")
        if isinstance(value, list) and any(isinstance(word, (list, dict)) for word in value):
            raise RecipeError(f"{where}: {name} takes a list of values, not of lists")
        if value is None or value == []:
            continue
        words = value if isinstance(value, list) else [value]
        if value is False and name.endswith("_strategy"):
            words = ["no"]  # which YAML reads as a boolean
        words = [json.dumps(word) if isinstance(word, dict) else str(word) for word in words]
        argv += [f"--{name}", *words] if takes_many else [f"--{name}={words[0]}"]
    try:
        parser.parse_known_args(argv)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    return argv


def read_yaml_mapping(path: str) -> dict[str, Any]:
    """Load a YAML file of `field: value` lines; raise RecipeError, with the line, for anything else."""
    with as_recipe_error((OSError, ValueError), f"{path}: cannot be read", "check the path, and that it is UTF-8"):
        text = Path(path).read_text(encoding="utf-8")
    try:
        fields = yaml.load(text, UniqueKeys)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {error.problem}" if mark else first_line(error)
        raise RecipeError(f"{path}: is not YAML ({where}): write one `field: value` a line") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"{path}: is no mapping: write one `field: value` a line")
    return fields


def unknown_field(parser: FieldParser, name: str, where: str, others: Sequence[str] = ()) -> RecipeError:
    """Return the error for an unknown field, with what helps, or the nearest known one."""
    if name in HINTS:
        return RecipeError(f"{where}: unknown field {name!r}: {HINTS[name]}")
    known = [*others, *(action.dest for action in parser._actions if action.dest != name)]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "see --help for the fields"
    return RecipeError(f"{where}: unknown field {name!r}: {hint}")


def resolved_config(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> dict:
    """Return the run as a mapping that `--config` takes again: all our fields, and TrainingArguments' that were set.

    Never a token: `hub_token` is left out.
    """

    def plain(value: Any) -> Any:
        return value.value if isinstance(value, Enum) else value

    stock = TrainingArguments(output_dir=training_args.output_dir, use_cpu=training_args.use_cpu)
    values = {**vars(model_args), **vars(data_args), "output_dir": training_args.output_dir}
    for name in (f.name for f in dataclasses.fields(training_args) if f.name not in NEVER_SAVED):
        value = getattr(training_args, name)
        if name in ALWAYS_SAVED or value != getattr(stock, name, None):
            values[name] = [*map(plain, value)] if isinstance(value, list) else plain(value)
    metric = training_args.metric_for_best_model
    if metric and training_args.greater_is_better != metric.endswith("loss"):
        values.pop("greater_is_better", None)  # follows from the metric, and must follow another one too
    kinds = (str, int, float, bool, list, dict)
    return {name: value for name, value in values.items() if isinstance(value, kinds) and value not in ([], {})}
