"""Everything that a training needs, checked and loaded before any file is touched."""

import logging
import zlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight
from transformers import GPT2Config, PreTrainedTokenizerBase, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.data.dataset import TextSplits, load_splits
from recipe.data.tokenization import load_tokenizer
from recipe.data.windows import Coverage, Windows, choose_windows, remember_windows
from recipe.errors import RecipeError
from recipe.evaluation.thresholds import TUNE, check_two_labels
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.freezing import FreezeReport, freeze_except, trainable_patterns
from recipe.model.loading import labels_of_head, load_config

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything that a training needs, checked and loaded; `coverage` of a split is known once it is tokenized."""

    model: GPT2LastTokenClassifier
    report: FreezeReport
    tokenizer: PreTrainedTokenizerBase
    splits: TextSplits
    windows: Windows | None = None
    coverage: dict[str, Coverage] = field(default_factory=dict)


def prepare_run(model_args: ModelArguments, data_args: DataArguments, training_args: RecipeTrainingArguments) -> Run:
    """Loads and checks the tokenizer, the data and the model, and applies the filter."""
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = load_config(name, revision)
    windows = choose_windows(config, data_args.window, data_args.window_overlap, data_args.max_length)
    max_length = data_args.max_length
    if windows is not None and max_length is not None:  # may be more than the model's positions, which is for others
        max_length = min(max_length, config.n_positions)
    tokenizer = load_tokenizer(name, config, max_length, data_args.truncation_side, revision)
    splits = load_splits(data_args, labels_of_head(config))
    check_threshold(training_args.decision_threshold, splits)
    set_seed(training_args.seed)
    model, head_is_fresh, about_head = load_model(model_args, config, splits, tokenizer)
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
    remember_windows(model.config, windows)
    logger.info("%s", about_head)
    if windows is not None:
        logger.info(
            "Texts are read in %s, and the saved model remembers it; pipeline() knows none and truncates to %d tokens",
            windows,
            tokenizer.model_max_length,
        )
    return Run(model, report, tokenizer, splits, windows)


def check_threshold(threshold: str | float | None, splits: TextSplits) -> None:
    check_two_labels(threshold, splits.label_names)
    if threshold == TUNE and splits.validation["label"].nunique() < 2:
        raise RecipeError(
            "decision_threshold is tune, but all validation texts have the same label: give more of them, or a number"
        )


def load_model(
    model_args: ModelArguments, config: GPT2Config, splits: TextSplits, tokenizer: PreTrainedTokenizerBase
) -> tuple[GPT2LastTokenClassifier, bool, str]:
    """The model, whether its head is a fresh one, and whose it is, in words."""
    name, dropout = model_args.model_name_or_path, model_args.dropout
    old_labels = labels_of_head(config)
    replaced = old_labels is not None and old_labels != splits.label_names
    if replaced and not model_args.ignore_mismatched_sizes:
        raise RecipeError(
            f"{name}: its head is for the labels {', '.join(old_labels)}, the data has {', '.join(splits.label_names)}:"
            " pass --ignore_mismatched_sizes true to start with a fresh head"
        )
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
    if model.num_labels > model.config.n_embd:
        raise RecipeError(
            f"the data has {model.num_labels} labels, more than n_embd ({model.config.n_embd}): take a larger model"
        )
    threshold = getattr(config, "decision_threshold", None)
    if threshold is not None:
        logger.warning("%s has a decision threshold of %.4g, which was tuned to it and is not kept", name, threshold)
    labels = f"{model.num_labels} labels ({', '.join(splits.label_names)})"
    if replaced or info["mismatched_keys"]:
        old = ", ".join(config.id2label[i] for i in range(config.num_labels))
        draw_head(model, old)
        return model, True, f"fresh head for {labels} in place of {name}'s ({old})"
    if "score.weight" in info["missing_keys"]:
        return model, True, f"fresh head for {labels}"
    asked = "; it fits, so ignore_mismatched_sizes replaces nothing" if model_args.ignore_mismatched_sizes else ""
    return model, False, f"{name}'s head is kept whole, with its {labels}{asked}"


def draw_head(model: GPT2LastTokenClassifier, old_labels: str) -> None:
    """A head that owes nothing to the one it replaces: with the run's own seed it would be what the old one started as."""
    seed = np.random.SeedSequence([torch.initial_seed(), zlib.crc32(old_labels.encode())]).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(seed))
    model.score.weight.data.normal_(std=model.config.initializer_range, generator=generator)
    model.score.bias.data.zero_()


def balanced_weights(labels: pd.Series, num_labels: int) -> torch.Tensor:
    """scikit-learn's `balanced`: rows / (labels * rows of the label); 1 for a label that training never sees."""
    present = np.unique(labels)
    weights = torch.ones(num_labels)
    weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=torch.float32)
    return weights
