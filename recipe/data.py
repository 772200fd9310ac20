"""Texts and labels in, tokenized splits out: labels by name, splits without leaks, nothing guessed twice."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import pandas as pd
from sklearn.model_selection import train_test_split
from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerBase

from recipe.arguments import DataArguments
from recipe.errors import RecipeError, one_line
from recipe.reading import LABEL_COLUMNS, TEXT_COLUMNS, clean_text, find_column, read_file

logger = logging.getLogger(__name__)

HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)


@dataclass
class TextSplits:
    """Frames with `text`, `label` (the label's id) and `row` (in its source), and the names of the labels by id."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    label_names: list[str]

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.label_names)}


def load_splits(args: DataArguments, label_names: list[str] | None = None) -> TextSplits:
    """Reads, checks and splits the data.

    Args:
        args: where the data is and how to split it.
        label_names: the labels by id of a head that is kept; used where it names just the data's labels.

    Raises:
        RecipeError: whatever is wrong with the files, with file and row.
    """
    frames, declared = load_hub_dataset(args) if args.train_file is None else load_files(args)
    names = order_labels(frames["train"]["label"], declared, label_names)
    for split in ("validation", "test"):
        if split in frames:
            check_known_labels(frames[split], names)
    if len(names) < 2:
        raise RecipeError(
            f"{source_of(frames['train'])}: all rows have the label {names[0]!r}: a classifier needs two labels"
        )
    if args.remove_duplicates:
        frames = remove_duplicates(frames)
    if args.undersample == "all":
        frames["train"] = undersample(frames["train"], names, args.split_seed)
    frames = make_missing_splits(frames, args)
    if args.undersample == "train":
        frames["train"] = undersample(frames["train"], names, args.split_seed)
    limits = (args.max_train_samples, args.max_eval_samples, args.max_predict_samples)
    for split, limit in zip(SPLITS, limits, strict=True):
        if limit is not None and limit < len(frames[split]):
            frames[split] = frames[split].sample(limit, random_state=args.split_seed)
    ids = {name: i for i, name in enumerate(names)}
    frames = {split: frame.assign(label=frame["label"].map(ids).astype("int64")) for split, frame in frames.items()}
    if frames["train"]["label"].nunique() < 2:
        raise RecipeError("the training split holds a single label: give more rows, or a larger max_train_samples")
    return TextSplits(**frames, label_names=names)


def load_files(args: DataArguments) -> tuple[dict[str, pd.DataFrame], None]:
    paths = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    frames = {}
    for split, path in paths.items():
        if path is not None:
            frame = read_file(path, args.text_column, args.label_column, args.file_format)
            frames[split] = check_rows(frame, source=path)
    return frames, None


def load_hub_dataset(args: DataArguments) -> tuple[dict[str, pd.DataFrame], list[str] | None]:
    """Also the names of the labels, where the dataset declares them (`ClassLabel`)."""
    name = args.dataset_name
    try:
        dataset = datasets.load_dataset(name, args.dataset_config_name)
    except Exception as error:  # the hub, the network, the builder and the file formats each raise their own
        raise RecipeError(
            f"dataset {name!r} cannot be loaded: {one_line(error)}: check the name, or give --train_file"
        ) from error
    frames, declared = {}, None
    for split, aliases in HUB_SPLITS.items():
        alias = next((alias for alias in aliases if alias in dataset), None)
        if alias is None:
            continue
        source, part = f"{name} ({alias})", dataset[alias]
        text_column = find_column(part.column_names, args.text_column, TEXT_COLUMNS, "text_column", source)
        label_column = find_column(part.column_names, args.label_column, LABEL_COLUMNS, "label_column", source)
        labels, feature = part[label_column][:], part.features[label_column]
        if isinstance(feature, datasets.ClassLabel):
            declared = declared or feature.names
            labels = [None if i is None or i < 0 else feature.int2str(i) for i in labels]
        if split == "test" and not any(label is not None for label in labels):
            logger.warning(
                "%s has no labels (a benchmark keeps them): a test split is made of training rows instead", source
            )
            continue
        cells = {
            "text": [clean_text(text) for text in part[text_column]],
            "label": labels,
            "row": range(1, len(part) + 1),
        }
        frames[split] = check_rows(pd.DataFrame(cells, dtype=object), source)
    if "train" not in frames:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    return frames, declared


