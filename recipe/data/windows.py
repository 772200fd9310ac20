"""Windows (optional): long texts as overlapping windows, whose probabilities are averaged to one answer a text."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from transformers import GPT2Config, PreTrainedTokenizerBase

from recipe.data.tokenization import NO_LIMIT, tokenize
from recipe.errors import RecipeError

if TYPE_CHECKING:
    import datasets
    from transformers import EvalPrediction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Windows:
    """`size` tokens a window, of which `overlap` also end the window before.

    `max_length` is how many tokens of a text are cut into windows at all, None for all of them.
    """

    size: int
    overlap: int
    max_length: int | None = None

    @property
    def limit(self) -> int:
        """The max_length that texts are tokenized with, before they are cut into windows."""
        return self.max_length or NO_LIMIT

    def cut(self, input_ids: Sequence[int]) -> list[Sequence[int]]:
        """Return the windows of a text; the last one ends where the text ends, and may be shorter.

        Windows(4, 1).cut(range(9)) gives tokens 0-3, 3-6 and 6-8.

        Not the tokenizer's `return_overflowing_tokens`, which does not cut after `max_length`, begins at the end where
        `truncation_side` is left, and stays in the tokenizer.json that is saved.
        """
        starts = range(0, max(1, len(input_ids) - self.overlap), self.size - self.overlap)
        return [input_ids[start : start + self.size] for start in starts]

    def __str__(self) -> str:
        of = f" of each text's first {self.max_length}" if self.max_length else ""
        return f"windows of {self.size} tokens{of}, {self.overlap} of them shared with the window before"


def choose_windows(
    config: GPT2Config, window: int | None = None, window_overlap: int | None = None, max_length: int | None = None
) -> Windows | None:
    """Return the windows that are asked for, else those that a saved model remembers, else None: texts are truncated.

    A window of 0 turns saved ones off. By default a quarter overlaps: a phrase of up to that length then is complete in
    one window, and the model reads a third more tokens than the text has.
    """
    size = getattr(config, "window", None) if window is None else window
    if not size and window_overlap is not None:
        raise RecipeError(f"window_overlap is {window_overlap}, but texts are not cut into windows: give --window too")
    if not size:
        return None
    if window_overlap is None and window is None:
        window_overlap = getattr(config, "window_overlap", None)
    overlap = size // 4 if window_overlap is None else window_overlap
    if not 1 <= size <= config.n_positions:
        fix = f"take 1 to {config.n_positions} tokens, or 0 for no windows"
        raise RecipeError(f"window is {size}, but the model has {config.n_positions} positions: {fix}")
    if not 0 <= overlap < size:
        raise RecipeError(f"window_overlap is {overlap}, the window {size}: take an overlap from 0 to {size - 1}")
    return Windows(size, overlap, max_length or getattr(config, "window_max_length", None))


def remember_windows(config: GPT2Config, windows: Windows | None) -> None:
    """Note the windows (or that there are none) in the config, where `choose_windows` finds them in the saved model."""
    config.window = windows and windows.size
    config.window_overlap = windows and windows.overlap
    config.window_max_length = windows and windows.max_length


def tokenize_texts(
    splits: "Mapping[str, datasets.Dataset]", tokenizer: PreTrainedTokenizerBase, windows: Windows | None
) -> "datasets.DatasetDict":
    """Tokenize every split as tokenization.tokenize does; with windows, one row is a window of a text.

    Each window has its text's `labels` and `uncut_length`, and `text_index` (int, ascending from 0), which tells the text.
    """
    if windows is None:
        return tokenize(splits, tokenizer)
    tokenized = tokenize(splits, tokenizer, windows.limit)
    for split, texts in tokenized.items():
        options = {"remove_columns": texts.column_names, "fn_kwargs": {"windows": windows}, "desc": f"Cutting {split}"}
        tokenized[split] = texts.map(cut_rows, batched=True, with_indices=True, **options)
        logger.info("%s: %d texts in %d %s", split, len(texts), len(tokenized[split]), windows)
    return tokenized


def cut_rows(batch: dict[str, list], indices: list[int], windows: Windows) -> dict[str, Sequence]:
    """Cut tokenized texts into windows, each with its text's label, length and index."""
    cut = [windows.cut(ids) for ids in batch["input_ids"]]
    input_ids = [window for of_text in cut for window in of_text]
    masks, lengths = [[1] * len(window) for window in input_ids], [len(window) for window in input_ids]
    of_texts = {"labels": batch["labels"], "uncut_length": batch["uncut_length"], "text_index": indices}
    repeated = {name: np.repeat(values, list(map(len, cut))) for name, values in of_texts.items()}
    return {"input_ids": input_ids, "attention_mask": masks, "length": lengths, **repeated}


def average_windows(logits: np.ndarray, text_index: np.ndarray) -> np.ndarray:
    """Return float64 [N, num_labels], a row a text: the logarithm of its windows' mean probabilities, whose softmax is
    that mean; of a text with one window, the model's own logits.

    Args:
        logits: float [W, num_labels], a row a window.
        text_index: int [W], ascending: the text that each window is of.
    """
    if len(logits) != len(text_index):
        raise ValueError(f"{len(logits)} rows of logits for {len(text_index)} windows")
    logits, starts = logits.astype(np.float64), first_windows(text_index)
    if len(starts) == len(text_index):
        return logits
    counts = np.diff(starts, append=len(text_index))[:, None]
    # In logarithms, where a probability that float64 would round to 0 still counts.
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    means = np.logaddexp.reduceat(log_probabilities, starts) - np.log(counts)
    return np.where(counts == 1, logits[starts], means)


def first_windows(text_index: np.ndarray) -> np.ndarray:
    """Return the row of each text's first window: int [N]."""
    return np.flatnonzero(np.diff(text_index, prepend=-1))


def by_text(
    compute_metrics: Callable[["EvalPrediction"], dict[str, float]], rows: "datasets.Dataset"
) -> Callable[["EvalPrediction"], dict[str, float]]:
    """Return a compute_metrics of texts: where the rows are windows, their predictions are averaged."""
    if "text_index" not in rows.column_names:
        return compute_metrics
    text_index = np.asarray(rows["text_index"][:])

    def compute(prediction: "EvalPrediction") -> dict[str, float]:
        logits = average_windows(prediction.predictions, text_index)
        return compute_metrics(type(prediction)(logits, prediction.label_ids[first_windows(text_index)]))

    return compute
