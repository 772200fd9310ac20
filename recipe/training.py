"""A run, from arguments to a saved model: check, read, train, save, and measure what was saved."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.utils.class_weight import compute_class_weight
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    GPT2Config,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments, resolved_config
from recipe.data import TextSplits, load_splits
from recipe.errors import RecipeError
from recipe.evaluation import measure_saved
from recipe.freezing import FreezeReport, freeze_except, trainable_patterns
from recipe.metrics import compute_metrics
from recipe.modeling import GPT2LastTokenClassifier, check_is_gpt2
from recipe.publishing import save_whole, to_stock, write_json
from recipe.tokenizing import load_tokenizer, tokenize_split

logger = logging.getLogger(__name__)

CONFIG_FILE = "run_config.yaml"


@dataclass
class Run:
    """Everything that a training needs, checked and loaded."""

    model: GPT2LastTokenClassifier
    report: FreezeReport
    tokenizer: PreTrainedTokenizerBase
    splits: TextSplits


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
    clear_old_run(training_args, checkpoint)
    trainer = make_trainer(run, training_args)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return {}
    folder = Path(training_args.output_dir)
    save_run(run, folder, resolved_config(model_args, data_args, training_args))
    counts = {"trainable_parameters": run.report.trainable, "total_parameters": run.report.total}
    write_json(folder / "train_results.json", {**result.metrics, "train_samples": len(run.splits.train), **counts})
    trainer.save_state()
    results = measure_saved(folder, run.splits, training_args.device, progress=not training_args.disable_tqdm)
    print(f"\nSaved to {folder}")
    return results


def prepare_run(model_args: ModelArguments, data_args: DataArguments, training_args: RecipeTrainingArguments) -> Run:
    """Loads and checks the tokenizer, the data and the model, and applies the filter."""
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = load_config(name, revision)
    tokenizer = load_tokenizer(name, config, data_args.max_length, data_args.truncation_side, revision)
    splits = load_splits(data_args, labels_of_head(config))
    set_seed(training_args.seed)
    model = load_model(model_args, splits, tokenizer)
    report = freeze_except(model, trainable_patterns(model.config, model_args.trainable))
    if data_args.class_weight == "balanced":
        if training_args.label_smoothing_factor:
            raise RecipeError("class_weight and label_smoothing_factor exclude each other: drop one of them")
        model.class_weights = balanced_weights(splits.train["label"], model.num_labels)
    if model.pooling != "last":
        logger.warning(
            "pooling is %s: the saved model is our own class, GPT2LastTokenClassifier, which pipeline() cannot load",
            model.pooling,
        )
    return Run(model, report, tokenizer, splits)


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


def load_model(
    model_args: ModelArguments, splits: TextSplits, tokenizer: PreTrainedTokenizerBase
) -> GPT2LastTokenClassifier:
    name, dropout = model_args.model_name_or_path, model_args.dropout
    old_labels = labels_of_head(load_config(name, model_args.model_revision))
    model = GPT2LastTokenClassifier.from_pretrained(
        name,
        revision=model_args.model_revision,
        num_labels=len(splits.label_names),
        id2label=splits.id2label,
        label2id=splits.label2id,
        pad_token_id=tokenizer.pad_token_id,
        pooling=model_args.pooling,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
    )
    if old_labels is not None and old_labels != splits.label_names:
        if not model_args.ignore_mismatched_sizes:
            raise RecipeError(
                f"{name}: its head is for the labels {', '.join(old_labels)}, the data has {', '.join(splits.label_names)}:"
                " pass --ignore_mismatched_sizes true to start with a fresh head"
            )
        model.score.weight.data.normal_(std=model.config.initializer_range)
        model.score.bias.data.zero_()
    if model.num_labels > model.config.n_embd:
        raise RecipeError(
            f"the data has {model.num_labels} labels, more than n_embd ({model.config.n_embd}): take a larger model"
        )
    return model


def balanced_weights(labels: pd.Series, num_labels: int) -> torch.Tensor:
    """scikit-learn's `balanced`: rows / (labels * rows of the label); 1 for a label that training never sees."""
    present = np.unique(labels)
    weights = torch.ones(num_labels)
    weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=torch.float32)
    return weights


def make_trainer(run: Run, training_args: RecipeTrainingArguments) -> Trainer:
    patience = training_args.early_stopping_patience
    return Trainer(
        model=run.model,
        args=training_args,
        train_dataset=tokenize_split(run.splits.train, run.tokenizer, "train"),
        eval_dataset=tokenize_split(run.splits.validation, run.tokenizer, "validation"),
        data_collator=DataCollatorWithPadding(run.tokenizer),
        processing_class=run.tokenizer,
        compute_metrics=compute_metrics,
        callbacks=[] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)],
    )


def check_output_dir(training_args: RecipeTrainingArguments) -> str | None:
    """Refuses to write over an earlier run; returns the checkpoint to resume from, if any."""
    folder = Path(training_args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"output_dir {folder} is a file: give a folder")
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint and checkpoint.lower() in ("true", "last"):
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if checkpoint is None:
            raise RecipeError(f"output_dir {folder} holds no checkpoint to resume from: drop --resume_from_checkpoint")
    if checkpoint and not (Path(checkpoint) / "trainer_state.json").is_file():
        raise RecipeError(
            f"resume_from_checkpoint: {checkpoint} is no checkpoint folder of a run: give OUTPUT_DIR/checkpoint-N"
        )
    if not checkpoint and not training_args.overwrite_output_dir and folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(f"output_dir {folder} is not empty: give another one, or pass --overwrite_output_dir")
    return checkpoint


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
