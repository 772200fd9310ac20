"""What the measurements share: the book's protocol, our trainer and transformers' for it, and the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import DatasetDict
from transformers import (
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from recipe.arguments import DataArguments, ModelArguments
from recipe.config import Arguments, parse_arguments
from recipe.data.dataset import TextSplits, load_splits
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.model.freezing import freeze_except, last_blocks
from recipe.model.loading import load_config
from recipe.training.features import cache_features
from recipe.training.steps import Model, freeze, load_model, make_trainer
from recipe.training.trainer import RecipeTrainer


def make_small(folder: str, tokenizer: str) -> None:
    """Save GPT-2 small's shape with random weights, and the tokenizer whose vocab.json and merges.txt are given."""
    torch.manual_seed(0)
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    GPT2LMHeadModel(GPT2Config(**dropouts)).save_pretrained(folder)
    files = {"vocab": f"{tokenizer}/vocab.json", "merges": f"{tokenizer}/merges.txt"}
    GPT2Tokenizer(**files).save_pretrained(folder)


@dataclass
class Setup:
    """Everything that a training of the protocol needs but the model: a peer's memory must not hold ours."""

    model_args: ModelArguments
    data_args: DataArguments
    training_args: TrainingArguments
    splits: TextSplits
    tokenizer: PreTrainedTokenizerBase
    tokenized: DatasetDict
    tokenizing_s: float

    @property
    def arguments(self) -> Arguments:
        return self.model_args, self.data_args, self.training_args

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.training_args.per_device_train_batch_size


def set_up(job: dict[str, Any], output_dir: str, *fields: str) -> Setup:
    """Prepare the book's protocol: batches of 8, 5 epochs, an evaluation after each; nothing saved while the clock runs."""
    argv = ["--config", job["config"], "--model_name_or_path", job["model"], "--train_file", job["train_file"]]
    argv += ["--learning_rate", str(job["learning_rate"]), "--num_train_epochs", str(job["epochs"])]
    argv += ["--output_dir", output_dir, "--save_strategy", "no", "--load_best_model_at_end", "false"]
    argv += ["--disable_tqdm", "true", "--use_cpu", str(job["use_cpu"])]
    model_args, data_args, training_args = parse_arguments([*argv, *job["fields"], *fields])
    splits = load_splits(data_args)
    name = model_args.model_name_or_path
    tokenizer = load_tokenizer(name, load_config(name), data_args.max_length)
    start = time.perf_counter()
    tokenized = tokenize(splits, tokenizer)
    return Setup(model_args, data_args, training_args, splits, tokenizer, tokenized, time.perf_counter() - start)


def our_model(setup: Setup) -> Model:
    """Return our model, whose last block trains."""
    model = load_model(setup.model_args, setup.splits.label_names, setup.training_args.seed)
    return freeze(model, setup.model_args)[0]


def our_trainer(setup: Setup) -> RecipeTrainer:
    """Return the trainer of scripts/train.py, by its steps 4 to 7."""
    model = our_model(setup)
    tokenized = DatasetDict({part: setup.tokenized[part] for part in ("train", "validation")})
    cached = cache_features(model, tokenized, **setup.model_args.cache, args=setup.training_args)
    return make_trainer(model, setup.arguments, cached, setup.tokenizer)


def peer_trainer(variant: str, setup: Setup) -> Trainer:
    """Return transformers alone: its model, its Trainer, the same name filter, texts and order of labels."""
    training_args, tokenizer = setup.training_args, setup.tokenizer
    set_seed(training_args.seed)
    model = GPT2ForSequenceClassification.from_pretrained(
        setup.model_args.model_name_or_path,
        num_labels=len(setup.splits.label_names),
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    freeze_except(model, last_blocks(model.config, 1))
    train, validation = setup.tokenized["train"], setup.tokenized["validation"]
    collator = DataCollatorWithPadding(tokenizer)
    if variant == "a":
        longest = max(max(train["length"]), max(validation["length"]))
        collator = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=longest)
    if variant == "c":
        training_args.train_sampling_strategy = "group_by_length"
        training_args.per_device_eval_batch_size = 32
    return Trainer(
        model, training_args, data_collator=collator, train_dataset=train, eval_dataset=validation, processing_class=tokenizer
    )  # fmt: skip


def device_of(job: dict[str, Any]) -> torch.device:
    """Return the GPU if there is one, unless the job leaves it aside."""
    return torch.device("cpu" if job["use_cpu"] or not torch.cuda.is_available() else "cuda")


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU still has to do: its work is queued, and the clock would not see it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Measure one call, until the device is done with it."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start
