"""The model card: README.md of a run, filled in from what the run has left in its folder and from its test."""

import html
import json
import logging
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import xxhash
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from sklearn.metrics import precision_recall_fscore_support

import recipe
from recipe.atomic import write_text
from recipe.data.texts import read_run_config
from recipe.errors import RecipeError, as_recipe_error, printable, shorten
from recipe.evaluation.report import (
    Measurement,
    comparison_table,
    comparison_verdict,
    most_frequent_mistakes,
    next_step,
)
from recipe.shipped import PACKAGE

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
TAGS = ["gpt2", "text-classification"]
PACKAGES = ("torch", "transformers", "datasets", "accelerate")
SHOWN_LABELS = 20
SHOWN_FIGURES = {"accuracy": ("accuracy", "Accuracy"), "f1": ("macro_f1", "Macro F1"), "loss": ("loss", "Loss")}


def write_model_card(run_dir: str | Path, measured: Measurement | None = None, **metadata: Any) -> Path:
    """Write README.md into a run's folder, and return its path.

    Of a card that is there already, only the run's part and the run's fields of the front matter are replaced. Where
    somebody has edited the run's part, the card stays as it is, and README.new.md is written beside it.

    Args:
        measured: the test. Without it, a card that shows the figures of the folder's test_results.json is kept, with the
            metadata added to it: those files do not hold all that it says. Any other card names that file, or says that
            there was no test.
        metadata: fields of the front matter, such as `license`, `language` and `tags`.
    """
    folder = Path(run_dir)
    path, new_path = folder / CARD_FILE, folder / NEW_CARD_FILE
    if measured is None and shows_results(path, folder / "test_results.json"):
        write_text(path, str(with_fields(read_card(path), metadata)))
        return path
    card, problem = make_card(folder, measured, metadata), ""
    try:
        old = read_card(path) if path.exists() else card
        problem = "the run's part was edited" if is_edited(old) else ""
    except RecipeError as error:
        problem = str(error)
    if problem:
        logger.warning("%s stays as it is (%s): the new card is %s", path, problem, new_path.name)
        write_text(new_path, str(card))
        return new_path
    write_text(path, str(join_cards(old, card)))
    new_path.unlink(missing_ok=True)
    return path


def shows_results(path: Path, results: Path) -> bool:
    """Return whether a card was made from the test whose figures a results file holds."""
    if not (path.is_file() and results.is_file()):
        return False
    try:
        card, figures = read_card(path), json.loads(results.read_text(encoding="utf-8"))
    except (RecipeError, ValueError):
        return False
    shown = {result.metric_type: result.metric_value for result in card.data.eval_results or ()}
    names = {kind: f"test_{name}" for kind, (name, _) in SHOWN_FIGURES.items()}
    return bool(shown) and shown == {
        kind: round(figures[name], 6) for kind, name in names.items() if isinstance(figures.get(name), float)
    }


def with_fields(card: ModelCard, fields: dict[str, Any]) -> ModelCard:
    """Return a card with more fields in its front matter, and tags beside those that it has."""
    tags = [*(card.data.tags or ()), *(fields.get("tags") or ())]
    card.data = ModelCardData(**{**card.data.to_dict(), **fields, "tags": tags})
    return card


def make_card(folder: Path, measured: Measurement | None, metadata: dict[str, Any]) -> ModelCard:
    """Return the card of a folder that has none."""
    run = read_run(folder)
    config, options, summary = run["config"], run["options"], run["data_summary"]
    name, labels = folder.resolve().name, list(config["id2label"].values())
    # Only at the end of a run: later, a local folder of that name may be gone.
    base = hub_id(options.get("model_name_or_path")) if measured else None
    dataset = hub_id(options.get("dataset_name")) if measured else None
    # The dataset's own test split, all of it: else the figures are of texts that only this run has drawn.
    is_its_test = "test" in summary.get("rows_read", {}) and not options.get("max_predict_samples")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base,
        datasets=dataset,
        metrics=["accuracy", "f1"] if measured else None,
        model_name=name,
        eval_results=eval_results(measured, dataset if is_its_test else None) if measured else None,
        **{**metadata, "tags": [*TAGS, *(metadata.get("tags") or ())]},
    )
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        labels=[as_markdown(label) for label in labels],
        shown_labels=", ".join(
            [*map(as_markdown, labels[:SHOWN_LABELS]), *(["..."] if len(labels) > SHOWN_LABELS else [])]
        ),
        train_texts=f"{summary['texts']['train']:,}" if summary else "",
        own_class=config["model_type"] != "gpt2",
        head=describe_head(config),
        pair_separator=options.get("text_pair_column") and options.get("text_pair_separator"),
        threshold=config.get("decision_threshold"),
        windows=describe_windows(run),
        measured=measured,
        **(describe_results(measured, bool(options.get("remove_duplicates"))) if measured else {}),
        has_figures=(folder / "test_results.json").is_file(),
        pictures=find_pictures(folder, len(labels)),
        training=describe_training(run, base),
        data=describe_data(summary, dataset),
        limits=describe_limits(run, measured),
        versions=", ".join([*versions, f"gpt2-classifier-recipe {recipe.__version__}"]),
    )
    block = re.sub("\n{3,}", "\n\n", card.text.strip())
    card.text = f"\n# {as_markdown(name)}\n\n{BEGIN.format(hash=hash_of(block))}\n{block}\n{END}\n"
    return card


