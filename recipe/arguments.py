"""What a run is: three dataclasses, filled from a YAML file and from command-line overrides."""

import dataclasses
import difflib
import json
import logging
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from recipe.errors import OneLineErrors, RecipeError, one_line
from recipe.reading import FileFormat

logger = logging.getLogger(__name__)

METRICS = ("loss", "accuracy", "macro_f1")  # what a validation gives


def option(default: Any, help: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    model_name_or_path: str = option("openai-community/gpt2", "A GPT-2 of any size: a folder or a hub id.")
    model_revision: str = option("main", "Branch, tag or commit of a hub model.")
    trainable: list[str] = option(
        ["last_blocks:1"],
        "What trains: all, head, last_blocks:K (the last K blocks, ln_f and the head), or globs over parameter names.",
    )
    pooling: Literal["last", "first", "mean"] | None = option(
        None, "Which token the head reads; by default what a classifier's checkpoint says, else last, the recipe."
    )
    dropout: float = option(0.0, "Dropout of the trainable blocks.")
    ignore_mismatched_sizes: bool = option(
        False, "Replace a head for other labels by a fresh one instead of refusing it."
    )
    feature_cache: Literal["auto", "on", "off"] = option(
        "auto", "Run a frozen trunk once per text and train the tail on what it gave; auto: where that pays and fits."
    )
    feature_cache_dir: str | None = option(None, "Folder of the cache; by default one in the Hugging Face home.")
    feature_cache_max_gb: float | None = option(
        None, "Largest cache that auto makes; by default half of the free disk."
    )
    trunk_dtype: Literal["float32", "bfloat16", "auto"] = option(
        "float32", "What the cached trunk runs in; auto: bfloat16 where the hardware multiplies it natively."
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is {self.dropout}: take a share from 0 up to, but not, 1")


@dataclass
class DataArguments:
    dataset_name: str | None = option(None, "A dataset of the hub, or a folder that `datasets` loads.")
    dataset_config_name: str | None = option(None, "Its configuration, where it has several.")
    train_file: str | None = option(None, "CSV, TSV or JSON-lines file; stands in for dataset_name.")
    validation_file: str | None = option(None, "The same; without it, rows are split off the training file.")
    test_file: str | None = option(None, "The same; without it, rows are split off the training file.")
    text_column: str | None = option(
        None, "Column of the texts; found by its name if not given (text, sms, message ...)."
    )
    label_column: str | None = option(
        None, "Column of the labels; found by its name if not given (label, category ...)."
    )
    column_names: list[str] | None = option(None, "Names of the columns, used where a file has no header row.")
    delimiter: str | None = option(None, "Between columns; by default tab for .tsv, else what the first line shows.")
    csv_quoting: Literal["auto", "minimal", "none"] = option(
        "auto",
        'Whether "..." quotes a cell: minimal (as pandas reads), none, or auto (none where tabs separate cells).',
    )
    max_length: int | None = option(None, "Longest text in tokens, the rest is cut; by default the model's positions.")
    truncation_side: Literal["right", "left"] | None = option(
        None, "Which end of a text that is too long is cut; by default what the tokenizer says, mostly right."
    )
    validation_fraction: float = option(0.1, "Share of the training file's rows to split off for validation.")
    test_fraction: float = option(0.2, "Share of the training file's rows to split off for the test.")
    split_method: Literal["stratified", "shuffled"] = option(
        "stratified", "stratified keeps the label shares; shuffled is one pandas shuffle cut in three, as tutorials do."
    )
    split_seed: int = option(42, "Seed of splits and samples, apart from `seed`, so that seeds can be compared.")
    remove_duplicates: bool = option(True, "Keep exact copies of a text out of other splits.")
    undersample: Literal["none", "train", "all"] = option(
        "none",
        "Cut every label to the rarest one's rows: in the training split, or in all of the training file's rows.",
    )
    class_weight: Literal["none", "balanced"] = option("none", "Weigh the loss by inverse label frequency.")
    max_train_samples: int | None = option(None, "Train on this many texts at most, drawn at random.")
    max_eval_samples: int | None = option(None, "Validate on this many texts at most, drawn at random.")
    max_predict_samples: int | None = option(None, "Test on this many texts at most, drawn at random.")

    @property
    def file_format(self) -> FileFormat:
        names = tuple(self.column_names) if self.column_names else None
        return FileFormat(self.delimiter, self.csv_quoting, names)

    def __post_init__(self) -> None:
        if self.train_file is None and self.dataset_name is None:
            raise RecipeError("no data: give --train_file FILE or --dataset_name NAME")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}: take a share between 0 and 1, such as 0.1")
        if not 0 <= self.split_seed < 2**32:
            raise RecipeError(f"split_seed is {self.split_seed}: take a whole number from 0 up")
        if self.validation_fraction + self.test_fraction >= 1:
            raise RecipeError(
                "validation_fraction and test_fraction leave no row to train on: their sum must be under 1"
            )
        for name in ("max_length", "max_train_samples", "max_eval_samples", "max_predict_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}: take a whole number from 1 up, or leave it out")


@dataclass
class RecipeTrainingArguments(TrainingArguments):
    """TrainingArguments with the recipe's defaults."""

    output_dir: str | None = option(None, "Where the model, its figures and the checkpoints go.")
    overwrite_output_dir: bool = option(False, "Allow an output_dir that holds files; its old checkpoints are removed.")
    num_train_epochs: float = option(5.0, "Number of passes over the training texts.")
    weight_decay: float = option(0.1, "AdamW's weight decay, on all but biases and norms.")
    eval_strategy: str = option("epoch", "When to validate: no, steps or epoch.")
    save_strategy: str = option("epoch", "When to save a checkpoint: no, steps, epoch or best.")
    save_total_limit: int | None = option(1, "How many checkpoints to keep, the best one apart.")
    load_best_model_at_end: bool = option(True, "Keep the model of the best validation, by metric_for_best_model.")
    early_stopping_patience: int | None = option(None, "Stop after this many validations without a better one.")
    logging_steps: float = option(50, "Steps between two log lines of the training loss.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise RecipeError("no output_dir: give --output_dir DIR")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}: take a whole number from 1 up")
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise RecipeError(f"num_train_epochs is {self.num_train_epochs}: take a number above 0")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise RecipeError(
                "early_stopping_patience needs load_best_model_at_end: leave it true, or drop the patience"
            )
        if self.learning_rate < 0 or not 0 <= self.seed < 2**32:
            raise RecipeError(f"learning_rate is {self.learning_rate}, seed {self.seed}: take no negative numbers")
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in METRICS:
            raise RecipeError(f"metric_for_best_model is {metric!r}: take one of {', '.join(METRICS)}")
        if self.push_to_hub:
            raise RecipeError("push_to_hub is not supported: train first, then publish OUTPUT_DIR with `hf upload`")
        # `accelerate launch --cpu` says so in the environment only, and bf16 without a GPU wants it said.
        launched_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        self.use_cpu = self.use_cpu or launched_for_cpu or not torch.accelerator.is_available()
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        super().__post_init__()
        if self.n_gpu > 1:  # DataParallel's replicas have no parameters, so nothing would tell what is frozen
            logger.warning("one of %d GPUs is used: to use all, start with `accelerate launch`", self.n_gpu)
            self._n_gpu = 1


# Saved with a run even where they are the library's defaults, which may change.
ALWAYS_SAVED = ("learning_rate", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "optim", "seed")
ALWAYS_SAVED += ("per_device_train_batch_size", *RecipeTrainingArguments.__annotations__)

Arguments = tuple[ModelArguments, DataArguments, RecipeTrainingArguments]


class FieldParser(OneLineErrors, HfArgumentParser):
    """HfArgumentParser, but what is wrong is said in one line."""


def parse_arguments(argv: list[str]) -> Arguments:
    """Reads `--config FILE.yaml` and `--field value` overrides, which win; checks names and types of both.

    Raises:
        RecipeError: unreadable YAML, unknown field (with the nearest known name), wrong type, impossible combination.
    """
    parser = FieldParser((ModelArguments, DataArguments, RecipeTrainingArguments), allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE.yaml", help="A recipe; the command line overrides its fields.")
    config = FieldParser(allow_abbrev=False, add_help=False)
    config.add_argument("--config")
    path = config.parse_known_args(argv)[0].config
    config_argv = yaml_to_argv(parser, path) if path else []
    namespace, unknown = parser.parse_known_args(config_argv + argv)
    if unknown:
        raise RecipeError(unknown_field(parser, unknown[0].removeprefix("--").partition("=")[0], "the command line"))
    values = {name: value for name, value in vars(namespace).items() if name != "config"}
    try:
        return parser.parse_dict(values)
    except RecipeError:
        raise
    except (ValueError, TypeError, ImportError, OSError) as error:  # TrainingArguments checks its fields itself
        raise RecipeError(f"arguments: {' '.join(str(error).split())}") from error


def yaml_to_argv(parser: FieldParser, path: str) -> list[str]:
    """A YAML mapping as command-line words, so that one parser checks the types of both. `null` leaves the default."""
    fields = read_yaml_mapping(path)
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    argv: list[str] = []
    for name, value in fields.items():
        if name not in known:
            raise RecipeError(unknown_field(parser, str(name), path))
        takes_many = known[name].nargs == "+"
        if isinstance(value, list) and not takes_many:
            raise RecipeError(f"{path}: {name} takes one value, not a list")
        if value is None or value == []:
            continue
        if value is False and name.endswith("_strategy"):
            value = "no"  # which YAML reads as a boolean
        words = value if isinstance(value, list) else [value]
        words = [json.dumps(word) if isinstance(word, dict) else str(word) for word in words]
        argv += [f"--{name}", *words] if takes_many else [f"--{name}={words[0]}"]
    try:
        parser.parse_known_args(argv)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return argv


def read_yaml_mapping(path: str) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}): check the path after --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else one_line(error)
        raise RecipeError(f"{path}: is not YAML ({where}): write one `field: value` a line") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"{path}: is no mapping: write one `field: value` a line")
    return fields


