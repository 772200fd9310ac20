"""Probe a frozen GPT-2: at which depth can the label be read from the last token, and so, how many blocks to train?

    python scripts/probe.py --config recipe/configs/quickstart.yaml
    python scripts/probe.py --config recipe/configs/quickstart.yaml --output_file probe.json --plot_file probe.png

The model runs once over the training and validation texts; a logistic regression is fitted to the states after each block
(a linear probe) and measured on validation, beside TF-IDF + logistic regression on the same texts. The test split is not
touched. Options are those of train.py, of which the model's and the data's count.
"""

import argparse

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, parse_options


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(__doc__)
    add_output_options(parser)
    return parser


def main() -> None:
    args, (model_args, data_args, training_args) = parse_options(make_parser())
    if model_args.pooling not in (None, "last"):
        raise RecipeError(f"pooling is {model_args.pooling}, but probes read the last token: leave it out")
    # Imported here, since --help and wrong options need none of it.
    import numpy as np

    from recipe.atomic import write_files, write_json
    from recipe.data.dataset import load_splits
    from recipe.data.tokenization import encode_texts, load_tokenizer
    from recipe.distributed import setup_logging
    from recipe.evaluation.baselines import baseline_predictions
    from recipe.evaluation.plots import save_figure
    from recipe.evaluation.report import TITLES
    from recipe.experiments.probing import (
        advise,
        check_memory,
        draw_probes,
        probe_depths,
        probe_table,
        score,
        states_by_depth,
    )
    from recipe.model.classifier import GPT2LastTokenClassifier
    from recipe.model.loading import load_config

    setup_logging(True)
    name, revision, progress = model_args.model_name_or_path, model_args.model_revision, not training_args.disable_tqdm
    config = load_config(name, revision)
    splits = load_splits(data_args)
    train, validation = splits["train"], splits["validation"]
    check_memory(config, len(train) + len(validation))
    tokenizer = load_tokenizer(name, config, data_args.max_length, data_args.truncation_side, revision)
    model = GPT2LastTokenClassifier.from_pretrained(name, revision=revision).to(training_args.device)

    texts, labels = train["text"][:] + validation["text"][:], np.array(validation["label"])
    states = states_by_depth(model, encode_texts(tokenizer, texts)[0], progress)
    of_train, of_validation = np.split(states, [len(train)], axis=1)
    probed = probe_depths(of_train, np.array(train["label"]), of_validation, data_args.class_weight, progress)
    scores = [score(predictions, labels) for predictions in probed]
    predicted = baseline_predictions(train["text"][:], train["label"][:], validation["text"][:], data_args.class_weight)
    baselines = {name: score(predictions, labels) for name, predictions in predicted.items()}
    advice = advise(scores, len(validation))

    print(
        f"Linear probes of the last token, fitted to {len(train):,} texts, on {len(validation):,} validation texts:\n"
    )
    print(probe_table(scores, {TITLES[name]: figures for name, figures in baselines.items()}))
    print(f"\n{advice.sentence}")
    if args.output_file:
        figures = {
            "model": name,
            "state": "the last token's after each block, before ln_f",
            "texts": {"train": len(train), "validation": len(validation)},
            "depths": [{"depth": depth, **figures} for depth, figures in enumerate(scores)],
            "baselines": baselines,
            "best_depth": advice.best,
            "standard_error": advice.standard_error,
            "shallowest_depth": advice.depth,
            "at_most": f"last_blocks:{advice.blocks}",
            "begin_with": f"last_blocks:{advice.begin}",
            "advice": advice.sentence,
        }
        write_json(args.output_file, figures)
    if args.plot_file:
        figure = draw_probes(scores, baselines.get("tfidf"), advice)
        write_files(args.plot_file.parent, lambda folder: save_figure(figure, folder / args.plot_file.name))


if __name__ == "__main__":
    run_script(main)