def check_rows(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Refuses rows that cannot be trained on, and turns labels into strings (1 and "1" are one label)."""
    for column in ("text", "label"):
        refuse_rows(frame, frame[column].isna(), source, f"no {column}", f"fill in the {column} or drop the row")
    listed = frame["label"].map(lambda label: isinstance(label, (list, dict)))
    refuse_rows(
        frame, listed, source, "several labels (multi-label)", "this recipe gives each text one label of several"
    )
    fractional = frame["label"].map(lambda label: isinstance(label, float) and not label.is_integer())
    refuse_rows(frame, fractional, source, "a fractional label (regression)", "labels are names or whole numbers")
    strange = frame["text"].map(lambda text: not isinstance(text, str))
    refuse_rows(frame, strange, source, "a text that is no string", "put the text in quotes")
    checked = frame.assign(label=frame["label"].map(label_name))
    blank = checked["label"].str.strip() == ""
    refuse_rows(frame, blank, source, "no label", "fill in the label or drop the row")
    checked.attrs["source"] = source
    return checked


def refuse_rows(frame: pd.DataFrame, bad: pd.Series, source: str, what: str, mend: str) -> None:
    rows = frame["row"][bad.astype(bool)].tolist()
    if rows:
        shown = ", ".join(str(row) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
        where = f"row {shown} has" if len(rows) == 1 else f"rows {shown} ({len(rows)} in all) have"
        raise RecipeError(f"{source}: {where} {what}: {mend}")


def label_name(label: Any) -> str:
    """One spelling a label: 1, 1.0 and "1" are "1"; JSON's true is "true"."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(int(label)) if isinstance(label, float) else str(label)


def source_of(frame: pd.DataFrame) -> str:
    return frame.attrs.get("source", "the data")


def order_labels(labels: pd.Series, declared: list[str] | None, of_head: list[str] | None) -> list[str]:
    """Labels by id, in an order that the files' own order does not change: numbers by value, names by alphabet."""
    found = set(labels)
    if of_head is not None and set(of_head) == found:
        return list(of_head)
    if declared is not None:
        return list(declared)
    numeric = all(name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=(lambda name: (int(name), name)) if numeric else None)


def check_known_labels(frame: pd.DataFrame, names: list[str]) -> None:
    unseen = ~frame["label"].isin(names)
    if unseen.any():
        label = frame["label"][unseen].iloc[0]
        known = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
        what = f"a label that the training data lacks, such as {label!r}"
        refuse_rows(
            frame,
            unseen,
            source_of(frame),
            what,
            f"known are {known}; correct it, or add such rows to the training data",
        )


def remove_duplicates(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Keeps exact copies of a text from standing in two splits: they would leak from training into the test.

    A given test file stays whole; validation gives up what the test holds, training what either holds. Within the
    training rows the first copy stays, so that splits made from them share nothing.
    """
    kept, seen = dict(frames), set()
    for split in ("test", "validation", "train"):
        if split not in frames:
            continue
        frame = frames[split]
        copies = frame["text"].isin(seen)
        if split == "train":
            copies |= frame["text"].duplicated()
            conflicts = int((frame.groupby("text")["label"].nunique() > 1).sum())
            if conflicts:
                logger.warning(
                    "%s: %d texts stand there with different labels; the first one counts", source_of(frame), conflicts
                )
        if copies.any():
            logger.info(
                "%s: %d exact duplicates removed, %d texts left", source_of(frame), copies.sum(), (~copies).sum()
            )
        kept[split] = frame[~copies]
        seen.update(frame["text"])
        if kept[split].empty:
            raise RecipeError(
                f"{source_of(frame)}: every text also stands in another split: pass --remove_duplicates false to allow it"
            )
    return kept


def undersample(frame: pd.DataFrame, names: list[str], seed: int) -> pd.DataFrame:
    """Cuts every label to as many rows as the rarest has, drawn by pandas' own sampling."""
    by_label = [frame[frame["label"] == name] for name in names]
    by_label = [rows for rows in by_label if len(rows)]
    size = min(len(rows) for rows in by_label)
    parts = [rows if len(rows) == size else rows.sample(size, random_state=seed) for rows in by_label]
    logger.info("undersampled to %d texts of each label", size)
    return pd.concat(parts)


def make_missing_splits(frames: dict[str, pd.DataFrame], args: DataArguments) -> dict[str, pd.DataFrame]:
    fractions = {"test": args.test_fraction, "validation": args.validation_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in frames}
    rows = frames["train"]
    sizes = {split: int(len(rows) * fraction) for split, fraction in missing.items()}
    if args.split_method == "shuffled" and missing:
        rows = rows.sample(frac=1, random_state=args.split_seed)
        # Training first, then validation, and the test takes what rounding leaves.
        end = int(len(rows) * (1 - sum(missing.values())))
        made = {"train": rows[:end]}
        if "validation" in missing:
            stop = end + sizes["validation"] if "test" in missing else len(rows)
            made["validation"], end = rows[end:stop], stop
        if "test" in missing:
            made["test"] = rows[end:]
    else:
        made = {}
        for split, size in sizes.items():
            rows, made[split] = split_stratified(rows, max(size, 1), args.split_seed, len(missing))
        made["train"] = rows
    for split, frame in made.items():
        if frame.empty:
            raise RecipeError(
                f"{source_of(frames['train'])}: {len(frames['train'])} rows are too few to split off a {split} set: add rows"
            )
    return {**frames, **made}


def split_stratified(
    rows: pd.DataFrame, size: int, seed: int, splits_to_make: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(what stays, `size` rows split off), each with the same share of every label, in the file's order."""
    counts = rows["label"].value_counts()
    if len(counts) and counts.min() < 2:
        raise RecipeError(
            f"{source_of(rows)}: label {counts.idxmin()!r} has too few rows to split: each label needs at least"
            f" {splits_to_make + 1}; add rows, drop the label, or give --validation_file and --test_file"
        )
    # scikit-learn wants at least one row of each label on either side.
    size = min(max(size, len(counts)), len(rows) - len(counts))
    if size < len(counts):
        raise RecipeError(
            f"{source_of(rows)}: {len(rows)} rows are too few to split {len(counts)} labels:"
            " add rows, or give --validation_file and --test_file"
        )
    stay, off = train_test_split(rows, test_size=size, stratify=rows["label"], random_state=seed)
    stay, off = stay.sort_index(), off.sort_index()
    stay.attrs = off.attrs = rows.attrs
    return stay, off


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
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, split_special_tokens=True, padding_side="right", revision=revision
        )
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise RecipeError(
            f"model {name!r} has no tokenizer that loads ({one_line(error)}): it needs a tokenizer.json"
        ) from error
    if not 1 < len(tokenizer) <= config.vocab_size or tokenizer.eos_token_id is None:
        raise RecipeError(
            f"model {name!r} has a vocabulary of {config.vocab_size}, its tokenizer one of {len(tokenizer)}:"
            " put the model's own tokenizer.json beside it"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if truncation_side is not None:
        tokenizer.truncation_side = truncation_side
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