def unknown_field(parser: FieldParser, name: str, where: str) -> str:
    known = [action.dest for action in parser._actions]
    nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "see --help for the fields"
    return f"{where}: unknown field {name!r}: {hint}"


def resolved_config(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> dict:
    """What the run was, as a mapping that `--config` takes again: all our fields, and TrainingArguments' that were set.

    Never a token: `hub_token` is left out.
    """
    stock = TrainingArguments(output_dir=training_args.output_dir, use_cpu=training_args.use_cpu)
    ours = {**dataclasses.asdict(model_args), **dataclasses.asdict(data_args)}
    theirs = {
        f.name: getattr(training_args, f.name)
        for f in dataclasses.fields(training_args)
        if f.name not in ("hub_token", "overwrite_output_dir", "dataloader_pin_memory", "resume_from_checkpoint")
        and (f.name in ALWAYS_SAVED or getattr(training_args, f.name) != getattr(stock, f.name, None))
    }
    if (
        training_args.metric_for_best_model
        and training_args.greater_is_better != training_args.metric_for_best_model.endswith("loss")
    ):
        theirs.pop("greater_is_better", None)  # follows from the metric, and must follow another one too
    theirs = {name: value.value if isinstance(value, Enum) else value for name, value in theirs.items()}
    plain = (str, int, float, bool, list, dict)
    both = {**ours, "output_dir": training_args.output_dir, **theirs}
    return {name: value for name, value in both.items() if isinstance(value, plain) and value not in ([], {})}
