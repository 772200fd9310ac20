"""Train on a DatasetDict of your own: any with the columns `text` and `label`, however it was made.

    python scripts/examples/own_dataset.py --train_file my.csv --output_dir runs/own_dataset

This is also the shortest use of the recipe in Python.
"""

from dataclasses import dataclass

from datasets import DatasetDict, load_dataset
from transformers import HfArgumentParser, TrainingArguments, set_seed

from recipe import (
    GPT2LastTokenClassifier,
    RecipeTrainer,
    cache_features,
    compute_metrics,
    freeze_except,
    last_blocks,
    load_tokenizer,
    tokenize,
)
from recipe.errors import run_script


@dataclass
class Arguments(TrainingArguments):
    model_name_or_path: str = "openai-community/gpt2"
    train_file: str = "my.csv"
    eval_strategy: str = "epoch"
    feature_cache: str = "auto"


def main() -> None:
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    set_seed(args.seed)
    data = load_dataset("csv", data_files=args.train_file, split="train").class_encode_column("label")
    halves = data.train_test_split(test_size=0.2, seed=args.seed, stratify_by_column="label")
    splits = DatasetDict(train=halves["train"], validation=halves["test"])

    id2label = dict(enumerate(data.features["label"].names))
    model = GPT2LastTokenClassifier.from_pretrained(args.model_name_or_path, id2label=id2label)
    print(freeze_except(model, last_blocks(model.config, 1)))
    tokenizer = load_tokenizer(args.model_name_or_path, model.config)
    tokenized = tokenize(splits, tokenizer)
    cached = cache_features(model, tokenized, when=args.feature_cache, args=args)  # the frozen trunk, once per text
    trainer = RecipeTrainer(
        model, args, train_dataset=cached["train"], eval_dataset=cached["validation"], processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate())


if __name__ == "__main__":
    run_script(main)
