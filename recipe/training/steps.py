"""Steps 4, 5 and 7 of a run: scripts/train.py takes them once, experiments and benchmark once per training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.data.windows import by_text
from recipe.evaluation.metrics import compute_metrics
from recipe.model.adapters import add_adapters
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.freezing import FreezeReport, freeze_except, trainable_patterns
from recipe.training.class_weights import balanced_loss
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
