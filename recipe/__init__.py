"""A recipe for turning GPT-2 into a text classifier: freeze all but the tail, read the last token."""

from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import to_stock
from recipe.model.freezing import freeze_except, last_blocks

__all__ = ["GPT2LastTokenClassifier", "freeze_except", "last_blocks", "to_stock"]
__version__ = "0.1.0"
