"""Train LoRA adapters in the last block in place of its weights (needs peft: pip install -e '.[lora]').

    python scripts/examples/lora.py --train_file my.csv --output_dir runs/lora

The trunk ends below the first adapted block and is cached as ever; the saved model is the stock one, adapters merged.
"""

from dataclasses import dataclass

from peft import LoraConfig, get_peft_model
from transformers import HfArgumentParser, TrainingArguments, set_seed

import recipe
from recipe.errors import run_script


@dataclass
class Arguments(TrainingArguments):
    model_name_or_path: str = "openai-community/gpt2"
    train_file: str = "my.csv"
    learning_rate: float = 1e-3  # adapters start at zero and want larger steps than weights
    eval_strategy: str = "epoch"
    feature_cache: str = "auto"


def main() -> None:
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    set_seed(args.seed)
    splits = recipe.load_splits(recipe.DataArguments(train_file=args.train_file))
    id2label = dict(enumerate(splits.label_names))
    model = recipe.GPT2LastTokenClassifier.from_pretrained(args.model_name_or_path, id2label=id2label)
    config = LoraConfig(
        task_type="SEQ_CLS",  # the head `score` trains too
        r=8,
        lora_alpha=16,
        target_modules=["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
        layers_to_transform=[model.config.n_layer - 1],
        layers_pattern="h",
        fan_in_fan_out=True,  # GPT-2 stores its weights as [in, out]
    )
    model = get_peft_model(model, config)
    model.print_trainable_parameters()
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
