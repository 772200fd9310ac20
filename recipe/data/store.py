"""Text store: the texts of all rows in a temporary Arrow file, written batch by batch and read back by position.

Memory holds one number for each text: its hash while files are read, then the position of the first text equal to it.
"""

import atexit
import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa

from recipe.data.columns import text_fields
from recipe.data.texts import PAIR_SEPARATOR, hash_texts, join_texts

TEXTS_FILE = "texts.arrow"
BLOCK_ROWS = 10_000  # texts that are held as strings at once


class TextStore:
    """Takes the texts of rows in their order; the file is removed with the store."""

    def __init__(self, separator: str = PAIR_SEPARATOR):
        """Open a new file; `separator` joins the parts of a text."""
        self.separator, self.size, self.hashes = separator, 0, []
        folder = tempfile.mkdtemp(prefix="recipe-texts-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder) / TEXTS_FILE
        self.schema = pa.schema({"text": pa.large_string()})
        self.writer = pa.ipc.new_stream(str(self.path), self.schema)
        self.one_object: dict[str, str] = {}

    def add(self, cells: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Store the texts of some rows, their parts joined, and return their cells with "" in place of each text.

        A cell that is no text is returned as it is, for check_rows to refuse. Equal labels and groups become one object.
        """
        fields = text_fields(cells)
        if len(fields) == 1:
            stored = [text.strip() if isinstance(text, str) else "" for text in cells["text"]]
        else:
            parts = zip(*(cells[field] for field in fields), strict=True)
            texts = (
                [x if isinstance(x, str) else None for x in of_row] for of_row in parts
            )  # others are refused later
            stored = [join_texts(of_row, self.separator) or "" for of_row in texts]
        self.writer.write_table(pa.table({"text": stored}, schema=self.schema))
        self.hashes.append(hash_texts(stored))
        self.size += len(stored)
        left = dict(cells)
        for field in fields:
            left[field] = ["" if isinstance(cell, str) else cell for cell in cells[field]]
        for field in cells.keys() & {"label", "group"}:
            left[field] = [self.one_object.setdefault(x, x) if isinstance(x, str) else x for x in cells[field]]
        return left

    @cached_property
    def chunks(self) -> list[pa.Array]:
        """The texts, memory-mapped; nothing can be added any more."""
        self.writer.close()
        return pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()["text"].chunks

    def take(self, positions: Sequence[int]) -> list[str]:
        """Return the texts at these positions (ChunkedArray's own `take` would copy the whole file into memory)."""
        positions = np.asarray(positions, dtype=np.int64)
        order = np.argsort(positions, kind="stable")
        ends = np.cumsum([len(chunk) for chunk in self.chunks])
        parts = np.split(positions[order], np.searchsorted(positions[order], ends))
        texts = np.empty(len(positions), dtype=object)
        found: list[str] = []
        for chunk, end, part in zip(self.chunks, ends, parts, strict=False):  # the part beyond the last end is empty
            if len(part):
                found += chunk.take(pa.array(part - (end - len(chunk)))).to_pylist()
        texts[order] = found
        return texts.tolist()

    def first_copies(self) -> np.ndarray:
        """Return for each text the position of the first one equal to it: int64 [N].

        Hashes only find the candidates, whose texts are then compared, so that two texts of one hash stay two texts.
        """
        _, first, inverse = np.unique(np.concatenate(self.hashes), return_index=True, return_inverse=True)
        first = first[inverse]
        repeated, others = np.flatnonzero(first != np.arange(self.size)), {}
        for start in range(0, len(repeated), BLOCK_ROWS):
            rows = repeated[start : start + BLOCK_ROWS]
            for row, text, candidate in zip(rows, self.take(rows), self.take(first[rows]), strict=True):
                if text != candidate:
                    first[row] = others.setdefault(text, row)
        return first

    def are_empty(self) -> np.ndarray:
        """Return for each text whether it is empty: bool [N]."""
        return np.concatenate(self.hashes) == hash_texts([""])[0]

    def to_dataset(self, rows: pd.DataFrame, names: list[str]) -> datasets.Dataset:
        """Return a memory-mapped dataset of rows' `text`, `label` (id), `row` and `source` (where each text came from).

        Its file is its own and in the order of its rows: a `select` of the store would look each text up on every read.

        Args:
            rows: `label` (a name), `row` and `source`; the index is the position of each row's text.
            names: the labels by id.
        """
        text, ids = datasets.Value("string"), {name: i for i, name in enumerate(names)}
        label, number = datasets.ClassLabel(names=names), datasets.Value("int64")
        features = datasets.Features({"text": text, "label": label, "row": number, "source": text})
        folder = Path(tempfile.mkdtemp(prefix="recipe-split-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        with pa.ipc.new_stream(str(folder / TEXTS_FILE), features.arrow_schema) as writer:
            for start in range(0, len(rows), BLOCK_ROWS):
                block = rows.iloc[start : start + BLOCK_ROWS]
                columns = {"text": self.take(block.index), "label": block["label"].map(ids).to_numpy(dtype=np.int64)}
                columns |= {"row": block["row"].to_numpy(dtype=np.int64), "source": block["source"].tolist()}
                writer.write_table(pa.table(columns, schema=features.arrow_schema))
        dataset = datasets.Dataset.from_file(str(folder / TEXTS_FILE))
        weakref.finalize(dataset.data.table, remove_texts, folder)
        return dataset


def remove_texts(folder: Path) -> None:
    """Remove a dataset's file; what `Dataset.map` has cached beside it, such as tokens still in use, stays until exit."""
    with contextlib.suppress(OSError):
        (folder / TEXTS_FILE).unlink()
        folder.rmdir()
