"""README.md as a file that a run and its user write together: which part is whose, and how they are joined."""

import re
from typing import Any

import xxhash
from huggingface_hub import ModelCard, ModelCardData

from recipe.errors import explain

CARD_FILE, NEW_CARD_FILE = "README.md", "README.new.md"
# The hash tells whether somebody has edited the run's part.
BEGIN = "<!-- The run's part: a new run replaces it, and keeps what is written above and below. {hash} -->"
END = "<!-- The end of the run's part. -->"
BLOCK = re.compile(re.escape(BEGIN).replace(r"\{hash\}", "([0-9a-f]*)") + f"\n(.*)\n{re.escape(END)}", re.DOTALL)
OURS = ("library_name", "pipeline_tag", "base_model", "datasets", "metrics", "model-index")  # the run's front matter


def run_part(block: str) -> str:
    """Return the run's part of a card between its marks."""
    return f"{BEGIN.format(hash=hash_of(block))}\n{block}\n{END}"


def join_cards(old: ModelCard, new: ModelCard) -> ModelCard:
    """Return the old card with the new one's run's part and front matter; fields that a run does not know stay.

    Raises:
        ValueError: the run's part of the old card was edited.
    """
    found, block = BLOCK.search(old.text), BLOCK.search(new.text)
    if found is None and BEGIN.partition("{")[0] in old.text:
        raise ValueError("a mark of the run's part is missing")
    if found is not None and hash_of(found[2]) != found[1]:
        raise ValueError("its run's part was edited")
    start, end = found.span() if found else (len(old.text), len(old.text))
    before = old.text[:start] if found else f"{old.text.rstrip()}\n\n"
    kept = {name: value for name, value in old.data.to_dict().items() if name not in OURS}
    fields = {**kept, **new.data.to_dict()}
    fields["tags"] = list(dict.fromkeys([*(kept.get("tags") or ()), *new.data.tags]))
    joined = ModelCard(str(new))
    joined.data, joined.text = ModelCardData(**fields), before + block[0] + (old.text[end:] or "\n")
    return joined


def hash_of(block: str) -> str:
    return xxhash.xxh3_64_hexdigest(block.encode())


def add_metadata(card: str, metadata: dict[str, Any]) -> str:
    """Return a card with more fields in its front matter; `tags` are added to those that it has.

    Raises:
        RecipeError: front matter that is not YAML.
    """
    if not metadata:
        return card
    with explain(Exception, f"{CARD_FILE}: its front matter cannot be read", "correct the lines between its `---`"):
        parsed = ModelCard(card)
        fields = {**parsed.data.to_dict(), **metadata}
        fields["tags"] = list(dict.fromkeys([*(parsed.data.tags or ()), *metadata.get("tags", ())]))
        parsed.data = ModelCardData(**fields)
    return str(parsed)
