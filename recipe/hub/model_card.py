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

import recipe
from recipe.atomic import write_text
from recipe.data.run_config import read_run_config
from recipe.errors import RecipeError, as_recipe_error, printable, shorten
from recipe.evaluation.report import PICTURES, WIDE, Measurement, comparison_table, conclusions, most_frequent_mistakes
from recipe.shipped import PACKAGE

logger = logging.getLogger(__name__)

CARD_FILE, NEW_CARD_FILE = "README.md", "README.new.md"
# The hash tells whether somebody has edited the run's part.
BEGIN = "<!-- The run's part: a new run replaces it, and keeps what is written above and below. {hash} -->"
END = "<!-- The end of the run's part. -->"
BLOCK = re.compile(re.escape(BEGIN).replace(r"\{hash\}", "([0-9a-f]*)") + f"\n(.*)\n{re.escape(END)}", re.DOTALL)
OURS = ("metrics", "model-index")  # of the front matter: an earlier run's are not kept
FIGURES = {"accuracy": ("accuracy", "Accuracy"), "f1": ("macro_f1", "Macro F1"), "loss": ("loss", "Loss")}
MISTAKES = 5  # that the limits name
HYPERPARAMETERS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "processes",
    "gradient_accumulation_steps", "early_stopping_patience", "metric_for_best_model",
    "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm", "label_smoothing_factor", "dropout",
    "lora_r", "lora_alpha",
    "class_weight", "bf16", "fp16", "trunk_dtype", "seed",
)  # fmt: skip
REMOVED = {
    "missing_dropped": "without a text or a label",
    "rare_dropped": "of labels too rare to split",
    "conflicts_dropped": "with several labels",
    "group_rows_dropped": "of groups that a split kept out",
    "duplicates_removed": "that were exact copies",
    "undersampled": "to make the labels equally frequent",
    "over_the_limit": "over the number asked for",
}


def write_model_card(run_dir: str | Path, measured: Measurement | None = None) -> Path:
    """Write README.md into a run's folder, and return its path.

    Of a card that is there already, only the run's part and the run's fields of the front matter are replaced. Where
    somebody has edited the run's part, the card stays as it is, and README.new.md is written beside it.

    Args:
        measured: the test; without it, the card has no figures.
    """
    folder = Path(run_dir)
    path, new_path = folder / CARD_FILE, folder / NEW_CARD_FILE
    card = make_card(folder, measured)
    try:
        old = read_card(path) if path.exists() else card
        if is_edited(old):
            raise RecipeError("the run's part was edited")
    except RecipeError as problem:
        logger.warning("%s stays as it is (%s): the new card is %s", path, problem, new_path.name)
        write_text(new_path, str(card))
        return new_path
    write_text(path, str(join_cards(old, card)))
    new_path.unlink(missing_ok=True)
    return path


# ---- A card that is there already ----


def read_card(path: Path) -> ModelCard:
    """Read a card, with or without front matter and a byte-order mark."""
    with as_recipe_error(Exception, f"{path}: cannot be read", "correct the lines between its `---`, or remove it"):
        return ModelCard(path.read_text(encoding="utf-8-sig"))


def is_edited(card: ModelCard) -> bool:
    """Return whether somebody has edited the run's part of a card, or one of its marks."""
    found = BLOCK.search(card.text)
    return BEGIN.partition("{")[0] in card.text if found is None else hash_of(found[2]) != found[1]


def hash_of(block: str) -> str:
    return xxhash.xxh3_64_hexdigest(block.encode())


def with_fields(card: ModelCard, fields: dict[str, Any]) -> ModelCard:
    """Return a card with more fields in its front matter, and tags beside those that it has."""
    tags = [*(card.data.tags or ()), *(fields.get("tags") or ())]
    card.data = ModelCardData(**{**card.data.to_dict(), **fields, "tags": tags})
    return card


def join_cards(old: ModelCard, new: ModelCard) -> ModelCard:
    """Return the old card, not edited, with the new one's run's part and front matter; fields that the run lacks stay."""
    found, block = BLOCK.search(old.text), BLOCK.search(new.text)[0]
    text = old.text[: found.start()] + block + old.text[found.end() :] if found else f"{old.text.rstrip()}\n\n{block}\n"
    joined = ModelCard(str(new))
    joined.data = ModelCardData(**{name: value for name, value in old.data.to_dict().items() if name not in OURS})
    joined.text = text
    return with_fields(joined, new.data.to_dict())


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
    text = re.sub(rf"\A(\s*)# {re.escape(name)}\n", rf"\1# {published_name}\n", card.text)
    loaded = f'"{repo_id}", revision="{revision}"' if revision else f'"{repo_id}"'
    text = text.replace('model="."', f"model={loaded}").replace('from_pretrained("."', f"from_pretrained({loaded}")
    card.text = text.replace('  # ".": run it in the model\'s folder', "")
    return card


# ---- A new card: the sentences are in the template, which takes names, numbers and tables from here ----


