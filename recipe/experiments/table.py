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
from transformers import AutoTokenizer, GPT2Model

from recipe.atomic import write_files
from recipe.config import Arguments, field_of, fields_to_argv, parse_arguments, read_yaml_mapping
from recipe.data.dataset import TextSplits, load_splits
from recipe.data.trained_on import warn_about_trained_texts
from recipe.errors import RecipeError, first_line
from recipe.evaluation.intervals import compare_paired, format_p, wilson_interval
from recipe.evaluation.metrics import label_metrics
from recipe.evaluation.plots import BLUE, GREY, cut_middle, save_figure
from recipe.experiments.options import REFUSED, UNUSED
from recipe.experiments.runs import Results, Runner, hash_of, settings_of
from recipe.inference.text_classifier import TextClassifier
from recipe.model.loading import head_labels, load_config
from recipe.shipped import shipped
from recipe.training.callbacks import callbacks_for
from recipe.training.trunk import classifier_of

OWN_FIELDS = ("published", "skip", "random_weights")  # of a row, beside those of train.py
OF_EACH_RUN = {"seed", "output_dir", "overwrite_output_dir", "config"}  # what the experiments set themselves
SHOWN = {
    "accuracy": "accuracy %",
    "sd": "sd",
    "interval": "95 % interval",
    "mcnemar_p": "McNemar's p",
    "seconds": "seconds",
    "trainable_parameters": "parameters",
    "published": "published %",
}


