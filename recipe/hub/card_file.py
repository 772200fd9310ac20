"""README.md as a file that a run and its user write together: which part is whose, how they are joined and published."""

import re
from pathlib import Path
from typing import Any

import xxhash
from huggingface_hub import ModelCard, ModelCardData

from recipe.errors import as_recipe_error

CARD_FILE, NEW_CARD_FILE = "README.md", "README.new.md"
PICTURES = {  # of evaluation/run_figures.py, and their titles
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


def run_part(block: str) -> str:
    """Return the run's part of a card between its marks."""
    return f"{BEGIN.format(hash=hash_of(block))}\n{block}\n{END}"


def is_edited(card: ModelCard) -> bool:
    """Return whether somebody has edited the run's part of a card, or one of its marks."""
    found = BLOCK.search(card.text)
    return BEGIN.partition("{")[0] in card.text if found is None else hash_of(found[2]) != found[1]


def join_cards(old: ModelCard, new: ModelCard) -> ModelCard:
    """Return the old card, not edited, with the new one's run's part and front matter; fields that the run lacks stay."""
    found, block = BLOCK.search(old.text), BLOCK.search(new.text)[0]
    text = old.text[: found.start()] + block + old.text[found.end() :] if found else f"{old.text.rstrip()}\n\n{block}\n"
    kept = {name: value for name, value in old.data.to_dict().items() if name not in OURS}
    fields = {**kept, **new.data.to_dict(), "tags": [*(kept.get("tags") or ()), *(new.data.tags or ())]}
    joined = ModelCard(str(new))
    joined.data, joined.text = ModelCardData(**fields), text
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
    fields = {**card.data.to_dict(), **metadata}
    fields["tags"] = [*(card.data.tags or ()), *(metadata.get("tags") or ())]
    for entry in fields.get("model-index") or ():
        entry["name"] = published_name
    card.data = ModelCardData(**fields)
    loaded = f'"{repo_id}", revision="{revision}"' if revision else f'"{repo_id}"'
    text = re.sub(rf"\A(\s*)# {re.escape(name)}\n", rf"\1# {published_name}\n", card.text)
    for call in ("model=", "from_pretrained("):
        text = text.replace(f'{call}"."', call + loaded)
    text = text.replace('  # ".": run it in the model\'s folder', "")
    card.text = text
    return card
