"""The table of experiments: rows of a YAML file, each a change of one recipe, over several seeds, beside the first row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Model

from recipe.config import Arguments, field_of, fields_to_argv, parse_arguments, read_yaml_mapping
from recipe.data.trained_on import warn_about_trained_texts
from recipe.errors import RecipeError, first_line
from recipe.evaluation.intervals import compare_paired, format_p, wilson_interval
from recipe.evaluation.metrics import label_metrics
from recipe.evaluation.plots import BLUE, GREY, new_figure, write_figure
from recipe.experiments.options import REFUSED, UNUSED
from recipe.experiments.runs import Results, Runner, hash_of, load_texts, rows_of, settings_of
from recipe.inference.text_classifier import TextClassifier
from recipe.model.loading import head_labels, load_config
from recipe.shipped import shipped
from recipe.training.callbacks import callbacks_for
from recipe.training.trunk import classifier_of

OWN_FIELDS = ("published", "skip", "random_weights")  # of a row, beside those of train.py
OF_EACH_RUN = ("seed", "output_dir", "overwrite_output_dir", "config")  # what the experiments set themselves
SHOWN = {"accuracy": "accuracy %", "sd": "sd", "low": "95 % from", "high": "to", "mcnemar_p": "McNemar's p"}
SHOWN |= {"seconds": "seconds", "trainable_parameters": "parameters", "published": "published %"}


@dataclass
class Row:
    """A row: its name, the options of train.py that it sets, and what is known about it."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    published: float | None = None  # the accuracy in percent that somebody else reports, if anybody does
    skip: str | None = None  # why it cannot be run; None if it can
    random_weights: bool = False  # train from random weights of the base model's shape


@dataclass
class Experiments:
    """What a YAML file asks for."""

    base: str  # a recipe
    seeds: list[int]
    rows: list[Row]


def load_experiments(path: str) -> Experiments:
    """Read a file of experiments, and check it but for the options of train.py (see check_row_options)."""
    content = {"seeds": [42], **read_yaml_mapping(shipped(path))}
    base, seeds, rows = (content.pop(name, None) for name in ("base", "seeds", "rows"))
    are_seeds = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if content or not isinstance(base, str) or not are_seeds or not isinstance(rows, dict) or not rows:
        wanted = "base (the path of a recipe), seeds (a list of whole numbers) and rows (a mapping of names to options)"
        raise RecipeError(f"{path}: give {wanted}, and nothing else")
    experiments = Experiments(base, list(dict.fromkeys(seeds)), [])
    for name, options in rows.items():
        options = {} if options is None else options
        if not isinstance(options, dict) or not isinstance(options.get("published", 0), int | float):
            raise RecipeError(f"{path}: row {name!r}: write `field: value` lines under it; published is a number")
        if forbidden := [name for name in OF_EACH_RUN if name in options]:
            raise RecipeError(f"{path}: row {name!r} sets {forbidden[0]}, which is no row's to set: drop it")
        own = {key: options.pop(key) for key in OWN_FIELDS if key in options}
        experiments.rows.append(Row(str(name), options, **own))
    if experiments.rows[0].skip:
        raise RecipeError(f"{path}: the first row, which others are compared with, is skipped: put another one first")
    return experiments


def arguments_of(experiments: Experiments, row: Row, overrides: Sequence[str]) -> list[str]:
    """Return train.py's command line for a row; what the row sets wins over the overrides, and these over the base."""
    own = fields_to_argv(row.fields, f"row {row.name!r}")
    return ["--config", experiments.base, *overrides, *own, *UNUSED]


