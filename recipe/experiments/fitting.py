"""One training among many: the steps 4 to 8 of scripts/train.py, without its folder, its report and its checkpoints."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from transformers import GPT2Config, PrinterCallback, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.data.windows import choose_windows, remember_windows
from recipe.errors import RecipeError
from recipe.model.adapters import add_adapters
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.freezing import freeze_except, trainable_patterns
from recipe.model.loading import load_config
from recipe.training.class_weights import loss_for
from recipe.training.features import cache_features
from recipe.training.trainer import RecipeTrainer

if TYPE_CHECKING:
    from peft import PeftModel


@contextmanager
def quietly() -> Iterator[None]:
    """Silence what each of many trainings would report again: the share of tokens read, the cache's decision, bars."""
    logger, level = logging.getLogger("recipe"), logging.getLogger("recipe").level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        datasets.enable_progress_bars()


def make_model(
    model_args: ModelArguments, label_names: Sequence[str], seed: int, fresh_head: bool = False
) -> "GPT2LastTokenClassifier | PeftModel":
    """Load a model as train.py does: what trains, and adapters where lora_r asks for them.

    Args:
        label_names: by id.
        seed: of the head, where it is fresh, and of the adapters.
        fresh_head: also where the base is a classifier of these labels, whose head train.py keeps.
    """
    set_seed(seed)
    model = GPT2LastTokenClassifier.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        id2label=dict(enumerate(label_names)),
        pooling=model_args.pooling,
        dropout=model_args.dropout,
        ignore_mismatched_sizes=fresh_head or model_args.ignore_mismatched_sizes,
    )
    if fresh_head and not model.head_is_fresh:
        model.reset_head()
    model.config.decision_threshold = None  # of the base's own head
    remember_windows(model.config, None)
    freeze_except(model, trainable_patterns(model.config, model_args.trainable))
    return add_adapters(model, model_args.lora_r, model_args.lora_alpha)[0] if model_args.lora_r else model


def refuse_windows(config: GPT2Config, data_args: DataArguments) -> None:
    """Raise RecipeError where train.py would read windows: experiments truncate long texts."""
    if choose_windows(config, data_args.window):
        raise RecipeError("texts would be read in windows, and experiments truncate them: pass --window 0")


@contextmanager
def make_trainer(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: RecipeTrainingArguments,
    splits: Mapping[str, Dataset],
    seed: int | None = None,
    progress: bool = False,
) -> Iterator[RecipeTrainer]:
    """Make the trainer of a fresh head, and of the base's tail, on `train`, whose folder is removed afterwards; texts are truncated.

    Nothing is chosen by validation and no checkpoint is saved. A `test` is the trainer's eval_dataset, though no epoch ends
    in an evaluation. The features of all texts are cached, also for a single epoch: other trainings read them again.

    Args:
        splits: `train`, and perhaps `test`, with `text` and `label` (ClassLabel).
        seed: of the head, the order of the texts and dropout; by default the arguments'.
        progress: show Trainer's bar.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = load_config(name, revision)
    refuse_windows(config, data_args)
    splits = DatasetDict({split: splits[split] for split in ("train", "test") if split in splits})
    args = copy.copy(training_args)
    args.save_strategy = "no"
    args.eval_strategy = "no"
    args.load_best_model_at_end, args.report_to = False, []
    args.disable_tqdm, args.logging_strategy = not progress, "no"
    args.seed = args.seed if seed is None else seed
    tokenizer = load_tokenizer(name, config, data_args.max_length, data_args.truncation_side, revision)
    label_names = splits["train"].features["label"].names
    model = make_model(model_args, label_names, args.seed, fresh_head=True)
    tokenized, start = tokenize(splits, tokenizer), perf_counter()
    cached = cache_features(model, tokenized, **model_args.cache)
    seconds = perf_counter() - start
    with TemporaryDirectory(prefix="recipe-experiment-") as folder:
        args.output_dir = folder
        trainer = RecipeTrainer(
            model,
            args,
            train_dataset=cached["train"],
            eval_dataset=cached.get("test"),
            processing_class=tokenizer,
            compute_loss_func=loss_for(data_args.class_weight, cached["train"]["labels"], len(label_names)),
        )
        trainer.seconds_of_caching = seconds
        trainer.remove_callback(PrinterCallback)
        yield trainer


def predict_after_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: RecipeTrainingArguments,
    splits: Mapping[str, Dataset],
    seed: int | None = None,
) -> np.ndarray:
    """Train a fresh head and the base's tail on `train` for all epochs, and return the logits on `test`: float32 [N, num_labels].

    The features of all texts come from one cache, so that a training costs its tail alone. Arguments as in make_trainer.
    """
    with make_trainer(model_args, data_args, training_args, splits, seed) as trainer:
        trainer.train()
        return trainer.predict(trainer.eval_dataset).predictions
