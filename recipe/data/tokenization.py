"""Tokenization: texts into token ids, stripped, cut where too long, never empty, never with a special token of a user's."""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import normalizers, processors
from transformers import AutoTokenizer, DataCollatorWithPadding, GPT2Config, PreTrainedTokenizerBase

from recipe.data.texts import clean_text
from recipe.errors import RecipeError, as_recipe_error

if TYPE_CHECKING:
    import datasets  # not imported here, so that classifying one text does not wait for it

logger = logging.getLogger(__name__)

NO_LIMIT = sys.maxsize  # as a max_length: no text is cut


def load_tokenizer(
    name: str,
    config: GPT2Config,
    max_length: int | None = None,
    truncation_side: str | None = None,
    revision: str = "main",
    text_pair_separator: str | None = None,
    strip: bool = True,
) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer: right padding with `<|endoftext|>`, and user text never becomes a special token.

    Its `model_max_length` is max_length, or the model's number of positions; `truncation_side` its own if None.

    Args:
        text_pair_separator: of texts of several parts; by default the one that the tokenizer was saved with, if any. Given
            two texts, the tokenizer then puts it between them.
        strip: take white space off both ends of a text, whose last token the head reads. The tokenizer is saved so. False
            leaves the tokenizer of a saved model as it is.
    """
    if max_length is not None and max_length > config.n_positions:
        has = f"{name} has {config.n_positions} positions"
        raise RecipeError(f"max_length is {max_length}, but {has}: take at most that")
    # As arguments, not as attributes set later: only these are saved with the tokenizer.
    options = {"split_special_tokens": True, "padding_side": "right", "revision": revision}
    options |= {"truncation_side": truncation_side} if truncation_side else {}
    options |= {"text_pair_separator": text_pair_separator} if text_pair_separator is not None else {}
    fix = "it needs the tokenizer.json and tokenizer_config.json that were saved with it"
    with as_recipe_error(Exception, f"model {name!r} has no tokenizer that loads", fix):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if not (isinstance(tokenizer.model_max_length, int) and tokenizer.model_max_length >= 1):
            raise ValueError(f"model_max_length is {tokenizer.model_max_length!r}")
    largest = max(tokenizer.get_vocab().values(), default=0)
    if len(tokenizer) < 2 or largest >= config.vocab_size or tokenizer.eos_token_id is None:
        sizes = f"a vocabulary of {config.vocab_size}, its tokenizer one of {len(tokenizer)}, up to the id {largest}"
        raise RecipeError(f"model {name!r} has {sizes}: put the model's own tokenizer.json beside it")
    if len(tokenizer) < 0.9 * config.vocab_size:  # some models pad their vocabulary by a few hundred
        sizes = f"its tokenizer knows {len(tokenizer)} tokens, the model {config.vocab_size}"
        logger.warning("%s: %s: is it its own?", name, sizes)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer("a")["input_ids"][-1:] == [tokenizer.pad_token_id]:
        fix = "give it another pad_token, or take that end off its post_processor"
        problem = f"ends each text with {tokenizer.pad_token!r}, which a stock GPT2ForSequenceClassification takes for padding"
        raise RecipeError(f"model {name!r}: its tokenizer {problem}: {fix}")
    tokenizer.model_max_length = max_length or min(tokenizer.model_max_length, config.n_positions)
    config.pad_token_id = tokenizer.pad_token_id  # a stock model finds the end of a text by it
    if strip and text_pair_separator is None:  # texts of one part, whatever the model was trained on before
        tokenizer.init_kwargs.pop("text_pair_separator", None)
    if text_pair_separator:
        separate_pairs(tokenizer, text_pair_separator)
    if strip and tokenizer(" a ")["input_ids"] != tokenizer("a")["input_ids"]:
        backend = tokenizer.backend_tokenizer
        others = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*others, normalizers.Strip()])
    return tokenizer


def separate_pairs(tokenizer: PreTrainedTokenizerBase, separator: str) -> None:
    """Have the tokenizer put the separator between two texts, as `pipeline` gives them ({"text": ..., "text_pair": ...})."""
    backend = tokenizer.backend_tokenizer
    normalizer, backend.normalizer = backend.normalizer, None  # which might strip the separator
    ids = tokenizer(separator)["input_ids"]
    backend.normalizer = normalizer
    token = {"id": "SEPARATOR", "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
    template = {"single": "$A", "pair": "$A SEPARATOR $B", "special_tokens": [token]}
    backend.post_processor = processors.TemplateProcessing(**template)


def separator_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return what stands between the parts of a text, None where the model reads texts of one part."""
    return tokenizer.init_kwargs.get("text_pair_separator")


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None
) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of each text, cut on the tokenizer's truncation side, and how many each one has uncut.

    An empty text is one `<|endoftext|>`, so that every text has a last token. By default texts are cut to as many
    tokens as the model takes at once (`model_max_length`). Of a text of two parts the longer one is cut first.
    """
    parts = [split_parts(tokenizer, clean_text(text)) for text in texts]
    pairs = {i: of_text for i, of_text in enumerate(parts) if len(of_text) > 1}
    singles = ["" if i in pairs else of_text[0] for i, of_text in enumerate(parts)]
    encoded = tokenizer(singles, verbose=False)["input_ids"] if singles else []
    for i, ids in zip(pairs, encode_pairs(tokenizer, pairs.values()), strict=True):
        encoded[i] = ids
    encoded = [ids or [tokenizer.eos_token_id] for ids in encoded]
    limit = min(max_length or tokenizer.model_max_length, NO_LIMIT)
    kept = slice(-limit, None) if tokenizer.truncation_side == "left" else slice(limit)
    cut, lengths = [ids[kept] for ids in encoded], [len(ids) for ids in encoded]
    long = [i for i in pairs if lengths[i] > limit]
    for i, ids in zip(long, encode_pairs(tokenizer, [pairs[i] for i in long], limit), strict=True):
        cut[i] = ids
    return cut, lengths


def split_parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the one or two parts of a text; one whose second part is empty has one, as transformers takes it too."""
    first, _, second = text.partition(separator) if (separator := separator_of(tokenizer)) else (text, "", "")
    return [first, second] if second else [first]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Sequence[str]], max_length: int | None = None
) -> list[list[int]]:
    """Return the token ids of pairs of texts; of those over max_length the longer text is cut, until both are as long."""
    if not (columns := [[*column] for column in zip(*pairs, strict=True)]):
        return []
    options = {"truncation": "longest_first", "max_length": max_length} if max_length else {}
    ids = tokenizer(*columns, verbose=False, **options)["input_ids"]
    tokenizer.backend_tokenizer.no_truncation()  # which the tokenizer would remember, and be saved with
    return ids


