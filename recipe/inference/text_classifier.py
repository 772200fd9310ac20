"""A saved classifier applied to texts: batches of like lengths inside, the caller's order outside."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from scipy.special import softmax
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from recipe.data.tokenization import batch_tokens, batches_by_length, encode_texts, length_limit, load_tokenizer
from recipe.data.windows import Coverage, average_windows, choose_windows
from recipe.distributed import gather_in_order
from recipe.errors import RecipeError, one_line
from recipe.evaluation.thresholds import check_two_labels, decide, parse_threshold
from recipe.model.classifier import GPT2LastTokenClassifier

ENCODE_TEXTS = 2048  # texts tokenized at once


class TextClassifier:
    """A model, its tokenizer and the device it runs on.

    `windows` are the model's own, unless `window` is given (0: none); longer texts are truncated where there are none.
    `decision_threshold`, read from the model's config, is None where the likeliest label is given.
    """

    def __init__(
        self,
        model: GPT2LastTokenClassifier,
        tokenizer: PreTrainedTokenizerBase,
        device: str | torch.device | None = None,
        window: int | None = None,
    ):
        self.windows = choose_windows(model.config, window)
        try:
            self.device = torch.device(device or PartialState(cpu=not torch.cuda.is_available()).device)
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise RecipeError(f"device {str(device)!r} cannot be used here: {one_line(error)}: take cpu") from error
        self.tokenizer = tokenizer
        self.label_names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.set_threshold(getattr(model.config, "decision_threshold", None))

    @classmethod
    def from_pretrained(
        cls, model_dir: str | Path, device: str | torch.device | None = None, window: int | None = None
    ) -> "TextClassifier":
        """Loads a folder that a run saved, or any stock GPT2ForSequenceClassification folder or hub id.

        Raises:
            RecipeError (a ValueError): no such folder, not a GPT-2, no trained head in it, or a window that does not fit.
        """
        model, info = GPT2LastTokenClassifier.from_pretrained(model_dir, output_loading_info=True)
        if "score.weight" in info["missing_keys"]:
            raise RecipeError(f"{model_dir}: this GPT-2 has no classification head: train one with scripts/train.py")
        return cls(model, load_tokenizer(str(model_dir), model.config), device, window)

    def set_threshold(self, threshold: float | None) -> None:
        """Sets the probability from which on label 1 of two is given; None gives the likeliest label.

        Raises:
            RecipeError: no number between 0 and 1, or more than two labels.
        """
        self.decision_threshold = parse_threshold(threshold)
        check_two_labels(self.decision_threshold, self.label_names)

    def predict(self, texts: Sequence[str], progress: bool = False) -> tuple[list[str], np.ndarray]:
        """The label of each text, and its probability of every label: float64 [N, num_labels], in `label_names`' order.

        Where a text is cut into windows, the mean of their probabilities.
        """
        probabilities = softmax(average_windows(*self.window_logits_in_shares(texts, progress)), axis=-1)
        return [self.label_names[i] for i in decide(probabilities, self.decision_threshold)], probabilities

    def logits(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """float64 [N, num_labels], in the order of the texts, which may be empty, long, or any Unicode.

        They are the model's own, in float32's precision; only for a text of several windows the logarithm of the windows'
        mean probabilities.
        """
        return average_windows(*self.window_logits(texts, progress))

    @torch.inference_mode()
    def window_logits(self, texts: Sequence[str], progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The model's logits, float32 [W, num_labels], a row a window, and the text that each is of, int [W], ascending.

        Without windows, a text is one.
        """
        by_text = [[ids] if self.windows is None else self.windows.cut(ids) for ids in self.encode(texts)]
        input_ids = [window for of_text in by_text for window in of_text]
        owners = np.repeat(np.arange(len(by_text)), [len(of_text) for of_text in by_text])
        logits = np.empty((len(input_ids), len(self.label_names)), dtype=np.float32)
        unit = " texts" if self.windows is None else " windows"
        with tqdm(total=len(input_ids), desc="Classifying", unit=unit, disable=not progress) as bar:
            for indices in batches_by_length([len(ids) for ids in input_ids], batch_tokens(self.device)):
                batch = self.tokenizer.pad({"input_ids": [input_ids[i] for i in indices]}, return_tensors="pt")
                output = self.model(**batch.to(self.device))
                logits[indices] = output.logits.float().cpu().numpy()
                bar.update(len(indices))
        return logits, owners

    def window_logits_in_shares(self, texts: Sequence[str], progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """As `window_logits`, but the processes of a run, or of `accelerate launch`, divide the texts; each gets all rows."""
        state = PartialState()
        with state.split_between_processes(list(texts)) as share:
            logits, owners = self.window_logits(share, progress and state.is_main_process)
        counts = np.concatenate(gather_in_order([np.bincount(owners, minlength=len(share))]))
        return np.concatenate(gather_in_order([logits])), np.repeat(np.arange(len(texts)), counts)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut where texts are cut, but not into windows yet."""
        return [ids for input_ids, _ in self.encoded_batches(texts) for ids in input_ids]

    def coverage(self, texts: Sequence[str]) -> Coverage:
        """How many tokens the texts have, and how many of them the model sees."""
        lengths = [length for _, uncut in self.encoded_batches(texts) for length in uncut]
        return Coverage.of(lengths, length_limit(self.tokenizer, self.windows))

    def encoded_batches(self, texts: Sequence[str]) -> Iterator[tuple[list[list[int]], list[int]]]:
        for start in range(0, len(texts), ENCODE_TEXTS):
            yield encode_texts(self.tokenizer, list(texts[start : start + ENCODE_TEXTS]), self.windows)
