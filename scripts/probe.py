"""Probe a frozen GPT-2: at which depth can the label be read from the last token, and so, how many blocks to train?

    python scripts/probe.py --config recipe/configs/quickstart.yaml
    python scripts/probe.py --config recipe/configs/quickstart.yaml --output_file probe.json --plot_file probe.png

The model runs once over the training and validation texts; a logistic regression is fitted to the states after each block
(a linear probe) and measured on validation, beside TF-IDF + logistic regression on the same texts. The test split is not
touched. Options are those of train.py, of which the model's and the data's count.
"""

import logging

from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.experiments.options import add_output_options, parse_options, print_saved

logger = logging.getLogger("recipe.probe")


def main() -> None:
    parser = OneLineParser(__doc__)
    add_output_options(parser)
    args, arguments = parse_options(parser)
    model_args, data_args, training_args = arguments
    if model_args.pooling not in (None, "last"):
        raise RecipeError(f"pooling is {model_args.pooling}, but probes read the last token: leave it out")
    # Imported here, since --help and wrong options need none of it.
    import numpy as np

    from recipe.atomic import write_json
    from recipe.data.tokenization import encode_texts, load_tokenizer
    from recipe.data.trained_on import count_trained_on
    from recipe.distributed import setup_logging
    from recipe.evaluation.baselines import baseline_predictions
    from recipe.evaluation.metrics import label_metrics
    from recipe.experiments import probing
    from recipe.experiments.runs import load_texts
    from recipe.model.classifier import GPT2LastTokenClassifier
    from recipe.model.loading import load_config

    setup_logging(True)
    name, revision = model_args.model_name_or_path, model_args.model_revision
    splits = load_texts(arguments, "train", "validation")
    (train_texts, train_labels), (texts, labels) = ((s["text"][:], np.array(s["label"])) for s in splits.values())
    both = train_texts + texts
    probing.check_memory(load_config(name, revision), len(both))
    if count := count_trained_on(both, name):
        problem = f"{count} of the {len(both)} texts were trained on, by {name} or the model it started from"
        logger.warning("%s, so its states know their labels: probe the model that its training began with", problem)

    model = GPT2LastTokenClassifier.from_pretrained(name, revision=revision).to(training_args.device)
    side, separator = data_args.truncation_side, data_args.separator
    tokenizer = load_tokenizer(name, model.config, data_args.max_length, side, revision, separator)
    progress = not training_args.disable_tqdm
    states = probing.states_by_depth(model, encode_texts(tokenizer, both)[0], progress)
    of_train, of_validation = np.split(states, [len(train_texts)], axis=1)
    probed = probing.probe_depths(of_train, train_labels, of_validation, data_args.class_weight, progress)
    scores = [label_metrics(predictions, labels) for predictions in probed]
    predicted = baseline_predictions(train_texts, train_labels, texts, data_args.class_weight)
    baselines = {baseline: label_metrics(predictions, labels) for baseline, predictions in predicted.items()}
    advice = probing.advise(scores, len(texts))

    counts = f"fitted to {len(train_texts):,} texts, on {len(texts):,} validation texts"
    print(
        f"Linear probes of the last token, {counts}:\n\n{probing.probe_table(scores, baselines)}\n\n{advice['advice']}"
    )
    if args.output_file:
        found = {"model": name, "state": "the last token's after each block, before ln_f"}
        found["texts"] = {"train": len(train_texts), "validation": len(texts)}
        found["depths"] = [{"depth": depth, **figures} for depth, figures in enumerate(scores)]
        write_json(args.output_file, {**found, "baselines": baselines, **advice})
    if args.plot_file:
        probing.draw_probes(args.plot_file, scores, baselines.get("tfidf"), advice)
    print_saved(args.output_file, args.plot_file)


if __name__ == "__main__":
    run_script(main)