def tokenize(
    splits: "Mapping[str, datasets.Dataset]", tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> "datasets.DatasetDict":
    """Tokenize every split, of `text` (string) and `label` (ClassLabel, or int from 0 up); log how much the model will see.

    Returns:
        For each split, one row a text: `input_ids` and `attention_mask` (lists of int), `labels` (int), `length` and
        `uncut_length` (int, tokens of the text). Its attribute `coverage` holds the Coverage of each split.
    """
    import datasets
    import xxhash

    def encode(batch: dict[str, list]) -> dict[str, list]:
        input_ids, uncut = encode_texts(tokenizer, batch["text"], max_length)
        masks, lengths = [[1] * len(ids) for ids in input_ids], [len(ids) for ids in input_ids]
        columns = {"input_ids": input_ids, "attention_mask": masks, "labels": batch["label"]}
        return {**columns, "length": lengths, "uncut_length": uncut}

    tokenized, limit, side = datasets.DatasetDict(), max_length or tokenizer.model_max_length, tokenizer.truncation_side
    tokenized.coverage = {}
    rules = (tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id, side, min(limit, NO_LIMIT))
    for split, dataset in splits.items():
        check_columns(split, dataset)
        # All that the tokens depend on: `datasets` would pickle the tokenizer, a second a run.
        depend_on = repr((dataset._fingerprint, *rules, tokenizer.split_special_tokens)).encode()
        options = {"remove_columns": dataset.column_names, "new_fingerprint": xxhash.xxh3_64_hexdigest(depend_on)}
        tokenized[split] = dataset.map(encode, batched=True, desc=f"Tokenizing {split}", **options)
        coverage = tokenized.coverage[split] = Coverage(tokenized[split]["uncut_length"][:], limit)
        where = f" at {limit} tokens, their {side} end" if coverage.texts_cut else ""
        logger.log(logging.WARNING if where else logging.INFO, "%s: %s%s", split, coverage, where)
    return tokenized


def check_columns(split: str, dataset: "datasets.Dataset") -> None:
    """Refuse a split without the columns `text` and `label`, with rows that lack one of them, or with pairs of texts."""
    if "text_pair" in dataset.column_names:
        fix = "join the column text_pair onto text first, as load_splits does with a line break between"
        raise RecipeError(f"{split}: {fix}")
    ids = "give ids from 0 up, or names by class_encode_column('label')"
    for column, kind, fix in (("text", str, "give strings"), ("label", int, ids)):
        if column not in dataset.column_names:
            shown = ", ".join(dataset.column_names)
            raise RecipeError(f"{split}: no column {column!r} among {shown}: rename one with rename_column")
        batches = dataset.select_columns([column]).iter(batch_size=10_000)  # not all texts at once
        for row, value in enumerate(value for batch in batches for value in batch[column]):
            if not isinstance(value, kind) or (kind is int and value < 0):
                found = f"row {row} has the {column} {str(value)[:40]!r}"
                raise RecipeError(f"{split}: {found}: {fix}, or filter the row out")


class PaddingCollator:
    """Batches padded on the right: as DataCollatorWithPadding gives them, in a tenth of its time.

    That matters where a step on cached rows takes a few milliseconds. Rows with other columns go the usual way.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.usual = tokenizer, DataCollatorWithPadding(tokenizer)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids and attention_mask, int64 [B, T], and labels, int64 [B], if the rows have any."""
        if rows[0].keys() - {"input_ids", "attention_mask", "labels"}:
            return self.usual(rows)
        ids = [row["input_ids"] for row in rows]
        masks = [row.get("attention_mask", [1] * len(row["input_ids"])) for row in rows]
        width = max(map(len, ids))

        def pad(lists: list[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([[*values, *[value] * (width - len(values))] for values in lists])

        batch = {"input_ids": pad(ids, self.tokenizer.pad_token_id), "attention_mask": pad(masks, 0)}
        return batch | ({"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {})


class Coverage:
    """How much of the texts the model sees; a token in two windows counts once."""

    def __init__(self, uncut_lengths: Sequence[int], limit: int | None):
        """Count texts with so many tokens each, cut to `limit` (None: not cut)."""
        self.lengths, self.limit = np.asarray(uncut_lengths, dtype=np.int64), min(limit or NO_LIMIT, NO_LIMIT)
        self.tokens, self.tokens_seen = int(self.lengths.sum()), int(np.minimum(self.lengths, self.limit).sum())
        self.texts_cut = int((self.lengths > self.limit).sum())

    def figures(self) -> dict[str, int]:
        return {"tokens": self.tokens, "tokens_seen": self.tokens_seen}

    def __str__(self) -> str:
        share = f"{100 * self.tokens_seen / max(self.tokens, 1):.1f} %"
        read = f"{self.tokens_seen:,} of {self.tokens:,} tokens read ({share})"
        return f"{read}, {self.texts_cut:,} of {len(self.lengths):,} texts cut"


def batch_tokens(device: torch.device) -> int:
    """Return how many tokens, padding included, a batch without gradients holds at most.

    Measured at GPT-2 small's shape: on a CPU, batches whose activations stay in its caches are half again as fast as
    batches of 4,096 tokens; a GPU wants to be filled.
    """
    return 512 if device.type == "cpu" else 16_384


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield indices in batches of similar lengths, longest first, none over `max_tokens` with padding (but a single text)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
