"""A recipe for turning GPT-2 into a text classifier: freeze all but the tail, read the last token."""

from recipe.freezing import freeze_except, last_blocks
from recipe.modeling import GPT2LastTokenClassifier
from recipe.publishing import to_stock

__all__ = ["GPT2LastTokenClassifier", "freeze_except", "last_blocks", "to_stock"]
__version__ = "0.1.0"
