"""Texts into token ids: cut where they are too long, never empty, never with a special token that a user typed."""

import logging
from collections.abc import Iterator, Sequence

import datasets
import pandas as pd
import torch
from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerBase

from recipe.errors import RecipeError, one_line
from recipe.reading import clean_text

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


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
    """Token ids of each text, cut to `model_max_length` on the truncation side, and whether each one was cut.

    An empty text is one `<|endoftext|>`, so that every text has a last token.
    """
    encoded = tokenizer([clean_text(text) for text in texts], verbose=False)["input_ids"]
    limit = tokenizer.model_max_length
    cut = slice(limit) if tokenizer.truncation_side == "right" else slice(-limit, None)
    return [ids[cut] or [tokenizer.eos_token_id] for ids in encoded], [len(ids) > limit for ids in encoded]


def tokenize_split(frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, split: str) -> datasets.Dataset:
    """A split as Trainer takes it: `input_ids`, `labels` and `length`; says how many texts were cut."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        input_ids, truncated = encode_texts(tokenizer, batch["text"])
        return {"input_ids": input_ids, "length": [len(ids) for ids in input_ids], "truncated": truncated}

    texts = datasets.Dataset.from_dict({"text": frame["text"].tolist(), "labels": frame["label"].tolist()})
    tokenized = texts.map(encode, batched=True, remove_columns="text", desc=f"Tokenizing {split}")
    truncated = sum(tokenized["truncated"])
    if truncated:
        limit, side = tokenizer.model_max_length, tokenizer.truncation_side
        logger.warning(
            "%s: %d of %d texts are longer than %d tokens; their %s end is cut",
            split,
            truncated,
            len(frame),
            limit,
            side,
        )
    return tokenized.remove_columns("truncated")


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