def check_row_options(experiments: Experiments, overrides: Sequence[str]) -> bool:
    """Check the options of every row before any is run, and note in `skip` those whose base model is not there.

    Rows with a base model of their own are left out too, where the command line names one.

    Returns:
        `overwrite_output_dir`, which asks for all rows anew.

    Raises:
        RecipeError: options that train.py refuses, with the row's name, or that a table cannot follow.
    """
    given = {field_of(word) for word in overrides if word.startswith("--")}
    if "seed" in given:
        raise RecipeError("seed is set for each run here: leave it out and give --seeds")
    for row in (row for row in experiments.rows if not row.skip):
        words = arguments_of(experiments, row, overrides)  # whose errors name the row
        try:
            arguments = parse_arguments(words)
        except RecipeError as error:
            raise RecipeError(f"row {row.name!r}: {error}") from error
        set_fields = {name: value for part in arguments for name, value in vars(part).items()}
        for name in (name for name in REFUSED if set_fields[name] and name != "early_stopping_patience"):
            raise RecipeError(f"row {row.name!r} sets {name}: {REFUSED[name]}, so leave it out, in the base too")
        if "model_name_or_path" in row.fields.keys() & given:
            name = row.fields["model_name_or_path"]
            row.skip = f"its base model is {name}: it runs where the command line names no model_name_or_path"
            continue
        try:
            load_config(arguments[0].model_name_or_path, arguments[0].model_revision)
        except RecipeError as error:
            row.skip = str(error)
            if row is experiments.rows[0]:
                raise
    return arguments[2].overwrite_output_dir


def run_rows(
    experiments: Experiments, overrides: Sequence[str], results: Results
) -> Iterator[tuple[Row, int, dict[str, Any]]]:
    """Yield each row and seed with its result, as `train_row` returns it, or with `error`, a line that says why there is none.

    Rows that are skipped have one too, if an earlier call trained them.
    """
    loaded: dict[str, tuple[dict[str, Dataset], str]] = {}  # and a hash of the texts: rows of the same data share them
    for row in experiments.rows:
        for seed in experiments.seeds:
            try:
                arguments = parse_arguments([*arguments_of(experiments, row, overrides), "--seed", str(seed)])
                model_args, data_args, _ = arguments
                labels = head_labels(load_config(model_args.model_name_or_path, model_args.model_revision))
                data = hash_of((vars(data_args), labels))
                if data not in loaded:
                    splits = load_texts(arguments, "train", "validation", "test")
                    warn_about_trained_texts(splits["test"]["text"], model_args.model_name_or_path)
                    loaded[data] = splits, hash_of(rows_of(splits))
                splits, texts = loaded[data]
                case = {"row": row.name, "seed": seed, "random_weights": row.random_weights}
                case |= {"settings": hash_of(settings_of(arguments)), "texts": texts}
                if not row.skip:
                    result = results.of(case, partial(train_row, arguments, splits, row.random_weights))
                    yield row, seed, result
                elif found := results.get(case):
                    yield row, seed, found
            except Exception as error:  # whatever a library raises: the other rows go on
                if not row.skip:
                    yield row, seed, {"error": f"seed {seed}: {first_line(error)}"}


def train_row(arguments: Arguments, splits: Mapping[str, Dataset], random_weights: bool) -> dict[str, Any]:
    """Train as scripts/train.py does, and return the test's figures.

    Returns:
        `accuracy`, `macro_f1`, `right` (a 1 or 0 for each test text), `test` (a hash of these texts), `seconds` of
        training, `trainable_parameters`.
    """
    model_args, _, training_args = arguments
    with TemporaryDirectory(prefix="recipe-row-") as folder:
        if random_weights:
            save_random(model_args.model_name_or_path, model_args.model_revision, folder, training_args.seed)
            model_args.model_name_or_path, model_args.model_revision = folder, "main"
        runner = Runner(arguments, {name: splits[name] for name in ("train", "validation")}, keep_head=True)
        with runner.trainer(callbacks=callbacks_for(training_args), disable_tqdm=True) as trainer:
            seconds = trainer.train().metrics["train_runtime"]
            trained = [p for p in classifier_of(trainer.model).parameters() if p.requires_grad]
            trainer.save_model(f"{folder}/saved")
        classifier = TextClassifier.from_pretrained(f"{folder}/saved", training_args.device)  # in float32, as users do
        predicted = classifier.predict(splits["test"]["text"][:])[1].argmax(axis=-1)
    labels = np.array(splits["test"]["label"])
    figures = label_metrics(predicted, labels)
    return {
        **{name: figures[name] for name in ("accuracy", "macro_f1")},
        "right": "".join("01"[is_right] for is_right in (predicted == labels).tolist()),
        "test": hash_of(splits["test"]["text"][:]),
        "seconds": seconds,
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
    }


