"""Look inside a model: the architecture before and after, the trainable parameters, and the token that the head reads.

python scripts/inspect_model.py --model_name_or_path recipe/assets/gpt2-nano --text "Do you have time"
python scripts/inspect_model.py --model_name_or_path openai-community/gpt2 --num_labels 3 --trainable head
"""

import argparse
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, run_script, shorten
from recipe.shipped import shipped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recipe.model.classifier import GPT2LastTokenClassifier


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument(
        "--model_name_or_path", type=shipped, default="openai-community/gpt2", help="A GPT-2: a folder or a hub id."
    )
    parser.add_argument("--model_revision", default="main", help="Branch, tag or commit of a hub model.")
    parser.add_argument("--num_labels", type=int, help="Labels of a fresh head (2); a classifier keeps its own.")
    parser.add_argument("--trainable", nargs="+", default=["last_blocks:1"], help="As in training.")
    parser.add_argument("--text", default="Do you have time", help="A sample text.")
    parser.add_argument("--seed", type=int, default=42, help="Seed of a fresh head.")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported here, since --help and wrong options need none of it.
    import torch
    from transformers import GPT2LMHeadModel, set_seed

    from recipe.data.tokenization import load_tokenizer
    from recipe.model.classifier import GPT2LastTokenClassifier
    from recipe.model.freezing import freeze_except, trainable_patterns
    from recipe.model.loading import head_labels, load_config

    if args.num_labels is not None and not 2 <= args.num_labels <= 100_000:
        raise RecipeError(f"num_labels is {args.num_labels}: take 2 to 100,000")
    if not 0 <= args.seed < 2**32:
        raise RecipeError(f"seed is {args.seed}: take a whole number from 0 up, under 2**32")
    config = load_config(args.model_name_or_path, args.model_revision)
    tokenizer = load_tokenizer(args.model_name_or_path, config, revision=args.model_revision)
    set_seed(args.seed)
    known = head_labels(config)
    if args.num_labels is not None and known is not None and len(known) != args.num_labels:
        raise RecipeError(f"num_labels is {args.num_labels}, but the classifier has {len(known)} labels: leave it out")
    labels = {} if args.num_labels is None else {"num_labels": args.num_labels}
    model, info = GPT2LastTokenClassifier.from_pretrained(
        args.model_name_or_path,
        revision=args.model_revision,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **labels,
    )
    report = freeze_except(model, trainable_patterns(model.config, args.trainable))
    with torch.device("meta"):  # only to be printed
        before = GPT2LMHeadModel(config)
    kept = "score.weight" not in info["missing_keys"] and not info["mismatched_keys"]
    fresh = "the checkpoint's head" if kept else "a fresh head"
    print(f"Before, as a GPT-2 of this size is pretrained:\n{before}\n")
    print(f"After, with {fresh}:\n{model}\n")
    print(f"What trains ({' '.join(args.trainable)}):\n{report}\n")
    print_tokens(model.eval(), tokenizer, args.text, head_labels(model.config))


def print_tokens(
    model: "GPT2LastTokenClassifier", tokenizer: "PreTrainedTokenizerBase", text: str, label_names: list[str] | None
) -> None:
    """Print the logits of every token of a text, and the row that the classifier takes."""
    import torch

    from recipe.data.tokenization import encode_texts

    ids = encode_texts(tokenizer, [text])[0][0]
    input_ids = torch.tensor([ids])
    logits = model.token_logits(input_ids)
    taken = model(input_ids=input_ids).logits[0]
    print(f"Text: {text!r}\nToken ids: {ids}  (shape {list(input_ids.shape)})")
    print(f"Logits of every token (shape {list(logits.shape)}):")
    marks = {
        "last": {len(ids) - 1: "  <- taken: the last token, the only one that attends to all others"},
        "first": {0: "  <- taken: the first token"},
    }.get(model.pooling, {})
    names = [shorten(name) for name in label_names or model.config.id2label.values()]
    print(f"  {'token':<16}" + "".join(f"{name:>12.12}" for name in names))
    for i, (token_id, row) in enumerate(zip(ids, logits[0], strict=True)):
        mark = marks.get(i, "")
        print(f"  {tokenizer.decode([token_id])!r:<16}" + "".join(f"{value:12.4f}" for value in row.tolist()) + mark)
    taken_from = "Row taken" if marks else f"Logits of the pooled token ({model.pooling})"
    print(f"{taken_from}: [" + ", ".join(f"{value:.4f}" for value in taken.tolist()) + "]")


if __name__ == "__main__":
    run_script(main)
