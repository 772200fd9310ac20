"""Fine-tune GPT-2 into a text classifier.

The sample job on gpt2-nano (what `make quickstart` runs):
    accelerate launch --config_file accelerate_configs/cpu.yaml scripts/train.py --config recipe/configs/quickstart.yaml

Your own file, with columns `text` and `label`:
    python scripts/train.py --train_file my.csv --model_name_or_path openai-community/gpt2 --output_dir runs/mine

Any field of a recipe, and of TrainingArguments, can be given on the command line:
    python scripts/train.py --config recipe/configs/sms_spam.yaml --learning_rate 1e-4 --trainable last_blocks:2
"""

import sys

from recipe.config import parse_arguments
from recipe.errors import run_script
from recipe.training.run import setup_logging, train


def main() -> None:
    model_args, data_args, training_args = parse_arguments(sys.argv[1:])
    setup_logging(training_args)
    train(model_args, data_args, training_args)


if __name__ == "__main__":
    run_script(main)
