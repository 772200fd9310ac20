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
from recipe.errors import explain
from recipe.evaluation.report import Measurement
from recipe.hub.card_file import CARD_FILE, NEW_CARD_FILE, join_cards, run_part
from recipe.hub.card_sections import (
    describe_data,
    describe_limits,
    describe_results,
    describe_training,
    escape,
    find_pictures,
)

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
TAGS = ["gpt2", "text-classification"]
PACKAGES = ("torch", "transformers", "datasets", "accelerate")
SHOWN_LABELS = 20


def write_model_card(
    run_dir: str | Path, measured: Measurement | None = None, model_id: str | None = None, **metadata: Any
) -> Path:
    """Write README.md into a run's folder, and return its path.

    Of a card that is there already, only the run's part and the run's fields of the front matter are replaced. Where
    somebody has edited the run's part, the card stays as it is, and README.new.md is written beside it.

    Args:
        measured: the test; without it the card says that there was none.
        model_id: the model's name on the Hub, if it has one.
        metadata: fields of the front matter, such as `license`, `language` and `tags`.
    """
    folder = Path(run_dir)
    path, card = folder / CARD_FILE, make_card(folder, measured, model_id, metadata)
    if path.exists():
        try:
            card = join_cards(ModelCard(path.read_text(encoding="utf-8")), card)
        except Exception as error:  # YAML's errors too
            path = folder / NEW_CARD_FILE
            reason = str(error).splitlines()[0]
            logger.warning("%s stays as it is (%s): the new card is %s", folder / CARD_FILE, reason, path.name)
    write_text(path, str(card))
    return path


def make_card(folder: Path, measured: Measurement | None, model_id: str | None, metadata: dict[str, Any]) -> ModelCard:
    """Return the card of a folder that has none."""
    run = read_run(folder)
    config, summary = run["config"], run["data_summary"]
    # Only at the end of a run: later, a local folder of that name may be gone.
    base, dataset = (
        hub_id(run["options"].get(f)) if measured else None for f in ("model_name_or_path", "dataset_name")
    )
    name, labels = (model_id or folder.resolve().name).split("/")[-1], list(config["id2label"].values())
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base,
        datasets=dataset,
        metrics=["accuracy", "f1"] if measured else None,
        model_name=name,
        eval_results=eval_results(measured, dataset) if measured else None,
        **{**metadata, "tags": [*TAGS, *(metadata.get("tags") or ())]},
    )
    shown = ", ".join(map(escape, labels[:SHOWN_LABELS])) + (" ..." if len(labels) > SHOWN_LABELS else "")
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_id=model_id or ".",
        labels=[escape(label) for label in labels],
        shown_labels=shown,
        train_texts=f"{summary['texts']['train']:,}" if summary else "",
        own_class=config["model_type"] != "gpt2",
        window=config.get("window"),
        threshold=config.get("decision_threshold"),
        max_length=run["tokenizer_config"]["model_max_length"],
        measured=measured,
        **(describe_results(measured) if measured else {}),
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
    for name in ("config", "tokenizer_config", "train_results", "data_summary"):
        path, needed = folder / f"{name}.json", name in ("config", "tokenizer_config")
        with explain((OSError, ValueError), f"{path}: cannot be read", "give the folder of a saved model"):
            files[name] = json.loads(path.read_text(encoding="utf-8")) if needed or path.exists() else {}
    return files


def hub_id(name: str | None) -> str | None:
    """Return the name if it is one of the Hub, and not that of a local folder."""
    return name if name and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists() else None


def eval_results(measured: Measurement, dataset: str | None) -> list[EvalResult]:
    """Return the test's figures as the Hub shows them."""
    kinds = {"accuracy": ("accuracy", "Accuracy"), "f1": ("macro_f1", "Macro F1"), "loss": ("loss", "Loss")}
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
        for kind, (figure, title) in kinds.items()
    ]


def versions() -> dict[str, str]:
    return {**{package: version(package) for package in PACKAGES}, "gpt2-classifier-recipe": recipe.__version__}
