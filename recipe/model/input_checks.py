"""Checks of token ids and labels against a model: of each batch on the CPU, and of all rows before training."""

from typing import TYPE_CHECKING

import torch
from transformers import GPT2Config

from recipe.errors import RecipeError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

ROWS = 10_000  # that are checked at a time


def check_token_ids(input_ids: torch.Tensor, config: GPT2Config) -> None:
    """Raise RecipeError for token ids that the embeddings do not have."""
    if outside := first_outside(input_ids, config.vocab_size):
        raise RecipeError(f"input_ids has the token id {outside}, {vocabulary(config)}")


def check_labels(labels: torch.Tensor, batch: int, config: GPT2Config) -> None:
    """Raise RecipeError for labels that are not one label id a text."""
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        given = f"labels has the shape {list(labels.shape)} and the dtype {labels.dtype}"
        raise RecipeError(f"{given}: give one label id a text, here [{batch}] of torch.int64")
    if outside := first_outside(labels, config.num_labels):
        raise RecipeError(f"labels has the label id {outside}, {label_ids(config)}")


def first_outside(ids: torch.Tensor, size: int) -> str:
    """Return an id that is negative, or not below `size`; "" without one, and where values are not looked at.

    Reading a GPU's values would hold up each step, and its kernels stop at such ids by themselves; a graph that is being
    compiled or exported has no values.
    """
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or not ids.numel():
        return ""
    low, high = (int(bound) for bound in torch.aminmax(ids))
    return str(low) if low < 0 else str(high) if high >= size else ""


def check_rows_for_model(rows: "Dataset", config: GPT2Config, split: str = "train") -> None:
    """Raise RecipeError, before training, for the first row, counted from 0, whose `labels` or `input_ids` do not fit the model.

    A column that the split does not have is passed over.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [name for name in ("labels", "input_ids") if name in rows.column_names]
    tables = rows.select_columns(columns).with_format("arrow").iter(batch_size=ROWS) if columns else ()
    for start, table in zip(range(0, len(rows), ROWS), tables, strict=False):
        if "labels" in columns:
            labels = table["labels"].combine_chunks()
            if not pa.types.is_integer(labels.type):
                raise RecipeError(f"{split}: labels are of the type {labels.type}: give one label id a row, an int64")
            if (row := row_outside(labels, config.num_labels)) is not None:
                raise RecipeError(f"{split}, row {start + row}: its label id is {labels[row]}, {label_ids(config)}")
        if "input_ids" in columns:
            texts = table["input_ids"].combine_chunks()
            if not (hasattr(texts.type, "value_type") and pa.types.is_integer(texts.type.value_type)):
                raise RecipeError(f"{split}: input_ids are of the type {texts.type}: give a list of token ids a row")
            is_empty = pc.less_equal(pc.fill_null(pc.list_value_length(texts), 0), 0)
            if (row := pc.index(is_empty, True).as_py()) >= 0:
                raise RecipeError(f"{split}, row {start + row}: has no token: give an empty text one <|endoftext|>")
            ids = pc.list_flatten(texts)
            if (index := row_outside(ids, config.vocab_size)) is not None:
                row = pc.list_parent_indices(texts)[index].as_py()
                raise RecipeError(f"{split}, row {start + row}: has the token id {ids[index]}, {vocabulary(config)}")


def row_outside(ids: "pyarrow.Array", size: int) -> int | None:
    """Return the index of the first id that is missing, negative, or not below `size`; None without one."""
    import pyarrow.compute as pc

    fits = pc.and_(pc.greater_equal(ids, 0), pc.less(ids, size))
    index = pc.index(pc.fill_null(fits, False), False).as_py()
    return index if index >= 0 else None


def vocabulary(config: GPT2Config) -> str:
    return f"and the model's are 0 to {config.vocab_size - 1}: tokenize with the model's own tokenizer"


def label_ids(config: GPT2Config) -> str:
    return f"and the model's are 0 to {config.num_labels - 1}: load it with the data's labels (num_labels, id2label)"
