"""A run, from arguments to a saved model: check, read, train, save, and measure what was saved."""

import ctypes
import itertools
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, Trainer

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.errors import RecipeError, one_line
from recipe.evaluation import measure_saved
from recipe.features import DEFAULT_FOLDER, FeatureDataset, cache_features, collate_features, token_arrays
from recipe.metrics import compute_metrics
from recipe.modeling import GPT2LastTokenClassifier
from recipe.parsing import resolved_config
from recipe.planning import trunk_dtype, use_feature_cache
from recipe.preparing import Run, balanced_weights, check_output_dir, prepare_run
from recipe.publishing import save_whole, to_stock, write_json
from recipe.sampling import RecipeTrainer
from recipe.tokenizing import tokenize_split
from recipe.windows import by_text

logger = logging.getLogger(__name__)

CONFIG_FILE = "run_config.yaml"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def train(
    model_args: ModelArguments, data_args: DataArguments, training_args: RecipeTrainingArguments
) -> dict[str, float]:
    """Trains, saves to `output_dir`, and returns the test figures (the content of test_results.json).

    Raises:
        RecipeError (a ValueError): bad arguments, data or model, before any file is touched.
    """
    checkpoint = check_output_dir(training_args)
    run = prepare_run(model_args, data_args, training_args)
    logger.info("%s", run.report)
    trainer = make_trainer(run, model_args, training_args)
    clear_old_run(training_args, checkpoint)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return {}
    folder = Path(training_args.output_dir)
    save_run(run, folder, resolved_config(model_args, data_args, training_args))
    counts = {"trainable_parameters": run.report.trainable, "total_parameters": run.report.total}
    counts |= run.coverage["train"].figures("train")
    write_json(folder / "train_results.json", {**result.metrics, "train_samples": len(run.splits.train), **counts})
    trainer.save_state()
    results = measure_saved(folder, run.splits, training_args.device, progress=not training_args.disable_tqdm)
    print(f"\nSaved to {folder}")
    return results


def make_trainer(run: Run, model_args: ModelArguments, training_args: RecipeTrainingArguments) -> Trainer:
    """Trainer over the whole model, or, with the trunk's output cached, over the tail alone (the same modules)."""
    model, collator = run.model, DataCollatorWithPadding(run.tokenizer)
    tokenized = {
        "train": tokenize_split(run.splits.train, run.tokenizer, "train", run.windows),
        "validation": tokenize_split(run.splits.validation, run.tokenizer, "validation", run.windows),
    }
    run.coverage = {name: split.coverage for name, split in tokenized.items()}
    splits, owners = {name: split.rows for name, split in tokenized.items()}, tokenized["validation"].owners
    if run.windows is not None and model.class_weights is not None:  # the loss is a mean over windows: balance those
        model.class_weights = balanced_weights(splits["train"]["labels"][:], model.num_labels)
    if use_feature_cache(model, splits, model_args, training_args):
        splits = cached_splits(model, splits, model_args, training_args)
        keep_freed_memory()
        model, collator = model.as_tail(), collate_features
    patience = training_args.early_stopping_patience
    try:
        return RecipeTrainer(
            model=model,
            args=training_args,
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            data_collator=collator,
            processing_class=run.tokenizer,
            compute_metrics=lambda prediction: compute_metrics(by_text(prediction, owners)),
            callbacks=[] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)],
        )
    except (ImportError, RuntimeError) as error:  # a field asks for a package that is not installed
        raise RecipeError(f"training cannot start: {one_line(error)}") from error


def cached_splits(
    model: GPT2LastTokenClassifier,
    splits: dict[str, Dataset],
    model_args: ModelArguments,
    training_args: RecipeTrainingArguments,
) -> dict[str, FeatureDataset]:
    """Runs the trunk over what is not cached yet: the first process computes, the others then read."""
    device = training_args.device
    model.to(device)
    dtype = trunk_dtype(model_args.trunk_dtype, device)
    with training_args.main_process_first(desc="feature cache"):
        sequences = itertools.chain.from_iterable(token_arrays(split) for split in splits.values())
        try:
            features = cache_features(model, sequences, model_args.feature_cache_dir, dtype)
        except OSError as error:  # no room, no permission
            where = model_args.feature_cache_dir or DEFAULT_FOLDER
            reason = f"feature cache in {where}: {error.strerror or one_line(error)}"
            raise RecipeError(f"{reason}: pass --feature_cache_dir DIR, or --feature_cache off") from error
    if training_args.dataloader_num_workers == 0 and features.to_device(device):
        training_args.dataloader_pin_memory = False  # what lies on the device cannot be pinned
    return {name: FeatureDataset(features, split) for name, split in splits.items()}


def keep_freed_memory() -> None:
    """Has glibc keep the blocks that each step's gradients free, instead of handing them back to the kernel.

    Else each step on a CPU faults its gradients' pages in again (28 MB at GPT-2 small's shape, a quarter of the step).
    Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def clear_old_run(training_args: RecipeTrainingArguments, checkpoint: str | None) -> None:
    """Removes the checkpoints of an earlier run (which resuming could mix up); its model stays until it is replaced."""
    if checkpoint is None and training_args.should_save:
        for old in Path(training_args.output_dir).glob("checkpoint-*"):
            if (old / "trainer_state.json").is_file():
                shutil.rmtree(old)


def save_run(run: Run, folder: Path, config: dict[str, Any]) -> None:
    """Model, tokenizer and resolved config, each file written whole."""
    model = run.model
    if model.pooling == "last":
        try:
            model = to_stock(model)
        except RecipeError as error:  # rather a model of our own class than none
            logger.warning("saved as GPT2LastTokenClassifier, not as a stock checkpoint: %s", error)

    def write(temporary: Path) -> None:
        model.save_pretrained(temporary)
        run.tokenizer.save_pretrained(temporary)
        (temporary / CONFIG_FILE).write_text(
            yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )

    save_whole(folder, write)


def setup_logging(training_args: RecipeTrainingArguments) -> None:
    """Our own messages, plain, from the main process only."""
    level = logging.INFO if training_args.process_index == 0 else logging.ERROR
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("recipe")
    package.handlers, package.propagate = [handler], False
    package.setLevel(level)
