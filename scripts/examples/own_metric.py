"""Add a metric of your own, here Matthews' correlation, and a callback that watches it.

python scripts/examples/own_metric.py --train_file my.csv --output_dir runs/own_metric
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import matthews_corrcoef
from transformers import EvalPrediction, HfArgumentParser, TrainerCallback, TrainingArguments, set_seed

import recipe
from recipe.errors import run_script


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return the recipe's metrics and Matthews' correlation coefficient."""
    predicted = np.argmax(prediction.predictions, axis=-1)
    return {**recipe.compute_metrics(prediction), "matthews": matthews_corrcoef(prediction.label_ids, predicted)}


class StopWhenGoodEnough(TrainerCallback):
    """Stop the training at the first validation with a correlation of 0.95."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if "eval_matthews" in metrics:  # and not the final test
            print(f"step {state.global_step}: Matthews' correlation {metrics['eval_matthews']:.3f}")
            control.should_training_stop = metrics["eval_matthews"] >= 0.95


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
        compute_metrics=compute_metrics, callbacks=[StopWhenGoodEnough()],
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate(cached["test"], metric_key_prefix="test"))


if __name__ == "__main__":
    run_script(main)
