"""Every option of a run, in three dataclasses: the model, the data and the training."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from recipe.distributed import check_launch
from recipe.errors import RecipeError, parse_probability
from recipe.shipped import shipped

METRICS = ("loss", "accuracy", "macro_f1")  # computed at each validation


def option(default: Any, help: str) -> Any:
    value = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**value, metadata={"help": help})


COUNTED = "a whole number from 1 up, or leave it out"
# Fields, what is true of a right value (None is left out), and what to take in place of a wrong one.
CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("dropout", lambda x: 0 <= x < 1, "a share from 0 up to, but not, 1"),
    ("lora_r max_length max_train_samples max_eval_samples max_predict_samples", lambda x: x >= 1, COUNTED),
    ("lora_alpha feature_cache_max_gb", lambda x: 0 < x < math.inf, "a number above 0"),
    ("validation_fraction test_fraction", lambda x: 0 < x < 1, "a share between 0 and 1, such as 0.1"),
    ("max_row_mb", lambda x: 0 < x <= 1000, "a number above 0, up to 1000"),
    ("split_seed seed data_seed", lambda x: 0 <= x < 2**32, "a whole number from 0 up, under 2**32"),
    (
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps",
        lambda x: 1 <= x < 2**20,
        "a whole number from 1 up, under 2**20",
    ),
    ("early_stopping_patience eval_accumulation_steps", lambda x: x >= 1, COUNTED),
    ("dataloader_num_workers", lambda x: x >= 0, "a whole number from 0 up"),
    ("learning_rate weight_decay adam_epsilon max_grad_norm", lambda x: 0 <= x < math.inf, "a number from 0 up"),
    ("adam_beta1 adam_beta2 label_smoothing_factor", lambda x: 0 <= x < 1, "a number from 0 up to, but not, 1"),
    ("label_names", lambda x: x == ["labels"], "labels, or leave it out"),
    ("prediction_loss_only", lambda x: not x, "false: figures need more than the loss"),
    ("eval_do_concat_batches", bool, "true: figures are computed from all batches together"),
    ("remove_unused_columns", bool, "true: texts have columns that the model does not read"),
    ("bf16_full_eval fp16_full_eval", lambda x: not x, "false: it would cast the model that is saved"),
)


def check_fields(arguments: Any, names: str, is_right: Callable[[Any], bool], wanted: str) -> None:
    """Raise RecipeError for the first of the fields, named with spaces between, that is set and not right."""
    for name in names.split():
        value = getattr(arguments, name, None)
        if value is not None and not is_right(value):
            raise RecipeError(f"{name} is {value}: take {wanted}")


def check_all_fields(arguments: Any) -> None:
    for check in CHECKS:
        check_fields(arguments, *check)


@dataclass
class ModelArguments:
    model_name_or_path: str = option("openai-community/gpt2", "A GPT-2 of any size: a folder or a hub id.")
    model_revision: str = option("main", "Branch, tag or commit of a hub model.")
    trainable: list[str] = option(
        ["last_blocks:1"],
        "What trains: all, head, last_blocks:K (the last K, ln_f, head), or globs over parameter names.",
    )
    lora_r: int | None = option(
        None, "Train LoRA adapters of this rank in place of the matrices of `trainable` (needs peft)."
    )
    lora_alpha: float = option(16.0, "LoRA scaling: lora_alpha / lora_r.")
    pooling: Literal["last", "first", "mean"] | None = option(
        None,
        "Token the head reads: last (the recipe), mean, first (a control: cannot see the rest); default: the checkpoint's.",
    )
    dropout: float = option(0.0, "Dropout of the trainable blocks.")
    ignore_mismatched_sizes: bool = option(False, "Replace a head for other labels by a fresh one (else refused).")
    feature_cache: Literal["auto", "on", "off"] = option(
        "auto", "Run a frozen trunk once per text, train the tail on its output; auto: where that pays and fits."
    )
    feature_cache_dir: str | None = option(None, "Folder of the cache; by default one in the Hugging Face home.")
    feature_cache_max_gb: float | None = option(
        None, "Size of all caches; by default half of the free disk and theirs."
    )
    trunk_dtype: Literal["float32", "bfloat16", "auto"] = option(
        "float32", "The cached trunk's dtype; auto: bfloat16 where the hardware multiplies it natively."
    )

    def __post_init__(self) -> None:
        self.model_name_or_path = shipped(self.model_name_or_path)
        check_all_fields(self)

    @property
    def cache(self) -> dict[str, Any]:
        """The options of `cache_features`."""
        where = {"cache_dir": self.feature_cache_dir, "max_gb": self.feature_cache_max_gb}
        return {**where, "dtype": self.trunk_dtype, "when": self.feature_cache}


@dataclass
class DataArguments:
    dataset_name: str | None = option(None, "A dataset of the hub, or a folder that `datasets` loads or saved.")
    dataset_config_name: str | None = option(None, "Its configuration, where it has several.")
    train_file: list[str] | None = option(
        None,
        "In place of dataset_name: files or globs (CSV, TSV, JSON, Parquet, Excel ...), a folder of texts a label, saved Datasets.",
    )
    validation_file: list[str] | None = option(None, "The same; without it, rows are split off the training file.")
    test_file: list[str] | None = option(None, "The same; without it, rows are split off the training file.")
    text_column: list[str] | None = option(
        None, "Column of the texts, or several, which are joined; by default found by name (text, sms, message ...)."
    )
    label_column: str | None = option(None, "Column of the labels; by default found by name (label, category ...).")
    text_pair_column: str | None = option(None, "One more column of texts, joined onto the others (sentence pairs).")
    text_pair_separator: str = option("\n", "Put between the columns' texts; \\n is a line break.")
    label_separator: Literal["none"] | None = option(
        None, "none: labels such as 'a,b' are names. By default refused where a and b are labels too."
    )
    missing_label: str | None = option(
        None, "A label that stands for none, such as -1: its rows are dropped. none: -1 and - are labels like others."
    )
    drop_missing: bool = option(False, "Drop rows without a text or a label (else refused).")
    rare_labels: Literal["refuse", "keep", "drop"] = option(
        "refuse", "Labels with fewer rows than splits to make: refuse, keep them in training, or drop their rows."
    )
    normalize_labels: bool = option(False, "Merge labels that differ only by case or spaces (casefolded, one space).")
    column_names: list[str] | None = option(None, "Names of the columns, used where a file has no header row.")
    delimiter: str | None = option(None, "Between columns; by default tab for .tsv, else what the first line shows.")
    csv_quoting: Literal["auto", "minimal", "none", "backslash"] = option(
        "auto",
        'Whether "..." quotes a cell: minimal (as in pandas), none, backslash (quotes in it as \\"), or auto (minimal, but '
        "none where tabs separate cells, unless all quotes in them are as pandas writes them).",
    )
    encoding: str | None = option(None, "Of text files that are not UTF-8 and have no mark, as cp1252 or gb18030.")
    max_row_mb: float = option(16.0, "Largest row of a file, in MB: larger ones are refused.")
    max_length: int | None = option(
        None, "Tokens a text is cut to; by default the model's positions, with window none."
    )
    window: int | None = option(None, "Average windows of so many tokens of each text; 0 turns a saved model's off.")
    window_overlap: int | None = option(None, "Tokens shared with the window before; by default a quarter of it.")
    truncation_side: Literal["right", "left"] | None = option(
        None, "Which end of a text that is too long is cut; by default what the tokenizer says, mostly right."
    )
    validation_fraction: float = option(0.1, "Share of the training file's rows to split off for validation.")
    test_fraction: float = option(0.2, "Share of the training file's rows to split off for the test.")
    split_method: Literal["stratified", "shuffled", "time"] = option(
        "stratified",
        "stratified keeps the label shares; shuffled is one pandas shuffle cut in three, as tutorials do; time trains on"
        " the earliest rows and tests on the latest.",
    )
    group_column: str | None = option(None, "Column of groups (authors ...), none of which may be in two splits.")
    time_column: str | None = option(None, "Column of times for split_method time: numbers, or ISO 8601 dates.")
    split_seed: int = option(42, "Seed of splits and samples, apart from `seed`, so that seeds can be compared.")
    remove_duplicates: bool = option(True, "Keep exact copies of a text out of other splits.")
    drop_conflicts: bool = option(False, "Drop every training text that occurs with different labels.")
    undersample: Literal["none", "train", "all"] = option(
        "none",
        "Downsample every label to the size of the rarest: in the training split, or in the whole training file.",
    )
    class_weight: Literal["none", "balanced"] = option("none", "Weigh the loss by inverse label frequency.")
    max_train_samples: int | None = option(None, "Train on this many texts at most, drawn at random.")
    max_eval_samples: int | None = option(None, "Validate on this many texts at most, drawn at random.")
    max_predict_samples: int | None = option(None, "Test on this many texts at most, drawn at random.")

    def __post_init__(self) -> None:
        for name in ("train_file", "validation_file", "test_file", "text_column"):
            if isinstance(getattr(self, name), (str, os.PathLike)):
                setattr(self, name, [os.fspath(getattr(self, name))])
        self.text_pair_separator = self.text_pair_separator.replace("\\n", "\n").replace("\\t", "\t")
        if not self.train_file and self.dataset_name is None:
            raise RecipeError("no data: give --train_file FILE or --dataset_name NAME")
        check_all_fields(self)
        if (self.split_method == "time") != (self.time_column is not None):
            raise RecipeError("split_method time and time_column go together: give both, or neither")
        if self.split_method == "shuffled" and self.group_column is not None:
            problem = "split_method shuffled is one shuffle of all rows, which knows no groups"
            raise RecipeError(f"{problem}: drop it, or group_column")
        if not self.text_pair_separator.replace(" ", ""):
            raise RecipeError(
                "text_pair_separator holds nothing but blanks, which texts hold too: take another, as ' | '"
            )
        if self.text_pair_column is not None and self.text_pair_column in (self.text_column or ()):
            raise RecipeError(f"text_column and text_pair_column are both {self.text_pair_column!r}: give two columns")
        if self.validation_fraction + self.test_fraction >= 1:
            raise RecipeError("validation_fraction and test_fraction leave no row to train on: take a sum under 1")

    @property
    def separator(self) -> str | None:
        """What stands between the parts of a text; None for texts of one column."""
        return self.text_pair_separator if len(self.text_column or ()) > 1 or self.text_pair_column else None


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
    ddp_find_unused_parameters: bool | None = option(False, "Search for unused parameters (never needed here).")
    baselines: bool = option(True, "Measure the majority class and TF-IDF + logistic regression on the test texts too.")
    plots: bool = option(True, "Draw the run's pictures, which the model card shows (needs matplotlib).")
    save_texts: bool = option(True, "Write the test texts into test_predictions.csv (splits/ holds them anyway).")
    calibrate: bool = option(
        False, "Fold a temperature, fitted on validation, into the head; labels of uncut texts stay."
    )
    decision_threshold: str | None = option(
        None, "For two labels: the probability from which on the second is given, or tune, for the best macro F1."
    )
    logging_steps: float = option(50, "Steps between two log lines of the training loss; at most an epoch's steps.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise RecipeError("no output_dir: give --output_dir DIR")
        check_all_fields(self)
        if self.max_steps <= 0:
            check_fields(self, "num_train_epochs", lambda x: 0 < x < math.inf, "a number above 0")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            fix = "leave it true, or drop the patience"
            raise RecipeError(f"early_stopping_patience needs load_best_model_at_end: {fix}")
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in METRICS:
            raise RecipeError(f"metric_for_best_model is {metric!r}: take one of {', '.join(METRICS)}")
        if (given := self.decision_threshold) not in (None, "tune"):
            self.decision_threshold = parse_probability("decision_threshold", given, instead="tune")
        # `accelerate launch --cpu` sets the environment alone, and bf16 without a GPU needs use_cpu.
        launched_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        self.use_cpu = self.use_cpu or launched_for_cpu or not torch.accelerator.is_available()
        check_launch(self.use_cpu)
        if self.fp16 and self.use_cpu:
            raise RecipeError("fp16 needs a GPU, and none is used: take --bf16 true, or leave it out")
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        super().__post_init__()
