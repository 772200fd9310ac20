"""The sections of a model card, as Markdown: figures, training, data and limits of a run. No text, and no path."""

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from recipe.errors import printable, shorten
from recipe.evaluation.report import (
    Measurement,
    comparison_table,
    comparison_verdict,
    most_frequent_mistakes,
    next_step,
)
from recipe.hub.card_file import PICTURES
from recipe.shipped import PACKAGE

WIDE = 12  # labels: of more, the confusion matrix is a picture alone
MISTAKES = 5  # that the limits name
NANO = PACKAGE / "assets" / "gpt2-nano"
HYPERPARAMETERS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "processes",
    "gradient_accumulation_steps", "early_stopping_patience", "metric_for_best_model",
    "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm", "label_smoothing_factor", "dropout",
    "lora_r", "lora_alpha",
    "class_weight", "bf16", "fp16", "trunk_dtype", "seed",
)  # fmt: skip
REMOVED = {
    "conflicts_dropped": "with several labels",
    "group_rows_dropped": "of groups that a split kept out",
    "duplicates_removed": "that were exact copies",
    "undersampled": "to make the labels equally frequent",
    "over_the_limit": "over the number asked for",
}


def escape(name: str) -> str:
    """Return a name as Markdown that shows it as it is, on one line."""
    plain = html.escape(printable(shorten(name, 60)), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", plain)


def table(frame: pd.DataFrame) -> str:
    """Return a frame of text as a Markdown table, its index the first column."""
    rows = [[frame.index.name or "", *frame.columns], ["---"] + ["---:"] * frame.shape[1], *frame.reset_index().values]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def describe_head(config: dict[str, Any]) -> str:
    """Return what the head is and what it reads."""
    token = {"first": "first token", "mean": "tokens' mean"}.get(config.get("pooling"), "last token")
    is_linear = config.get("architectures", [""])[0] in ("GPT2ForSequenceClassification", "GPT2LastTokenClassifier")
    return f"a {'linear head' if is_linear else 'head of its own'} on its {token}"


def describe_windows(run: dict[str, Any]) -> str:
    """Return how long texts are read; "" for a model that truncates them."""
    config, tokenizer = run["config"], run["tokenizer_config"]
    if not config.get("window"):
        return ""
    end = "last" if tokenizer.get("truncation_side") == "left" else "first"
    part = f", of its {end} {config['window_max_length']} tokens" if config.get("window_max_length") else ""
    return (
        f"A long text is read in windows of {config['window']} tokens{part}, whose probabilities are averaged: the package\n"
        f"`gpt2-classifier-recipe` does that, `pipeline` reads the {end} {tokenizer['model_max_length']} tokens alone."
    )


def describe_results(measured: Measurement, without_copies: bool) -> dict[str, str]:
    """Return the parts of the section on results, by their names in the template.

    Args:
        without_copies: no text of the test is also one of training.
    """
    names, scores = [escape(name) for name in measured.label_names], measured.scores
    figures = precision_recall_fscore_support(
        measured.labels, measured.predictions, labels=range(len(names)), zero_division=0
    )
    formats = {"precision": "{:.3f}", "recall": "{:.3f}", "F1": "{:.3f}", "test texts": "{:.0f}"}
    columns = {name: [*map(form.format, values)] for (name, form), values in zip(formats.items(), figures, strict=True)}
    matrix = pd.DataFrame(measured.confusion, pd.Index(names, name="true \\ predicted"), names)
    calibration = f"The expected calibration error is {scores['ece']:.3f}, the cross entropy {scores['loss']:.3f}."
    if measured.temperature is not None:
        calibration += (
            f" The head was divided by a temperature of {measured.temperature:.4g}, fitted to the validation texts:"
            f" before, the calibration error was {scores['ece_uncalibrated']:.3f}."
        )
    unseen = ", of which none is a training text" if without_copies else ""
    followed = ", with the threshold" if measured.threshold is not None else ""
    verdict = comparison_verdict(measured)
    return {
        "about_test": f"On {len(measured.labels):,} test texts{unseen}, measured on the saved model{followed}:",
        "results": table(comparison_table(measured).rename_axis("")),
        "verdict": " ".join(["", *([f"{verdict}."] if verdict else []), next_step(measured)]).rstrip(),
        "per_label": table(pd.DataFrame(columns, pd.Index(names, name="label"))),
        "confusion": table(matrix) if len(names) <= WIDE else "",
        "calibration": calibration,
    }


def describe_training(run: dict[str, Any], base: str | None) -> str:
    """Return what was trained, from what, and how.

    Args:
        run: what read_run returns.
        base: the base model's name on the Hub, if it has one.
    """
    config, options, train = run["config"], run["options"], run["train_results"]
    shape = f"a GPT-2 of {config['n_layer']} blocks, {config['n_embd']} wide"
    if base:
        origin = f"[{base}](https://huggingface.co/{base})"
    elif Path(options.get("model_name_or_path", "")).resolve() == NANO.resolve():
        origin = f"gpt2-nano, {shape}, which `gpt2-classifier-recipe` ships"
    else:
        origin = shape
    lines = [f"The base model is {origin}."]
    if "trainable_parameters" in train:
        patterns = ", ".join(f"`{pattern}`" for pattern in options.get("trainable", []))
        counts = f"{train['trainable_parameters']:,} of {train['total_parameters']:,} parameters"
        adapted = "; LoRA adapters in place of matrices, and the head" if options.get("lora_r") else ""
        lines.append(f"{counts} were trained ({patterns}{adapted}).")
        mean = train["train_tokens"] / train["train_samples"]
        lines.append(f"The training texts have {mean:.0f} tokens on average.")
    settings = {**options, "processes": run["run_state"].get("processes", 1)}
    if not options.get("lora_r"):
        settings.pop("lora_alpha", None)
    if options.get("max_steps", 0) > 0:
        settings.pop("num_train_epochs", None)
    shown = {name: settings[name] for name in HYPERPARAMETERS if settings.get(name) not in (None, "none", "")}
    shown = {name: value for name, value in shown.items() if value is not False}
    if not options:
        return " ".join(lines)
    values = pd.DataFrame({"value": [f"`{value}`" for value in shown.values()]}, pd.Index(shown, name="option"))
    return " ".join(lines) + "\n\n" + table(values)


def describe_data(summary: dict[str, Any], dataset: str | None) -> str:
    """Return how many texts were read, removed and split: counts alone."""
    lines = (
        [f"The texts are those of the dataset [{dataset}](https://huggingface.co/datasets/{dataset})."]
        if dataset
        else []
    )
    if not summary:
        return " ".join(lines)
    read = sum(rows for files in summary["rows_read"].values() for rows in files.values())
    removed = {why: sum(summary[step].values()) for step, why in REMOVED.items() if summary[step]}
    left_out = "; left out were " + ", ".join(f"{rows:,} {why}" for why, rows in removed.items()) if removed else ""
    lines.append(f"{read:,} rows were read{left_out}. What remains, by split:")
    labels = pd.DataFrame.from_dict(summary["labels"], orient="index")
    labels = labels.rename(columns=escape) if labels.shape[1] <= WIDE else labels[[]]
    counts = pd.concat([pd.Series(summary["texts"], name="texts"), labels], axis=1).rename_axis("split")
    return " ".join(lines) + "\n\n" + table(counts.map("{:,}".format))


def describe_limits(run: dict[str, Any], measured: Measurement | None) -> str:
    """Return what the model cannot do, as a list."""
    config, tokenizer = run["config"], run["tokenizer_config"]
    length = config.get("window_max_length") if config.get("window") else tokenizer["model_max_length"]
    limits = []
    if length:
        end = "beginning" if tokenizer.get("truncation_side") == "left" else "end"
        cut = measured.coverage.texts_cut if measured and measured.coverage is not None else 0
        limits.append(
            f"Texts of more than {length} tokens lose their {end}" + (f": {cut:,} of the test's." if cut else ".")
        )
    limits.append("Every text is given one of the labels, also one that none of them fits.")
    limits.append("Texts unlike those of training, in another language for example, were not measured.")
    if measured and (mistakes := most_frequent_mistakes(measured, MISTAKES)):
        named = [f"{escape(true)} taken for {escape(predicted)} ({texts})" for true, predicted, texts in mistakes]
        limits.append(f"Most frequent mistakes on the test: {', '.join(named)}.")
    return "\n".join(f"- {limit}" for limit in limits)


def find_pictures(folder: Path, num_labels: int) -> dict[str, list[str]]:
    """Return the run's pictures as Markdown, by the section that shows them."""
    sections = {"results": ["reliability", "precision_recall", "length"], "training": ["training"]}
    if num_labels > WIDE:  # else there is a table
        sections["results"].insert(0, "confusion_matrix")
    paths = {name: f"figures/{name}.png" for name in PICTURES}
    return {
        section: [f"![{PICTURES[name]}]({paths[name]})" for name in names if (folder / paths[name]).is_file()]
        for section, names in sections.items()
    }
