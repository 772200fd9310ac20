"""A run, from arguments to a saved model: check, read, train, save, and measure what was saved."""

import ctypes
import itertools
import logging
import sys
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, disable_progress_bars
from transformers import DataCollatorWithPadding
from transformers.utils import logging as transformers_logging

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.atomic import write_json
from recipe.config import SUMMARY_FILE, resolved_config
from recipe.data.summary import summary_table
from recipe.data.tokenization import tokenize_split
from recipe.data.trained_on import count_seen, save_seen
from recipe.data.windows import by_text
from recipe.distributed import check_world_size, on_main_process, wait_for_everyone
from recipe.errors import RecipeError, one_line
from recipe.evaluation.adjusting import adjust_to_validation
from recipe.evaluation.measure import measure_saved
from recipe.evaluation.metrics import compute_metrics
from recipe.inference.text_classifier import TextClassifier
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import save_classifier
from recipe.training.cache_policy import trunk_dtype, use_feature_cache
from recipe.training.callbacks import EarlyStopping
from recipe.training.feature_cache import DEFAULT_FOLDER, FeatureDataset, cache_features, collate_features, token_arrays
from recipe.training.preparing import Run, balanced_weights, prepare_run
from recipe.training.run_folder import begin, check_data, check_shared, data_hash, finish, where_to_start
from recipe.training.trainer import RecipeTrainer

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def train(
    model_args: ModelArguments, data_args: DataArguments, training_args: RecipeTrainingArguments
) -> dict[str, float]:
    """Trains, saves to `output_dir`, and returns the test figures (the content of test_results.json).

    With several processes each calls it; the main one writes.

    Raises:
        RecipeError (a ValueError): bad arguments, data or model, before any file but the feature cache is touched; a loss
            that is not finite.
        SystemExit: with code 143 after SIGTERM, once the step under way is saved.
    """
    check_world_size(training_args.world_size)
    config = resolved_config(model_args, data_args, training_args)
    checkpoint = on_main_process(where_to_start, training_args, config)
    run = prepare_run(model_args, data_args, training_args)
    data = data_hash(run.splits)
    on_main_process(check_data, training_args, data, checkpoint)
    seen = count_seen(run.splits.test["text"], model_args.model_name_or_path)
    if seen:
        logger.warning(
            "%d of the %d test texts were trained on before, by %s or what it started from, so the test figures are too good:"
            " keep them in --train_file and give others as --test_file",
            seen, len(run.splits.test), model_args.model_name_or_path,
        )  # fmt: skip
    logger.info("%s\n\n%s", summary_table(run.splits.summary), run.report)
    trainer = make_trainer(run, model_args, training_args)
    folder = Path(training_args.output_dir)
    on_main_process(begin, training_args, config, data, checkpoint)
    check_shared(folder)
    # A run that goes on by itself has the same early stopping, and so goes on counting.
    training_args.restore_callback_states_from_checkpoint |= (
        bool(checkpoint) and not training_args.resume_from_checkpoint
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.check_weights()
    take_trained_weights(run.model, trainer, model_args.model_revision)
    temperature = None
    if trainer.is_world_process_zero():
        temperature = adjust_to_validation(
            TextClassifier(run.model, run.tokenizer, training_args.device),
            run.splits.validation,
            training_args.calibrate,
            training_args.decision_threshold,
        )
        save_run(run, folder, config)
        save_seen(folder, run.splits.train["text"], model_args.model_name_or_path)
        counts = {"trainable_parameters": run.report.trainable, "total_parameters": run.report.total}
        counts |= {f"train_{name}": value for name, value in run.coverage["train"].figures().items()}
        write_json(folder / "train_results.json", {**result.metrics, "train_samples": len(run.splits.train), **counts})
        write_json(folder / SUMMARY_FILE, {**run.splits.summary, "hash": data})
        trainer.save_state()
    wait_for_everyone()
    results = measure_saved(folder, run.splits, training_args, data_args.class_weight, temperature)
    if trainer.is_world_process_zero():
        finish(folder)
        print(f"\nSaved to {folder}")
    return results


def make_trainer(run: Run, model_args: ModelArguments, training_args: RecipeTrainingArguments) -> RecipeTrainer:
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
    if on_main_process(use_feature_cache, model, splits, model_args, training_args):
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
            callbacks=[] if patience is None else [EarlyStopping(patience)],
        )
    except (ImportError, RuntimeError) as error:  # a field asks for a package that is not installed
        raise RecipeError(f"training cannot start: {one_line(error)}") from error


def cached_splits(
    model: GPT2LastTokenClassifier,
    splits: dict[str, Dataset],
    model_args: ModelArguments,
    training_args: RecipeTrainingArguments,
) -> dict[str, FeatureDataset]:
    """Runs the trunk over what is not cached yet, each process over a share of it."""
    device = training_args.device
    model.to(device)
    dtype = trunk_dtype(model_args.trunk_dtype, device)
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


def take_trained_weights(model: GPT2LastTokenClassifier, trainer: RecipeTrainer, revision: str) -> None:
    """Into the whole model, where training did not work on its own modules: FSDP has cut them into shards."""
    if trainer.is_fsdp_enabled:
        trained = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole tensors, in the main process
        restored = GPT2LastTokenClassifier.from_pretrained(
            model.config.name_or_path, config=model.config, revision=revision, ignore_mismatched_sizes=True
        )
        if trainer.is_world_process_zero():
            restored.load_state_dict(trained, strict=False)
        model.transformer, model.score = restored.transformer, restored.score


def save_run(run: Run, folder: Path, config: dict[str, Any]) -> None:
    """Model, tokenizer and resolved config, each file written whole."""
    save_classifier(run.model, run.tokenizer, folder, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def setup_logging(training_args: RecipeTrainingArguments) -> None:
    """Our own messages, plain, and progress bars, from the main process only."""
    is_main = training_args.process_index == 0
    if not is_main:
        disable_progress_bars()
        transformers_logging.disable_progress_bar()
    level = logging.INFO if is_main else logging.ERROR
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("recipe")
    package.handlers, package.propagate = [handler], False
    package.setLevel(level)
