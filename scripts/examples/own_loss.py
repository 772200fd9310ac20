"""Train with a loss of your own, here a focal loss, through Trainer's `compute_loss_func`.

The train_loss of the log is this loss; eval_loss and test_loss are recipe.compute_metrics' cross entropy.

python scripts/examples/own_loss.py --train_file my.csv --output_dir runs/own_loss
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import HfArgumentParser, TrainingArguments, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

import recipe
from recipe.errors import run_script


def focal_loss(
    outputs: SequenceClassifierOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the mean of (1 - p)^2 times the cross entropy: texts that the model is sure of count little (Lin et al., 2017)."""
    losses = F.cross_entropy(outputs["logits"], labels, reduction="none")
    losses = (1 - (-losses).exp()) ** 2 * losses
    # Trainer passes the number of texts of all accumulated batches and processes, if it knows it.
    return losses.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


@dataclass
class Arguments(TrainingArguments):
    model_name_or_path: str = "openai-community/gpt2"
    train_file: str = "my.csv"
    eval_strategy: str = "epoch"
    feature_cache: str = "auto"


def main() -> None:
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    set_seed(args.seed)
    splits = recipe.load_splits(recipe.DataArguments(train_file=args.train_file))
    id2label = dict(enumerate(splits.label_names))
    model = recipe.GPT2LastTokenClassifier.from_pretrained(args.model_name_or_path, id2label=id2label)
    recipe.freeze_except(model, recipe.last_blocks(model.config, 1))
    tokenizer = recipe.load_tokenizer(args.model_name_or_path, model.config)
    tokenized = recipe.tokenize(splits, tokenizer)
    cached = recipe.cache_features(
        model, tokenized, when=args.feature_cache, args=args
    )  # the frozen trunk, once per text
    trainer = recipe.RecipeTrainer(
        model, args, train_dataset=cached["train"], eval_dataset=cached["validation"], processing_class=tokenizer,
        compute_metrics=recipe.compute_metrics, compute_loss_func=focal_loss,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate(cached["test"], metric_key_prefix="test"))


if __name__ == "__main__":
    run_script(main)
