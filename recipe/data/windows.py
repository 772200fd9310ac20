"""Long texts as overlapping windows: how they are cut, remembered with a model, and made one answer a text again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from transformers import EvalPrediction, GPT2Config

from recipe.errors import RecipeError


@dataclass(frozen=True)
class Windows:
    """`size` tokens a window, of which `overlap` also end the window before.

    `max_length` is how many tokens of a text are cut into windows at all, None for all of them.
    """

    size: int
    overlap: int
    max_length: int | None = None

    def cut(self, input_ids: Sequence[int]) -> list[Sequence[int]]:
        """Windows that hold every token and of which the last, the only one that may be shorter, ends where the text ends.

        The tokenizer's `return_overflowing_tokens` cuts the same windows, but not after a cut to `max_length`, starting
        from the end where `truncation_side` is left, and it leaves its limit behind in the tokenizer.json that is saved.
        """
        starts = range(0, max(1, len(input_ids) - self.overlap), self.size - self.overlap)
        return [input_ids[start : start + self.size] for start in starts]

    def __str__(self) -> str:
        return f"windows of {self.size} tokens, {self.overlap} of them shared with the window before"


def choose_windows(
    config: GPT2Config, window: int | None = None, window_overlap: int | None = None, max_length: int | None = None
) -> Windows | None:
    """The windows that are asked for, else those that a saved model remembers, else None: texts are truncated.

    Args:
        config: a model's; `window`, `window_overlap` and `window_max_length` are what a run has saved there.
        window: tokens of a window; 0 turns saved ones off.
        window_overlap: by default a quarter of a window that is asked for. A phrase of up to a quarter of a window then
            stands whole in one of them, and the model reads a third more tokens than the text has.
        max_length: tokens of a text that are cut into windows.

    Raises:
        RecipeError (a ValueError): numbers that do not fit together, or the model.
    """
    size = getattr(config, "window", None) if window is None else window
    if not size:
        if window_overlap is not None:
            raise RecipeError(
                f"window_overlap is {window_overlap}, but texts are not cut into windows: give --window too"
            )
        return None
    if window_overlap is None and window is None:
        window_overlap = getattr(config, "window_overlap", None)
    overlap = size // 4 if window_overlap is None else window_overlap
    if not 1 <= size <= config.n_positions:
        raise RecipeError(
            f"window is {size}, but the model has {config.n_positions} positions:"
            f" take 1 to {config.n_positions} tokens, or 0 for no windows"
        )
    if not 0 <= overlap < size:
        raise RecipeError(f"window_overlap is {overlap}, the window {size}: take an overlap from 0 to {size - 1}")
    return Windows(size, overlap, max_length or getattr(config, "window_max_length", None))


def remember_windows(config: GPT2Config, windows: Windows | None) -> None:
    """Puts the windows (or that there are none) where `choose_windows` finds them once the model is saved and loaded."""
    config.window = windows and windows.size
    config.window_overlap = windows and windows.overlap
    config.window_max_length = windows and windows.max_length


def average_windows(logits: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
    """One row a text: the logarithm of its windows' mean probabilities, which softmax turns back into that mean.

    A text of one window keeps the model's own logits.

    Args:
        logits: float [W, num_labels], a row a window.
        owners: int [W], ascending: the text that each window is of; None: each row is a text.

    Returns:
        float64 [N, num_labels], in the order of the texts.
    """
    if owners is None:
        return logits.astype(np.float64)
    if len(logits) != len(owners):
        raise ValueError(f"{len(logits)} rows of logits for {len(owners)} windows")
    logits, starts = logits.astype(np.float64), first_windows(owners)
    if len(starts) == len(owners):
        return logits
    counts = np.diff(starts, append=len(owners))[:, None]
    # In logarithms, where a probability that float64 would round to 0 still counts.
    means = np.logaddexp.reduceat(log_softmax(logits, axis=-1), starts) - np.log(counts)
    return np.where(counts == 1, logits[starts], means)


def first_windows(owners: np.ndarray) -> np.ndarray:
    """The row of each text's first window."""
    return np.flatnonzero(np.diff(owners, prepend=-1))


def by_text(prediction: EvalPrediction, owners: np.ndarray) -> EvalPrediction:
    """What Trainer predicted of windows, as predictions of texts; gathered from all processes, so in the rows' order."""
    logits = average_windows(prediction.predictions, owners)
    return EvalPrediction(predictions=logits, label_ids=prediction.label_ids[first_windows(owners)])


@dataclass(frozen=True)
class Coverage:
    """How much of the texts the model sees; a token in two windows counts once."""

    tokens: int
    tokens_seen: int
    texts: int
    texts_cut: int

    @classmethod
    def of(cls, lengths: Sequence[int], limit: int | None) -> "Coverage":
        """Of texts with so many tokens each, cut to `limit` (None: not cut)."""
        whole = np.asarray(lengths, dtype=np.int64)
        seen = whole if limit is None else np.minimum(whole, limit)
        return cls(int(whole.sum()), int(seen.sum()), len(whole), int((seen < whole).sum()))

    def figures(self) -> dict[str, int]:
        return {"tokens": self.tokens, "tokens_seen": self.tokens_seen}

    def __str__(self) -> str:
        share = self.tokens_seen / max(self.tokens, 1)
        return (
            f"{self.tokens_seen:,} of {self.tokens:,} tokens seen ({share:.1%}), {self.texts_cut:,} of {self.texts:,} texts cut"
        ).replace("%", " %")
