"""Inference engine: a saved classifier applied to texts, in batches of similar lengths, results in the texts' order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import GPT2Config, PreTrainedTokenizerBase

from recipe.data.texts import join_texts
from recipe.data.tokenization import (
    Coverage,
    PaddingCollator,
    batch_tokens,
    batches_by_length,
    encode_texts,
    load_tokenizer,
    separator_of,
)
from recipe.errors import RecipeError, first_line, parse_probability, shorten
from recipe.model.classifier import GPT2LastTokenClassifier

PART_TEXTS = 2048  # texts tokenized and classified at once


class TextClassifier:
    """A model, its tokenizer, and the device they run on.

    Where several processes run, all of them make the same calls: they divide the texts, and each gets all results.
    `label_names` are the labels by id; `windows` says how long texts are cut, None that they are truncated.
    """

    def __init__(
        self,
        model: GPT2LastTokenClassifier,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | torch.device | None = None,
        window: int | None = None,
    ):
        if tokenizer is None:
            problem = "TextClassifier takes a model and its tokenizer"
            raise RecipeError(f"{problem}; TextClassifier.from_pretrained(FOLDER) loads both")
        self.windows = None
        if getattr(model.config, "window", None) if window is None else window:
            from recipe.data.windows import choose_windows

            self.windows = choose_windows(model.config, window)
        try:
            default = PartialState(cpu=not torch.cuda.is_available()).device
            self.device = torch.device(default if device is None else device)
            if self.device.type == "meta":
                raise RuntimeError("it holds no numbers")
            self.model = model.to(self.device).eval()
        except Exception as error:  # each kind of device that is not there raises its own
            raise RecipeError(f"device {str(device)!r} cannot be used here: {first_line(error)}: take cpu") from error
        self.tokenizer, self.collate = tokenizer, PaddingCollator(tokenizer)
        self.max_length = tokenizer.model_max_length if self.windows is None else self.windows.limit
        self.label_names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        if self.decision_threshold is not None:
            self.set_threshold(self.decision_threshold)  # config.json may have been edited

    @classmethod
    def from_pretrained(
        cls, model_dir: str | Path, device: str | torch.device | None = None, window: int | None = None
    ) -> "TextClassifier":
        """Load a folder that a run saved, or any stock GPT2ForSequenceClassification folder or hub id.

        By default on the process's GPU, else the CPU, and with the tokens of a window as in training (0 for none).
        """
        model, info = GPT2LastTokenClassifier.from_pretrained(model_dir, output_loading_info=True)
        if "score.weight" in info["missing_keys"]:
            raise RecipeError(f"{model_dir}: this GPT-2 has no classification head: train one with scripts/train.py")
        return cls(model, load_tokenizer(str(model_dir), model.config, strip=False), device, window)

    @property
    def decision_threshold(self) -> float | None:
        """The probability from which on label 1 of two is predicted; None takes the likeliest label."""
        return getattr(self.model.config, "decision_threshold", None)

    def set_threshold(self, threshold: float | None) -> None:
        """Set the model's decision threshold (see set_threshold)."""
        set_threshold(self.model.config, threshold)

    def predict(self, texts: Sequence[str], progress: bool | tqdm = False) -> tuple[list[str], np.ndarray]:
        """Return the label of each text, and its probability of every label: float64 [N, num_labels], by label id.

        Where a text is cut into windows, the mean of their probabilities. A model that was trained on several columns
        takes tuples of their texts too.
        """
        if isinstance(texts, str):
            raise RecipeError(f"predict takes a list of texts, and was given the text {texts[:40]!r}: put it in a list")
        if hasattr(texts, "columns"):  # a DataFrame's items are the names of its columns
            raise RecipeError("predict takes a list of texts, and was given a table: give a column, or list(zip(a, b))")
        texts = [self.join_parts(text) for text in texts]
        probabilities = torch.from_numpy(self.logits(texts, progress)).softmax(dim=-1).numpy()
        return [self.label_names[i] for i in decide(probabilities, self.decision_threshold)], probabilities

    def join_parts(self, text: str | Sequence[str]) -> str:
        """Return one text of the parts of a tuple, as in training."""
        if isinstance(text, str):
            return text
        if not isinstance(text, (list, tuple)) or not all(isinstance(part, str) for part in text):
            raise RecipeError(
                f"a text is {shorten(repr(text))}: give a string, or a tuple of strings for a text of several parts"
            )
        if (separator := separator_of(self.tokenizer)) is None:
            raise RecipeError(f"this model reads texts of one part, and was given {shorten(repr(text))}: give strings")
        return join_texts(text, separator)

    def logits(self, texts: Sequence[str], progress: bool | tqdm = False) -> np.ndarray:
        """Return float64 [N, num_labels], in the order of the texts, which may be empty, long, or any Unicode.

        They are the model's own, in float32's precision; only for a text of several windows the logarithm of the
        windows' mean probabilities.
        """
        return text_logits(*self.window_logits(texts, progress)[:2])

    def window_logits(
        self, texts: Sequence[str], progress: bool | tqdm = False
    ) -> tuple[np.ndarray, np.ndarray | None, Coverage]:
        """Return logits, text_index, and how many of the texts' tokens the model sees; refuse logits that are not finite.

        The logits are the model's own, float32 [W, num_labels], a row a window; text_index, int [W], ascending, says
        which text each window is of. Without windows a row is a text, and text_index is None. `progress` shows a bar, or
        is a bar of the caller's, which counts texts.
        """
        state = PartialState()
        with state.split_between_processes(list(texts)) as share:
            bar = progress
            if isinstance(progress, bool):
                shown = progress and state.is_main_process
                bar = tqdm(total=len(share), desc="Classifying", unit=" texts", disable=not shown)
            # In parts, so that the tokens of all texts are never in memory.
            parts = [self._classify(share[i : i + PART_TEXTS], bar) for i in range(0, len(share), PART_TEXTS)]
            if isinstance(progress, bool):
                bar.close()
        parts = [part for of_process in gather_object([parts]) for part in of_process]
        logits = [np.empty((0, len(self.label_names)), dtype=np.float32), *(rows for rows, *_ in parts)]
        coverage = Coverage([length for *_, lengths in parts for length in lengths], self.max_length)
        counts = np.array([count for _, windows, _ in parts for count in windows], dtype=np.int64)
        text_index = None if self.windows is None else np.repeat(np.arange(len(counts)), counts)
        return np.concatenate(logits), text_index, coverage

    @torch.inference_mode()
    def _classify(self, texts: Sequence[str], bar: tqdm) -> tuple[np.ndarray, list[int], list[int]]:
        """Return logits, float32 [W, num_labels]; and of each text its number of windows, and of tokens before any cut."""
        rows, uncut_lengths = self.encode(texts)
        windows = [1] * len(texts)
        if self.windows is not None:
            cut = [self.windows.cut(ids) for ids in rows]
            rows, windows = [ids for of_text in cut for ids in of_text], [len(of_text) for of_text in cut]
        logits, done = np.empty((len(rows), len(self.label_names)), dtype=np.float32), 0
        for indices in batches_by_length([len(ids) for ids in rows], batch_tokens(self.device)):
            batch = self.collate([{"input_ids": rows[i]} for i in indices])
            output = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()})
            logits[indices] = output.logits.float().cpu().numpy()
            shown, done = done * len(texts) // len(rows), done + len(indices)
            bar.update(done * len(texts) // len(rows) - shown)
        if not np.isfinite(logits).all():
            raise RecipeError("the model's logits are not finite: its weights overflow: train it again, or in float32")
        return logits, windows, uncut_lengths

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return the token ids of each text, truncated where texts are (not cut into windows), and its uncut length."""
        return encode_texts(self.tokenizer, texts, self.max_length)


def set_threshold(config: GPT2Config, threshold: float | None) -> None:
    """Set the decision threshold in a model's config, with which it is saved; None takes the likeliest label."""
    if threshold is not None:
        threshold = parse_probability("decision_threshold", threshold)
        check_two_labels(threshold, list(config.id2label.values()))
    config.decision_threshold = threshold


def check_two_labels(threshold: str | float, label_names: Sequence[str]) -> None:
    """Raise RecipeError for a threshold between more than two labels."""
    if len(label_names) != 2:
        problem = f"decision_threshold is {threshold}, but there are {len(label_names)} labels"
        fix = "leave it out; predict.py's --abstain_below leaves unsure texts without a label"
        raise RecipeError(f"{problem}: a threshold decides between two; {fix}")


def text_logits(logits: np.ndarray, text_index: np.ndarray | None) -> np.ndarray:
    """Return window_logits' result as float64 [N, num_labels], one row a text (see average_windows)."""
    if text_index is None:
        return logits.astype(np.float64)
    from recipe.data.windows import average_windows

    return average_windows(logits, text_index)


def decide(probabilities: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Return predicted label ids, int64 [N]: the likeliest, or, of two with a threshold, 1 where its probability reaches it."""
    if threshold is None:
        return probabilities.argmax(axis=-1)
    return (probabilities[:, 1] >= threshold).astype(np.int64)


def is_unsure(probabilities: np.ndarray, abstain_below: float) -> np.ndarray:
    """Return bool [N]: whether the top probability, of float [N, num_labels], is under the bound."""
    return probabilities.max(axis=-1) < abstain_below
