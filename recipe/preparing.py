"""Everything that a training needs, checked and loaded before any file is touched."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight
from transformers import GPT2Config, PreTrainedTokenizerBase, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.data import TextSplits, load_splits
from recipe.decisions import TUNE, check_two_labels
from recipe.errors import RecipeError
from recipe.freezing import FreezeReport, freeze_except, trainable_patterns
from recipe.loading import labels_of_head, load_config
from recipe.modeling import GPT2LastTokenClassifier
from recipe.tokenizing import load_tokenizer

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything that a training needs, checked and loaded."""

    model: GPT2LastTokenClassifier
    report: FreezeReport
    tokenizer: PreTrainedTokenizerBase
    splits: TextSplits


def prepare_run(model_args: ModelArguments, data_args: DataArguments, training_args: RecipeTrainingArguments) -> Run:
    """Loads and checks the tokenizer, the data and the model, and applies the filter."""
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = load_config(name, revision)
    tokenizer = load_tokenizer(name, config, data_args.max_length, data_args.truncation_side, revision)
    splits = load_splits(data_args, labels_of_head(config))
    check_threshold(training_args.decision_threshold, splits)
    set_seed(training_args.seed)
    model, head_is_fresh = load_model(model_args, config, splits, tokenizer)
    report = freeze_except(model, trainable_patterns(model.config, model_args.trainable))
    if head_is_fresh and not model.score.weight.requires_grad:
        logger.warning("the head is fresh, so random, and stays so: no pattern of `trainable` matches score.weight")
    if training_args.dataloader_drop_last and len(splits.train) < training_args.train_batch_size:
        raise RecipeError(
            f"dataloader_drop_last drops every batch: {len(splits.train)} training texts do not fill one of"
            f" {training_args.train_batch_size}: lower per_device_train_batch_size"
        )
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


def check_threshold(threshold: str | float | None, splits: TextSplits) -> None:
    check_two_labels(threshold, splits.label_names)
    if threshold == TUNE and splits.validation["label"].nunique() < 2:
        raise RecipeError(
            "decision_threshold is tune, but all validation texts have the same label: give more of them, or a number"
        )


def load_model(
    model_args: ModelArguments, config: GPT2Config, splits: TextSplits, tokenizer: PreTrainedTokenizerBase
) -> tuple[GPT2LastTokenClassifier, bool]:
    """The model, and whether its head is a fresh one."""
    name, dropout = model_args.model_name_or_path, model_args.dropout
    old_labels = labels_of_head(config)
    model, info = GPT2LastTokenClassifier.from_pretrained(
        name,
        revision=model_args.model_revision,
        num_labels=len(splits.label_names),
        id2label=splits.id2label,
        label2id=splits.label2id,
        output_loading_info=True,
        pad_token_id=tokenizer.pad_token_id,
        decision_threshold=None,  # an older run's is not this one's
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
        **({} if model_args.pooling is None else {"pooling": model_args.pooling}),
    )
    if old_labels is not None and old_labels != splits.label_names:
        if not model_args.ignore_mismatched_sizes:
            raise RecipeError(
                f"{name}: its head is for the labels {', '.join(old_labels)}, the data has {', '.join(splits.label_names)}:"
                " pass --ignore_mismatched_sizes true to start with a fresh head"
            )
        model.score.weight.data.normal_(std=model.config.initializer_range)
        model.score.bias.data.zero_()
        info["missing_keys"].add("score.weight")
    if model.num_labels > model.config.n_embd:
        raise RecipeError(
            f"the data has {model.num_labels} labels, more than n_embd ({model.config.n_embd}): take a larger model"
        )
    mismatched = {key for key, *_ in info["mismatched_keys"]}
    return model, "score.weight" in info["missing_keys"] | mismatched


def balanced_weights(labels: pd.Series, num_labels: int) -> torch.Tensor:
    """scikit-learn's `balanced`: rows / (labels * rows of the label); 1 for a label that training never sees."""
    present = np.unique(labels)
    weights = torch.ones(num_labels)
    weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=torch.float32)
    return weights
