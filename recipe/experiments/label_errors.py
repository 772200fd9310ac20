"""Label errors: texts whose given label is probably wrong, by confident learning over out-of-sample probabilities."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from recipe.data.files import FileFormat, read_batches
from recipe.data.readers import make_table
from recipe.data.rows import check_rows, refuse_rows
from recipe.errors import RecipeError

PREFIX = "probability_"  # of the columns that predictions have


def read_predictions(path: Path, label_column: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what cross_validate.py wrote, or with `label_column` any predictions with given labels beside them.

    Returns:
        The texts with `row` (of the training file, where the predictions tell it), `source` where they do, `text` and the given
        `label`; and their probabilities, float64, a column a label.

    Raises:
        RecipeError: no probabilities, or a row whose label or probabilities cannot be used.
    """
    batches = list(read_batches(path, {"text": "text"}, FileFormat()))
    columns = batches[0].names if batches else []
    names = [column.removeprefix(PREFIX) for column in columns if column.startswith(PREFIX)]
    if len(names) < 2:
        raise RecipeError(f"{path}: has no columns {PREFIX}LABEL: give the file that cross_validate.py wrote")
    if label_column is None and "predicted_label" not in columns:  # predict.py's `label` is its own
        what = "has no column predicted_label, so it is not known which labels were given"
        raise RecipeError(f"{path}: {what}: name their column with --label_column")
    wanted = {"text": "text", "label": label_column or "label", **{PREFIX + name: PREFIX + name for name in names}}
    if {"predicted_label", "fold"} <= {*columns}:  # else these are columns of the user's own
        wanted |= {f"training_{name}": name for name in ("row", "source") if name in columns}
    rows = check_rows(make_table(str(path), batches, wanted).frame, str(path))
    unknown = ~rows["label"].isin(names)
    refuse_rows(rows, unknown, f"a label without a column {PREFIX}LABEL", f"known are {', '.join(names)}")
    probabilities = rows[[PREFIX + name for name in names]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    bad = ~probabilities.ge(0).all(axis=1) | ~probabilities.sum(axis=1).between(0.999, 1.001)
    refuse_rows(rows, bad, "probabilities that are not numbers from 0 up with the sum 1", "write the file again")
    texts = pd.DataFrame({"row": rows.get("training_row", rows["row"])})
    if "training_source" in rows:
        texts["source"] = rows["training_source"]
    return texts.assign(text=rows["text"], label=rows["label"]), probabilities.set_axis(names, axis=1)


def find_label_errors(texts: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Return the texts that are probably mislabelled, the least probable label first.

    Confident learning (Northcutt, Jiang & Chuang 2021), by cleanlab's `find_label_issues` with its defaults: a text counts
    as one of a label where its probability is at least the mean of that label's own texts; the counts of given against
    such labels tell how many of each pair are wrong, and those are the texts furthest from their given label.

    Args:
        texts, probabilities: as read_predictions returns them.

    Returns:
        The columns of the texts, `probability_of_label` (the given one), `likelier_label` and
        `probability_of_likelier_label`.
    """
    from cleanlab.filter import find_label_issues

    labels, numbers = probabilities.columns.get_indexer(texts["label"]), probabilities.to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels that no text has, by their ids
        found = find_label_issues(labels, numbers, return_indices_ranked_by="self_confidence", n_jobs=1)
    found = np.asarray(found, dtype=np.int64)
    return texts.iloc[found].assign(
        probability_of_label=numbers[found, labels[found]].round(8),
        likelier_label=probabilities.columns[numbers[found].argmax(axis=1)],
        probability_of_likelier_label=numbers[found].max(axis=1).round(8),
    )
