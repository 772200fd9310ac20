"""Put a head of your own on the last token: two layers in place of one.

    python scripts/examples/own_head.py --train_file my.csv --output_dir runs/own_head

A stock GPT2ForSequenceClassification has a linear head, so the model is saved as the class below, which loads it back:
    TwoLayerHead.from_pretrained("runs/own_head")
"""

from dataclasses import dataclass

from torch import nn
from transformers import GPT2Config, HfArgumentParser, TrainingArguments, set_seed

import recipe
from recipe.errors import run_script


class TwoLayerHead(recipe.GPT2LastTokenClassifier):
    """The classifier with a hidden layer between the last token and the labels."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        hidden, labels = nn.Linear(config.n_embd, config.n_embd), nn.Linear(config.n_embd, config.num_labels)
        self.score = nn.Sequential(hidden, nn.Tanh(), labels)


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
    model = TwoLayerHead.from_pretrained(args.model_name_or_path, id2label=id2label)
    print(recipe.freeze_except(model, recipe.last_blocks(model.config, 1)))  # "score.*" names both layers
    tokenizer = recipe.load_tokenizer(args.model_name_or_path, model.config)
    tokenized = recipe.tokenize(splits, tokenizer)
    cached = recipe.cache_features(
        model, tokenized, when=args.feature_cache, args=args
    )  # the frozen trunk, once per text
    trainer = recipe.RecipeTrainer(
        model, args, train_dataset=cached["train"], eval_dataset=cached["validation"], processing_class=tokenizer,
        compute_metrics=recipe.compute_metrics,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate(cached["test"], metric_key_prefix="test"))


if __name__ == "__main__":
    run_script(main)
