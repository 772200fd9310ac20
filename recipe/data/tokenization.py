"""Texts into token ids: cut where they are too long, never empty, never with a special token that a user typed."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerBase

from recipe.errors import RecipeError, one_line
from recipe.data.readers import clean_text
from recipe.data.windows import Coverage, Windows

logger = logging.getLogger(__name__)


def load_tokenizer(
    name: str,
    config: GPT2Config,
    max_length: int | None = None,
    truncation_side: str | None = None,
    revision: str = "main",
) -> PreTrainedTokenizerBase:
    """The model's tokenizer: right padding with `<|endoftext|>`, and user text never becomes a special token.

    `model_max_length` is max_length, or what the model has positions for; `truncation_side` the tokenizer's own if None.

    Raises:
        RecipeError: no tokenizer there, one for another vocabulary, or a max_length over the model's positions.
    """
    if max_length is not None and max_length > config.n_positions:
        raise RecipeError(
            f"max_length is {max_length}, but {name} has {config.n_positions} positions: take at most that"
        )
    # As arguments, not as attributes set later: only these are saved with the tokenizer.
    options = {"split_special_tokens": True, "padding_side": "right", "revision": revision}
    if truncation_side is not None:
        options["truncation_side"] = truncation_side
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = one_line(error)
        raise RecipeError(
            f"model {name!r} has no tokenizer that loads ({reason}): it needs a tokenizer.json"
        ) from error
    if not 1 < len(tokenizer) <= config.vocab_size or tokenizer.eos_token_id is None:
        raise RecipeError(
            f"model {name!r} has a vocabulary of {config.vocab_size}, its tokenizer one of {len(tokenizer)}:"
            " put the model's own tokenizer.json beside it"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = max_length or min(tokenizer.model_max_length, config.n_positions)
    return tokenizer


def length_limit(tokenizer: PreTrainedTokenizerBase, windows: Windows | None) -> int | None:
    """How many tokens of a text are kept: as many as the model takes at once, unless windows do away with that."""
    return tokenizer.model_max_length if windows is None else windows.max_length


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], windows: Windows | None = None
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each text, cut to `length_limit` on the truncation side, and how many each one has uncut.

    An empty text is one `<|endoftext|>`, so that every text has a last token. Cutting the windows is left to the caller.
    """
    encoded = tokenizer([clean_text(text) for text in texts], verbose=False)["input_ids"]
    encoded = [ids or [tokenizer.eos_token_id] for ids in encoded]
    limit, side = length_limit(tokenizer, windows), tokenizer.truncation_side
    kept = slice(limit) if limit is None or side == "right" else slice(-limit, None)
    return [ids[kept] for ids in encoded], [len(ids) for ids in encoded]


@dataclass(frozen=True)
class TokenizedSplit:
    """A split as Trainer takes it, and what Trainer's model need not know: whose window each row is.

    `rows` has `input_ids`, `labels` and `length`; a row is a window, or, without windows, a text. `owners`, int [rows], is
    the text of each, ascending from 0.
    """

    rows: datasets.Dataset
    owners: np.ndarray
    coverage: Coverage


def tokenize_split(
    frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, split: str, windows: Windows | None = None
) -> TokenizedSplit:
    """Tokenizes the texts, cuts them into windows if there are any, and says how much of them the model will see."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        input_ids, uncut = encode_texts(tokenizer, batch["text"], windows)
        return {"input_ids": input_ids, "length": [len(ids) for ids in input_ids], "uncut": uncut}

    texts = datasets.Dataset.from_dict({"text": frame["text"].tolist(), "labels": frame["label"].tolist()})
    rows = texts.map(encode, batched=True, remove_columns="text", desc=f"Tokenizing {split}")
    coverage = Coverage.of(rows["uncut"], length_limit(tokenizer, windows))
    rows, owners = rows.remove_columns("uncut"), np.arange(len(rows))
    if windows is not None:
        rows = rows.map(
            cut_rows,
            batched=True,
            with_indices=True,
            fn_kwargs={"windows": windows},
            remove_columns=rows.column_names,
            desc=f"Cutting {split}",
        )
        rows, owners = rows.remove_columns("owner"), np.array(rows["owner"])
        logger.info("%s: %d texts in %d %s", split, len(frame), len(rows), windows)
    log_coverage(split, coverage, tokenizer, windows)
    return TokenizedSplit(rows, owners, coverage)


def cut_rows(batch: dict[str, list], indices: list[int], windows: Windows) -> dict[str, list]:
    """Texts into windows, each with its text's label."""
    cut = [windows.cut(ids) for ids in batch["input_ids"]]
    counts = [len(of_text) for of_text in cut]
    return {
        "input_ids": [window for of_text in cut for window in of_text],
        "labels": np.repeat(batch["labels"], counts),
        "length": [len(window) for of_text in cut for window in of_text],
        "owner": np.repeat(indices, counts),
    }


def log_coverage(
    split: str, coverage: Coverage, tokenizer: PreTrainedTokenizerBase, windows: Windows | None = None
) -> None:
    """One line a split; a warning where something is cut."""
    if coverage.texts_cut:
        limit, side = length_limit(tokenizer, windows), tokenizer.truncation_side
        logger.warning("%s: %s at %d tokens, their %s end", split, coverage, limit, side)
    else:
        logger.info("%s: %s", split, coverage)


def batch_tokens(device: torch.device) -> int:
    """How many tokens, padding included, a batch without gradients holds at most.

    Measured at GPT-2 small's shape: on a CPU, batches whose activations stay in its caches are half again as fast as
    batches of 4,096 tokens; a GPU wants to be filled.
    """
    return 512 if device.type == "cpu" else 16_384


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like lengths, longest first, none over `max_tokens` with padding (save a single text)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
