"""The sections of a model card, as Markdown: figures, training, data and limits of a run. No text, and no path."""

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import classification_report

from recipe.errors import printable, shorten
from recipe.evaluation.report import Measurement, comparison_table, comparison_verdict, most_frequent_mistakes
from recipe.shipped import PACKAGE

WIDE = 12  # labels: of more, the confusion matrix is a picture alone
MISTAKES = 5  # that the limits name
NANO = PACKAGE / "assets" / "gpt2-nano"
HYPERPARAMETERS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm", "label_smoothing_factor", "dropout",
    "class_weight", "bf16", "fp16", "trunk_dtype", "seed",
)  # fmt: skip
REMOVED = {
    "conflicts_dropped": "with several labels",
    "group_rows_given_up": "of groups that a split kept out",
    "duplicates_removed": "that were exact copies",
    "undersampled": "to make the labels equally frequent",
    "over_the_limit": "over the number asked for",
}
PICTURES = {
    "confusion_matrix": "Confusion matrix",
    "reliability": "Reliability",
    "precision_recall": "Precision and recall",
    "length": "Accuracy by length",
    "training": "Training",
}


def escape(name: str) -> str:
    """Return a name as Markdown that shows it as it is, on one line."""
    plain = html.escape(printable(shorten(name, 60)), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", plain)


def table(frame: pd.DataFrame) -> str:
    """Return a frame of text as a Markdown table, its index the first column."""
    rows = [[frame.index.name or "", *frame.columns], ["---"] + ["---:"] * frame.shape[1], *frame.reset_index().values]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def describe_results(measured: Measurement) -> dict[str, str]:
    """Return the parts of the section on results, by their names in the template."""
    names, scores = [escape(name) for name in measured.label_names], measured.scores
    ids = range(len(names))
    report = classification_report(
        measured.labels, measured.predictions, labels=ids, target_names=names, output_dict=True, zero_division=0
    )
    by_label = pd.DataFrame({name: report[name] for name in names}).T
    by_label = by_label.apply(
        lambda row: [*(f"{row[name]:.3f}" for name in row.index[:3]), f"{row['support']:.0f}"], axis=1
    )
    columns = ["precision", "recall", "F1", "test texts"]
    per_label = pd.DataFrame(by_label.tolist(), pd.Index(names, name="label"), columns)
    matrix = pd.DataFrame(measured.confusion, pd.Index(names, name="true \\ predicted"), names)
    calibration = f"The expected calibration error is {scores['ece']:.3f}, the cross entropy {scores['loss']:.3f}."
    if measured.temperature is not None:
        calibration += (
            f" The head was divided by a temperature of {measured.temperature:.4g}, fitted to the validation texts:"
            f" before, the calibration error was {scores['ece_uncalibrated']:.3f}."
        )
    verdict = comparison_verdict(measured)
    return {
        "samples": f"{len(measured.labels):,}",
        "results": table(comparison_table(measured).rename_axis("")),
        "verdict": verdict and f" {verdict}, by McNemar's exact test.",
        "per_label": table(per_label),
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
    if train:
        patterns = ", ".join(f"`{pattern}`" for pattern in options.get("trainable", []))
        counts = f"{train['trainable_parameters']:,} of {train['total_parameters']:,} parameters"
        lines.append(f"{counts} were trained ({patterns}); the others are the base model's.")
        mean, seconds = train["train_tokens"] / train["train_samples"], train["train_runtime"]
        lines.append(
            f"The training texts have {mean:.0f} tokens on average; training on them took {seconds:,.0f} seconds."
        )
    settings = {
        name: options[name] for name in HYPERPARAMETERS if name in options and options[name] not in (False, "none")
    }
    if not settings:
        return " ".join(lines)
    values = pd.DataFrame({"value": [f"`{value}`" for value in settings.values()]}, pd.Index(settings, name="option"))
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
    tokenizer = run["tokenizer_config"]
    length, side = tokenizer["model_max_length"], tokenizer.get("truncation_side", "right")
    end = "beginning" if side == "left" else "end"
    limits = [f"Texts of more than {length} tokens lose their {end}."] if not run["config"].get("window") else []
    if measured and measured.coverage is not None and measured.coverage.texts_cut:
        limits[-1:] = [f"{limits[-1]} That were {measured.coverage.texts_cut:,} of the test texts."] if limits else []
    limits.append("Every text is given one of the labels, also one that none of them fits.")
    limits.append("The run does not know the language of its texts: it was not measured on others.")
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
