"""Steps 4, 5 and 7 of a run: scripts/train.py takes them once, experiments and benchmark once per training."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.data.windows import by_text
from recipe.evaluation.metrics import compute_metrics
from recipe.model.adapters import add_adapters
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.freezing import FreezeReport, freeze_except, trainable_patterns
from recipe.training.trainer import RecipeTrainer

if TYPE_CHECKING:
    from peft import PeftModel

Model = Union[GPT2LastTokenClassifier, "PeftModel"]


def load_model(model_args: ModelArguments, label_names: Sequence[str], seed: int) -> GPT2LastTokenClassifier:
    """Load pretrained GPT-2 with a head on its last token: the checkpoint's, or a fresh one drawn by the seed.

    Args:
        label_names: by id.
    """
    set_seed(seed)
    return GPT2LastTokenClassifier.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        id2label=dict(enumerate(label_names)),
        pooling=model_args.pooling,
        dropout=model_args.dropout,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
    )


def freeze(model: GPT2LastTokenClassifier, model_args: ModelArguments) -> tuple[Model, FreezeReport]:
    """Freeze all but what `trainable` names; with `lora_r`, adapters train in place of these matrices."""
    report = freeze_except(model, trainable_patterns(model.config, model_args.trainable))
    return add_adapters(model, model_args.lora_r, model_args.lora_alpha) if model_args.lora_r else (model, report)


def make_trainer(
    model: Model,
    arguments: tuple[ModelArguments, DataArguments, RecipeTrainingArguments],
    rows: DatasetDict | dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    **more: Any,
) -> RecipeTrainer:
    """Return a trainer that trains on rows["train"], and evaluates on rows["validation"] if it is given.

    Args:
        rows: tokenized splits, cached or not.
        more: keywords of Trainer, in place of the recipe's: another compute_metrics, compute_loss_func, callbacks ...
    """
    _, data_args, training_args = arguments
    train, validation, balanced = rows["train"], rows.get("validation"), data_args.class_weight == "balanced"
    options = {
        "train_dataset": train,
        "eval_dataset": validation,
        "processing_class": tokenizer,
        "compute_metrics": compute_metrics if validation is None else by_text(compute_metrics, validation),
        "compute_loss_func": balanced_loss(train["labels"], model.config.num_labels) if balanced else None,
    }
    return RecipeTrainer(model, training_args, **{**options, **more})


def balanced_loss(labels: Sequence[int], num_labels: int) -> Callable[..., torch.Tensor]:
    """Return a loss for imbalanced labels, weighted by scikit-learn's `balanced`: rows / (labels * rows of the label).

    Weighted texts are summed and divided by their number, not by their weights: so parts of a batch, accumulated or in
    several processes, average to the complete batch's loss.

    Args:
        labels: of the training rows; a label that is absent gets weight 1.
    """
    from sklearn.utils.class_weight import compute_class_weight

    present = np.unique(labels)
    weights = torch.ones(num_labels)
    weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=torch.float32)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        logits = outputs["logits"]
        each = F.cross_entropy(logits, labels, weight=weights.to(logits), reduction="none")
        return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss
