"""Convert GPT-2 weights of other forms into a folder that train.py, predict.py and transformers load.

OpenAI's files (checkpoint, encoder.json, hparams.json, model.ckpt.*, vocab.bpe), in their folder:
    python scripts/convert_weights.py --source gpt2/124M --output_dir models/gpt2

PyTorch's pytorch_model.bin, .pt and .pth, of transformers, nanoGPT, or "Build a Large Language Model (From Scratch)";
a classifier of the book's chapter 6 becomes a classifier:
    python scripts/convert_weights.py --source review_classifier.pth --output_dir models/reviews --label_names ham spam

Nothing is unpickled but tensors and plain values. Weights are saved in float32, with their tokenizer.
"""

import argparse
import tempfile
import time
from pathlib import Path

from recipe.errors import OneLineParser, RecipeError, printable, run_script
from recipe.inference.options import check_output_dir


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument("--source", required=True, type=Path, help="A folder or a file of weights.")
    parser.add_argument("--output_dir", required=True, type=Path, help="A new or empty folder.")
    parser.add_argument("--tokenizer", help="A folder or a hub id; else the source's own, or GPT-2's if it fits.")
    parser.add_argument("--n_head", type=int, help="Attention heads, where neither the files nor GPT-2's sizes tell.")
    parser.add_argument("--label_names", nargs="+", help="Of a classifier, by id; else LABEL_0 and so on.")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    source = args.source.expanduser()
    check_output_dir(args.output_dir, str(source))
    # Imported here, since --help and wrong options need none of it.
    from transformers.utils.logging import disable_progress_bar

    from recipe.data.tokenization import load_tokenizer
    from recipe.model.convert import (
        GPT2_TOKENIZER,
        build_model,
        find_tokenizer,
        make_config,
        read_source,
        save_converted,
    )

    started = time.perf_counter()
    weights = read_source(source)
    config = make_config(weights, args.n_head, args.label_names)
    model = build_model(weights, config)
    with tempfile.TemporaryDirectory() as temporary:
        name = args.tokenizer or find_tokenizer(weights, config.vocab_size, Path(temporary))
        try:
            tokenizer = load_tokenizer(name, model.config, strip=False)  # as the weights were trained with it
        except RecipeError as error:
            if name != GPT2_TOKENIZER:
                raise
            raise RecipeError(f"the tokenizer {name} cannot be had here: give its folder as --tokenizer") from error
    if weights.config is None:  # else they are in its config.json
        model.config.eos_token_id = tokenizer.eos_token_id
        model.config.bos_token_id = tokenizer.bos_token_id
    disable_progress_bar()
    save_converted(model, tokenizer, args.output_dir)
    sizes = f"{config.n_layer} blocks, n_embd {config.n_embd}, n_head {config.n_head}, {config.n_positions:,} positions"
    print(f"Read {printable(str(weights.path))}: {weights.kind}")
    print(f"{model.num_parameters():,} parameters: {sizes}, vocabulary {config.vocab_size:,}")
    print("".join(f"Note: {note}\n" for note in weights.notes), end="")
    files = ", ".join(path.name for path in sorted(args.output_dir.iterdir()))
    print(f"Saved to {printable(str(args.output_dir))} in {time.perf_counter() - started:.1f} s: {files}")


if __name__ == "__main__":
    run_script(main)