def make_card(folder: Path, measured: Measurement | None) -> ModelCard:
    """Return the card of a folder that has none."""
    run = read_run(folder)
    config, options, tokenizer, summary = (run[x] for x in ("config", "options", "tokenizer_config", "data_summary"))
    name, labels = folder.resolve().name, [as_markdown(label) for label in config["id2label"].values()]
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
        tags=["gpt2", "text-classification"],
    )
    pictures = {
        name: f"![{title}](figures/{name}.png)"
        for name, title in PICTURES.items()
        if (folder / f"figures/{name}.png").is_file() and (name != "confusion_matrix" or len(labels) > WIDE)
    }
    packages = ("torch", "transformers", "datasets", "accelerate")
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card.md.jinja")),
        **run,
        labels=labels,
        own_class=config["model_type"] != "gpt2",
        token={"first": "first token", "mean": "tokens' mean"}.get(config.get("pooling"), "last token"),
        is_linear=config["architectures"][0] in ("GPT2ForSequenceClassification", "GPT2LastTokenClassifier"),
        kept_end="last" if tokenizer.get("truncation_side") == "left" else "first",  # of a long text
        longest=config.get("window_max_length") if config.get("window") else tokenizer["model_max_length"],
        has_figures=(folder / "test_results.json").is_file(),
        **(describe_results(measured) if measured else {}),
        pictures=pictures,
        base=base,
        text_columns=[f"`{as_markdown(name)}`" for name in text_columns_of(options)],
        parts=max(len(text_columns_of(options)), 2 if options.get("text_pair_column") else 1),
        label_column=f"`{as_markdown(options.get('label_column') or '')}`",
        is_nano=Path(options.get("model_name_or_path", "")).resolve() == (PACKAGE / "assets/gpt2-nano").resolve(),
        hyperparameters=hyperparameters(run),
        dataset=dataset,
        **(describe_data(summary) if summary else {}),
        versions=[*(f"{name} {version(name)}" for name in packages), f"gpt2-classifier-recipe {recipe.__version__}"],
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


def text_columns_of(options: dict[str, Any]) -> list[str]:
    """Return the columns that a run has read its texts from; empty where that is not known."""
    first, more = options.get("text_column") or [], options.get("text_pair_column")
    return [*([first] if isinstance(first, str) else first), *([more] if more else [])]


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
        for kind, (figure, title) in FIGURES.items()
    ]


def describe_results(measured: Measurement) -> dict[str, Any]:
    """Return what the section on results shows, and the limits that the test has found."""
    labels = [as_markdown(name) for name in measured.label_names]
    columns = {
        title: [measured.scores[f"{title.lower()}_{name}"] for name in measured.label_names]
        for title in ("precision", "recall", "F1")
    }
    columns["test texts"] = measured.confusion.sum(axis=1)
    matrix = pd.DataFrame(measured.confusion, pd.Index(labels, name="true \\ predicted"), labels)
    mistakes = most_frequent_mistakes(measured, MISTAKES)
    return {
        "measured": measured,
        "comparison": table(comparison_table(measured)),
        "conclusions": conclusions(measured),
        "per_label": table(pd.DataFrame(columns, pd.Index(labels, name="label"))),
        "confusion": table(matrix) if len(labels) <= WIDE else "",
        "texts_cut": measured.coverage.texts_cut if measured.coverage else 0,
        "mistakes": [f"{as_markdown(true)} taken for {as_markdown(given)} ({n})" for true, given, n in mistakes],
    }


def hyperparameters(run: dict[str, Any]) -> str:
    """Return the run's options that decide what training does, as a table; "" for a model that train.py has not made."""
    options = run["options"]
    if not options:
        return ""
    settings = {**options, "processes": run["run_state"].get("processes", 1)}
    unused = {"lora_alpha"} if not options.get("lora_r") else set()
    unused |= {"num_train_epochs"} if options.get("max_steps", 0) > 0 else set()
    shown = {name: settings.get(name) for name in HYPERPARAMETERS if name not in unused}
    values = {
        name: f"`{value}`" for name, value in shown.items() if value not in (None, "none", "") and value is not False
    }
    return table(pd.DataFrame({"value": values}).rename_axis("option"))


def describe_data(summary: dict[str, Any]) -> dict[str, Any]:
    """Return how many texts were read, removed and split: counts alone."""
    removed = {why: sum(summary[step].values()) for step, why in REMOVED.items() if summary.get(step)}
    by_label = pd.DataFrame.from_dict(summary["labels"], orient="index").rename(columns=as_markdown)
    by_split = pd.DataFrame({"texts": summary["texts"]})
    return {
        "rows_read": sum(rows for files in summary["rows_read"].values() for rows in files.values()),
        "removed": [f"{rows:,} {why}" for why, rows in removed.items()],
        "texts_by_split": table(
            pd.concat([by_split, by_label] if by_label.shape[1] <= WIDE else [by_split], axis=1).rename_axis("split")
        ),
    }


def as_markdown(name: str) -> str:
    """Return a name as Markdown that shows it as it is, on one line."""
    plain = html.escape(printable(shorten(name, 60)), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", plain)


def table(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table, its index the first column: shares with three digits, counts with commas."""
    formats = {float: "{:.3f}", int: "{:,}"}
    rows = [[frame.index.name or "", *frame.columns], ["---"] + ["---:"] * frame.shape[1]]
    rows += [[formats.get(type(x), "{}").format(x) for x in row] for row in frame.itertuples(name=None)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
