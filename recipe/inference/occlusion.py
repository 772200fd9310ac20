"""Occlusion (optional): how much less likely a label gets when a word, or a run of words, is left out of a text."""

import re
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from tqdm.auto import tqdm

from recipe.inference.text_classifier import TextClassifier

# Bounds on the wait: of a long text, runs of words are left out together.
MIN_PIECES, MAX_PIECES = 8, 128
MAX_TOKENS = 16_384  # that the model reads over all variants of a text, if these are more than MIN_PIECES

# With the spaces before it, so that no variant ends in a space, where the model reads its answer. What has no spaces for
# long, such as a link or Chinese, is left out in parts.
WORD = re.compile(r"\s*\S{1,30}")


@dataclass(frozen=True, eq=False)
class Occlusion:
    """The pieces of a text, and what a label's probability is without each.

    spans: of each piece, start and end in the text, ascending; together they hold the words that the model reads.
    words: how many these are: more than there are pieces where runs of words are left out.
    probability, without: of the label, for the complete text, and float64 [P], without each piece.
    drops: float64 [P], how far its log-odds fall without each piece, which tell apart what probabilities near 1 do not.
    """

    spans: list[tuple[int, int]]
    words: int
    probability: float
    without: np.ndarray
    drops: np.ndarray


def leave_one_out(classifier: TextClassifier, text: str, label: int, progress: bool | tqdm = False) -> Occlusion:
    """Classify a text (as clean_text gives it) once more without each of its pieces, in batches."""
    (ids,), _ = classifier.encode([text])
    words = [match.span() for match in WORD.finditer(text, *read_span(classifier, text, len(ids)))]
    count = min(len(words), MAX_PIECES, max(MIN_PIECES, MAX_TOKENS // len(ids)))
    runs = np.array_split(np.arange(len(words)), count) if words else []
    spans = [(words[run[0]][0], words[run[-1]][1]) for run in runs]
    # A text that loses its beginning does not begin with a space instead.
    variants = [text[:start] + text[end:] if start else text[end:].lstrip() for start, end in spans]
    logits = classifier.logits([text, *variants], progress)
    log_odds = logits[:, label] - np.logaddexp.reduce(np.delete(logits, label, axis=1), axis=1)
    probabilities = expit(log_odds)
    return Occlusion(spans, len(words), float(probabilities[0]), probabilities[1:], log_odds[0] - log_odds[1:])


def read_span(classifier: TextClassifier, text: str, tokens: int) -> tuple[int, int]:
    """Return where the part of a text starts and ends that the model reads: so many tokens of its start, or end."""
    offsets = classifier.tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    offsets = offsets[-tokens:] if classifier.tokenizer.truncation_side == "left" else offsets[:tokens]
    return (offsets[0][0], offsets[-1][1]) if offsets else (0, 0)