def read_run(folder: Path) -> dict[str, Any]:
    """Return the files that the card is made from; those that only train.py writes are empty where they are missing."""
    files: dict[str, Any] = {"options": read_run_config(folder)}
    for name in ("config", "tokenizer_config", "train_results", "data_summary", "run_state"):
        path, needed = folder / f"{name}.json", name in ("config", "tokenizer_config")
        with as_recipe_error((OSError, ValueError), f"{path}: cannot be read", "give the folder of a saved model"):
            files[name] = json.loads(path.read_text(encoding="utf-8")) if needed or path.exists() else {}
    return files


def hub_id(name: str | None) -> str | None:
    """Return the name if it is one of the Hub, and not that of a local folder."""
    return name if name and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists() else None


def eval_results(measured: Measurement, dataset: str | None) -> list[EvalResult]:
    """Return the test's figures as the Hub shows them."""
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset or "custom",
            dataset_name=dataset or "texts of its publisher",
            dataset_split="test",
            metric_type=kind,
            metric_name=title,
            metric_value=round(measured.scores[figure], 6),
        )
        for kind, (figure, title) in SHOWN_FIGURES.items()
    ]


CARD_FILE, NEW_CARD_FILE = "README.md", "README.new.md"
PICTURES = {  # of evaluation/plots.py, and their titles
    "confusion_matrix": "Confusion matrix",
    "reliability": "Reliability",
    "precision_recall": "Precision and recall",
    "length": "Accuracy by length",
    "training": "Training",
}
# The hash tells whether somebody has edited the run's part.
BEGIN = "<!-- The run's part: a new run replaces it, and keeps what is written above and below. {hash} -->"
END = "<!-- The end of the run's part. -->"
BLOCK = re.compile(re.escape(BEGIN).replace(r"\{hash\}", "([0-9a-f]*)") + f"\n(.*)\n{re.escape(END)}", re.DOTALL)
OURS = ("metrics", "model-index")  # of the front matter: an earlier run's are not kept


def read_card(path: Path) -> ModelCard:
    """Read a card, with or without front matter and a byte-order mark.

    Raises:
        RecipeError: no text, or front matter that is not YAML.
    """
    with as_recipe_error(Exception, f"{path}: cannot be read", "correct the lines between its `---`, or remove it"):
        return ModelCard(path.read_text(encoding="utf-8-sig"))


def is_edited(card: ModelCard) -> bool:
    """Return whether somebody has edited the run's part of a card, or one of its marks."""
    found = BLOCK.search(card.text)
    return BEGIN.partition("{")[0] in card.text if found is None else hash_of(found[2]) != found[1]


def join_cards(old: ModelCard, new: ModelCard) -> ModelCard:
    """Return the old card, not edited, with the new one's run's part and front matter; fields that the run lacks stay."""
    found, block = BLOCK.search(old.text), BLOCK.search(new.text)[0]
    text = old.text[: found.start()] + block + old.text[found.end() :] if found else f"{old.text.rstrip()}\n\n{block}\n"
    joined = ModelCard(str(new))
    joined.data = ModelCardData(**{name: value for name, value in old.data.to_dict().items() if name not in OURS})
    joined = with_fields(joined, new.data.to_dict())
    joined.text = text
    return joined


def hash_of(block: str) -> str:
    return xxhash.xxh3_64_hexdigest(block.encode())


def published_card(path: Path, repo_id: str, revision: str | None, metadata: dict[str, Any]) -> ModelCard:
    """Return a folder's card as it is published: it is called, and loads, what the Hub has.

    Args:
        metadata: more fields of the front matter; `tags` are added to those that it has.
    """
    card, published_name = read_card(path), repo_id.split("/")[-1]
    name = card.data.model_name or path.resolve().parent.name  # of the run's own folder, which may be copied
    card = with_fields(card, metadata)
    if card.data.eval_results:
        card.data.model_name = published_name
    loaded = f'"{repo_id}", revision="{revision}"' if revision else f'"{repo_id}"'
    text = re.sub(rf"\A(\s*)# {re.escape(name)}\n", rf"\1# {published_name}\n", card.text)
    for call in ("model=", "from_pretrained("):
        text = text.replace(f'{call}"."', call + loaded)
    text = text.replace('  # ".": run it in the model\'s folder', "")
    card.text = text
    return card


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


def as_markdown(name: str) -> str:
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
    names, scores = [as_markdown(name) for name in measured.label_names], measured.scores
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
    labels = labels.rename(columns=as_markdown) if labels.shape[1] <= WIDE else labels[[]]
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
        named = [
            f"{as_markdown(true)} taken for {as_markdown(predicted)} ({texts})" for true, predicted, texts in mistakes
        ]
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
