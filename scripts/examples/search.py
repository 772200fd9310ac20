"""Search for a learning rate with Optuna, all trials on one cache (needs optuna: pip install -e '.[search]').

python scripts/examples/search.py --train_file my.csv --output_dir runs/search --n_trials 10
"""

from dataclasses import dataclass

from transformers import HfArgumentParser, TrainingArguments, set_seed

import recipe
from recipe.errors import run_script


@dataclass
class Arguments(TrainingArguments):
    model_name_or_path: str = "openai-community/gpt2"
    train_file: str = "my.csv"
    n_trials: int = 10
    eval_strategy: str = "epoch"
    save_strategy: str = "no"
    feature_cache: str = "auto"


def main() -> None:
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    set_seed(args.seed)
    splits = recipe.load_splits(recipe.DataArguments(train_file=args.train_file))

    def model_init() -> recipe.GPT2LastTokenClassifier:
        """Return a fresh model: every trial starts from one, and finds the trunk's output in the cache."""
        id2label = dict(enumerate(splits.label_names))
        model = recipe.GPT2LastTokenClassifier.from_pretrained(args.model_name_or_path, id2label=id2label)
        recipe.freeze_except(model, recipe.last_blocks(model.config, 1))
        return model

    tokenizer = recipe.load_tokenizer(args.model_name_or_path, model_init().config)
    tokenized = recipe.tokenize(splits, tokenizer)
    cached = recipe.cache_features(
        model_init(), tokenized, when=args.feature_cache, args=args
    )  # the frozen trunk, once per text
    trainer = recipe.RecipeTrainer(
        args=args, model_init=model_init, train_dataset=cached["train"], eval_dataset=cached["validation"],
        processing_class=tokenizer, compute_metrics=recipe.compute_metrics,
    )  # fmt: skip
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        direction="minimize",
        n_trials=args.n_trials,
    )
    print(f"best: {best.hyperparameters}, validation loss {best.objective:.4f}")


if __name__ == "__main__":
    run_script(main)