def save_random(name: str, revision: str, folder: str, seed: int) -> None:
    """Save random weights of a base model's shape, as GPT-2 starts, and its tokenizer."""
    torch.manual_seed(seed)
    GPT2Model(load_config(name, revision)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(name, revision=revision).save_pretrained(folder)


def summarize(experiments: Experiments, results: Mapping[str, Mapping[int, dict[str, Any]]]) -> pd.DataFrame:
    """Return a line a row, from its results by seed: means over seeds, and the comparison with the first row.

    `low` and `high` are Wilson's 95 % interval of the right answers of all seeds together: the texts are the same, so for
    other texts it is too narrow. `mcnemar_p` is exact, of the answers of the first seed that both rows have, where the test
    texts are the same. `seeds` counts those that gave a result.
    """
    lines, of_first = [], {}
    for row in experiments.rows:
        of_row = results.get(row.name, {})
        runs = {seed: found for seed, found in of_row.items() if "error" not in found}
        errors = [found["error"] for found in of_row.values() if "error" in found]
        line = {"row": row.name, "seeds": len(runs), "published": row.published}
        line["note"] = errors[-1] if errors else "" if runs else row.skip or ""
        if runs:
            right = np.stack([answers(run) for run in runs.values()])
            accuracies = 100 * right.mean(axis=1)
            low, high = wilson_interval(int(right.sum()), right.size)
            line |= {"accuracy": accuracies.mean(), "low": 100 * low, "high": 100 * high, "test_texts": right.shape[1]}
            line["sd"] = np.std(accuracies, ddof=1) if len(runs) > 1 else None
            line |= {name: np.mean([run[name] for run in runs.values()]) for name in ("macro_f1", "seconds")}
            line["trainable_parameters"] = next(iter(runs.values()))["trainable_parameters"]
        if not lines:
            of_first = runs
        elif shared := [seed for seed in runs if seed in of_first]:
            mine, first = runs[shared[0]], of_first[shared[0]]
            if mine["test"] == first["test"]:
                line["mcnemar_p"] = compare_paired(answers(mine), answers(first)).p_value
        lines.append(line)
    columns = ["accuracy", "sd", "low", "high", "macro_f1", "mcnemar_p", "seconds", "trainable_parameters"]
    columns += ["seeds", "test_texts", "published", "note"]
    return pd.DataFrame(lines).set_index("row").reindex(columns=columns)


def answers(run: Mapping[str, Any]) -> np.ndarray:
    """Return which test texts a run has right: bool [N]."""
    return np.array([*run["right"]]) == "1"


def describe(table: pd.DataFrame) -> str:
    """Return the table as people read it, and under it why rows were not run."""
    notes = table["note"][table["note"] != ""]
    notes = [f"{name}: {note}" if table["seeds"][name] else f"not run: {name}: {note}" for name, note in notes.items()]
    run = table[table["seeds"] > 0].rename_axis(None)
    if run.empty:
        return "\n".join(notes)
    if run["seeds"].max() > 1:
        interval = "The interval is of all seeds' answers, whose texts are the same: for other texts it is wider."
        notes = [interval, "McNemar's p is of the answers of one seed, the first that both rows have.", *notes]
    formatters = {"McNemar's p": format_p, "parameters": "{:,.0f}".format}
    shown = run[[*SHOWN]].astype(float).rename(columns=SHOWN)
    return "\n".join([shown.to_string(formatters=formatters, float_format="{:.1f}".format, na_rep=""), "", *notes])


def draw_table(path: Path, table: pd.DataFrame) -> None:
    """Draw the rows that were run, the first on top."""
    rows = table[table["seeds"] > 0].iloc[::-1]
    figure, heights = new_figure(8, 1.2 + 0.42 * len(rows)), range(len(rows))
    axes = figure.subplots()
    errors = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    axes.errorbar(rows["accuracy"], heights, xerr=errors, fmt="o", color=BLUE, capsize=3, label="mean, 95 % interval")
    if rows["published"].notna().any():
        axes.plot(rows["published"], heights, "D", color=GREY, markersize=5, label="published, of another model")
    if rows.index[-1] == table.index[0]:
        axes.axvline(rows["accuracy"].iloc[-1], color=BLUE, linewidth=0.8, linestyle=":")
    axes.set_yticks(heights, labels=rows.index, parse_math=False)
    axes.set(xlabel="accuracy on the test, %", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    write_figure(figure, path)
