"""The model card: README.md of a run, filled in from what the run has left in its folder and from its test."""

import json
import logging
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

import recipe
from recipe.atomic import write_text
from recipe.data.texts import read_run_config
from recipe.errors import RecipeError, as_recipe_error
from recipe.evaluation.report import Measurement
from recipe.hub.card_file import CARD_FILE, NEW_CARD_FILE, is_edited, join_cards, read_card, run_part
from recipe.hub.card_sections import (
    describe_data,
    describe_head,
    describe_limits,
    describe_results,
    describe_training,
    describe_windows,
    escape,
    find_pictures,
)

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
        return add_metadata(path, metadata)
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


def add_metadata(path: Path, metadata: dict[str, Any]) -> Path:
    """Set fields of a card's front matter, tags beside those that it has, and return its path."""
    card = read_card(path)
    tags = [*(card.data.tags or ()), *(metadata.get("tags") or ())]
    card.data = ModelCardData(**{**card.data.to_dict(), **metadata, "tags": tags})
    write_text(path, str(card))
    return path


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
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        labels=[escape(label) for label in labels],
        shown_labels=", ".join([*map(escape, labels[:SHOWN_LABELS]), *(["..."] if len(labels) > SHOWN_LABELS else [])]),
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
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
    )
    block = re.sub("\n{3,}", "\n\n", card.text.strip())
    card.text = f"\n# {escape(name)}\n\n{run_part(block)}\n"
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


def versions() -> dict[str, str]:
    return {**{package: version(package) for package in PACKAGES}, "gpt2-classifier-recipe": recipe.__version__}