@dataclass
class Row:
    """A row: its name, the options of train.py that it sets, and what is known about it.

    published: the accuracy in percent that somebody else reports, if anybody does.
    skip: why it cannot be run; None if it can.
    random_weights: train from random weights of the base model's shape.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    skip: str | None = None
    random_weights: bool = False


@dataclass
class Experiments:
    """What a YAML file asks for: `base`, a recipe; `seeds`; and `rows`."""

    base: str
    seeds: list[int]
    rows: list[Row]


def load_experiments(path: str) -> Experiments:
    """Read a file of experiments, and check it but for the options of train.py (see arguments_of).

    Raises:
        RecipeError: unreadable YAML, unknown keys, values of the wrong type.
    """
    content = read_yaml_mapping(shipped(path))
    if unknown := sorted(map(str, content.keys() - {"base", "seeds", "rows"})):
        raise RecipeError(f"{path}: unknown key {unknown[0]!r}: take base, seeds and rows")
    base, seeds, rows = content.get("base"), content.get("seeds", [42]), content.get("rows")
    if not isinstance(base, str):
        raise RecipeError(
            f"{path}: base is {base!r}: give the path of a recipe, such as recipe/configs/quickstart.yaml"
        )
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RecipeError(f"{path}: seeds is {seeds!r}: give a list of whole numbers")
    if not isinstance(rows, dict) or not rows:
        raise RecipeError(f"{path}: rows is no mapping: give the rows by their names, the first to compare with")
    found = [row_of(path, str(name), options) for name, options in rows.items()]
    if found[0].skip:
        raise RecipeError(
            f"{path}: the first row, which all others are compared with, is skipped: put another one first"
        )
    return Experiments(base, list(dict.fromkeys(seeds)), found)


def row_of(path: str, name: str, options: Any) -> Row:
    """Return a row of the file."""
    if not isinstance(options, dict | None):
        raise RecipeError(f"{path}: row {name!r} is no mapping: write `field: value` lines under it, or nothing")
    fields = {key: value for key, value in (options or {}).items() if key not in OWN_FIELDS}
    if forbidden := sorted(OF_EACH_RUN & fields.keys()):
        raise RecipeError(f"{path}: row {name!r} sets {forbidden[0]}, which is no row's to set: drop it")
    row = Row(name, fields, **{key: options[key] for key in OWN_FIELDS if options and key in options})
    if row.published is not None and not isinstance(row.published, int | float):
        raise RecipeError(f"{path}: row {name!r}: published is {row.published!r}: give the accuracy in percent")
    return row


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
        if arguments[2].world_size > 1:
            raise RecipeError("a table is one process: start it without `accelerate launch`")
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
    loaded: dict[str, tuple[TextSplits, str]] = {}  # and a hash of the texts: rows of the same data options share them
    for row in experiments.rows:
        for seed in experiments.seeds:
            try:
                arguments = parse_arguments([*arguments_of(experiments, row, overrides), "--seed", str(seed)])
                model_args, data_args, _ = arguments
                config = load_config(model_args.model_name_or_path, model_args.model_revision)
                labels = head_labels(config)
                data = hash_of((vars(data_args), labels))
                if data not in loaded:
                    splits = load_splits(data_args, labels)
                    warn_about_trained_texts(splits["test"]["text"], model_args.model_name_or_path)
                    loaded[data] = splits, hash_texts(splits)
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


def train_row(arguments: Arguments, splits: TextSplits, random_weights: bool) -> dict[str, Any]:
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
        rows = {name: (name, None) for name in ("train", "validation")}
        with runner.trainer(rows, callbacks=callbacks_for(training_args), disable_tqdm=True) as trainer:
            seconds = trainer.train().metrics["train_runtime"]
            trained = [p for p in classifier_of(trainer.model).parameters() if p.requires_grad]
            trainer.save_model(f"{folder}/saved")
        classifier = TextClassifier.from_pretrained(f"{folder}/saved", training_args.device)  # in float32, as users do
        predicted = classifier.predict(splits["test"]["text"][:])[1].argmax(axis=-1)
    labels = np.array(splits["test"]["label"])
    figures = label_metrics(predicted, labels)
    return {
        "accuracy": figures["accuracy"],
        "macro_f1": figures["macro_f1"],
        "right": "".join("01"[is_right] for is_right in (predicted == labels).tolist()),
        "test": hash_of(splits["test"]["text"][:]),
        "seconds": seconds,
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
    }


def hash_texts(splits: TextSplits) -> str:
    """Return a hash of all texts and labels."""
    return hash_of([(name, splits[name]["text"][:], splits[name]["label"][:]) for name in splits])


def save_random(name: str, revision: str, folder: str, seed: int) -> None:
    """Save random weights of a base model's shape, as GPT-2 starts, and its tokenizer."""
    torch.manual_seed(seed)
    GPT2Model(load_config(name, revision)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(name, revision=revision).save_pretrained(folder)


def summarize(experiments: Experiments, results: Mapping[str, Mapping[int, dict[str, Any]]]) -> pd.DataFrame:
    """Return a line a row: accuracy over its seeds, and the comparison with the first row.

    Columns: `accuracy` (mean over seeds), `sd`, `low` and `high` (Wilson's 95 % interval of the right answers of all seeds
    together: the texts are the same, so for other texts it is too narrow), `macro_f1`, `mcnemar_p` (exact, of the
    answers of the first seed that both have, where the test texts are the first row's), `seconds` of training (mean),
    `trainable_parameters`, `seeds` (that gave a result), `test_texts`, `published`, `note`.

    Args:
        results: by row and seed, as run_rows yields them.
    """
    lines, of_first = {}, ended(results.get(experiments.rows[0].name, {}))
    for row in experiments.rows:
        of_row = results.get(row.name, {})
        runs, errors = ended(of_row), [found["error"] for found in of_row.values() if "error" in found]
        note = errors[-1] if errors else (row.skip or "") if not runs else ""
        line = {"published": row.published, "seeds": len(runs), "note": note}
        if runs:
            line |= measure_row([*runs.values()])
            shared = [seed for seed in runs if seed in of_first]
            if row is not experiments.rows[0] and shared:
                one, first = runs[shared[0]], of_first[shared[0]]
                same = one["test"] == first["test"]
                line["mcnemar_p"] = compare_paired(answers(one), answers(first)).p_value if same else None
        lines[row.name] = line
    columns = ["accuracy", "sd", "low", "high", "macro_f1", "mcnemar_p", "seconds", "trainable_parameters"]
    table = pd.DataFrame.from_dict(lines, orient="index")
    return table.reindex(columns=[*columns, "seeds", "test_texts", "published", "note"]).rename_axis("row")


def ended(results: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the results that are no errors."""
    return {seed: found for seed, found in results.items() if "error" not in found}


def answers(run: Mapping[str, Any]) -> np.ndarray:
    """Return which test texts a run has right: bool [N]."""
    return np.array([*run["right"]]) == "1"


def measure_row(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the figures of a row that do not depend on another (see summarize)."""
    right = np.stack([answers(run) for run in runs])
    accuracies = 100 * right.mean(axis=1)
    low, high = wilson_interval(int(right.sum()), right.size)
    return {
        "accuracy": accuracies.mean(),
        "sd": np.std(accuracies, ddof=1) if len(runs) > 1 else None,
        "low": 100 * low,
        "high": 100 * high,
        "macro_f1": np.mean([run["macro_f1"] for run in runs]),
        "seconds": np.mean([run["seconds"] for run in runs]),
        "trainable_parameters": runs[0]["trainable_parameters"],
        "test_texts": right.shape[1],
    }


def describe(table: pd.DataFrame) -> str:
    """Return the table as people read it, and under it why rows were not run."""
    notes = table["note"][table["note"] != ""]
    notes = [f"{name}: {note}" if table["seeds"][name] else f"not run: {name}: {note}" for name, note in notes.items()]
    if not table["seeds"].any():
        return "\n".join(notes)
    numbers = dict.fromkeys(("sd", "mcnemar_p", "seconds", "published"), float)
    run = table[table["accuracy"].notna()].astype(numbers)
    interval = run["low"].map("{:.1f}".format) + " - " + run["high"].map("{:.1f}".format)
    shown = run.assign(interval=interval)[[*SHOWN]].rename(columns=SHOWN).rename_axis(None)
    formats = {"accuracy %": 1, "sd": 1, "seconds": 1, "published %": 1}
    formatters = {name: f"{{:.{digits}f}}".format for name, digits in formats.items()}
    formatters["McNemar's p"] = format_p
    text = shown.to_string(formatters={**formatters, "parameters": "{:,.0f}".format}, na_rep="")
    if table["seeds"].max() > 1:
        notes.insert(0, "The interval is of all seeds' answers, whose texts are the same: for other texts it is wider.")
        notes.insert(1, "McNemar's p is of the answers of one seed, the first that both rows have.")
    return "\n".join([text, "", *notes])


def draw_table(path: Path, table: pd.DataFrame) -> None:
    """Draw the rows that were run, the first on top."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    rows = table[table["accuracy"].notna()].iloc[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)), dpi=120, layout="constrained")
    axes, heights = figure.subplots(), range(len(rows))
    errors = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    axes.errorbar(rows["accuracy"], heights, xerr=errors, fmt="o", color=BLUE, capsize=3, label="mean, 95 % interval")
    if rows["published"].notna().any():
        axes.plot(rows["published"], heights, "D", color=GREY, markersize=5, label="published, of another model")
    if rows.index[-1] == table.index[0]:
        axes.axvline(rows["accuracy"].iloc[-1], color=BLUE, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        heights, labels=[cut_middle(name) if len(name) > 40 else name for name in rows.index], parse_math=False
    )
    axes.set(xlabel="accuracy on the test, %", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))
