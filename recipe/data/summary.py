"""What became of the rows: counts as plain dicts, which JSON takes, and a table of them."""

from typing import Any

import pandas as pd

STEPS = ("conflicts_dropped", "group_rows_given_up", "duplicates_removed", "undersampled", "over_the_limit")
SHOWN = 8  # labels that have a column of their own in the table


def count_rows(frames: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """A summary to begin with.

    rows_read: split -> file -> rows, of the splits that were given.
    conflicts: texts that stand there with different labels.
    conflicts_dropped, group_rows_given_up, duplicates_removed, undersampled, over_the_limit: split -> rows that went,
        where some did. What goes before splits are made goes from `train`.
    texts, labels (see count_texts): what is left.
    """
    rows = {split: frame["source"].value_counts(sort=False).to_dict() for split, frame in frames.items()}
    return {"rows_read": rows, "conflicts": 0} | {step: {} for step in STEPS}


def count_removed(
    summary: dict[str, Any], step: str, before: dict[str, pd.DataFrame], after: dict[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Adds to the summary what a step removed from each split, and hands back what it left."""
    for split, frame in before.items():
        removed = len(frame) - len(after[split])
        if removed:
            summary[step][split] = summary[step].get(split, 0) + removed
    return after


def count_texts(frames: dict[str, pd.DataFrame], names: list[str]) -> dict[str, Any]:
    """texts: split -> rows; labels: split -> label -> rows, every label in the order of its id."""
    counts = {split: frame["label"].value_counts().reindex(names, fill_value=0) for split, frame in frames.items()}
    return {
        "texts": {split: len(frame) for split, frame in frames.items()},
        "labels": {split: {name: int(count) for name, count in of.items()} for split, of in counts.items()},
    }


def summary_table(summary: dict[str, Any]) -> str:
    """A row for each split: its texts, then those of each label; the rarest of many labels share a column."""
    labels = pd.DataFrame.from_dict(summary["labels"], orient="index")
    if labels.shape[1] > SHOWN + 1:
        common = labels.sum().nlargest(SHOWN).index
        rest = labels.drop(columns=common)
        labels = labels[[name for name in labels if name in common]].assign(
            **{f"{rest.shape[1]} others": rest.sum(axis=1)}
        )
    labels.columns = [name if len(name) <= 24 else name[:21] + "..." for name in labels]
    table = pd.concat([pd.Series(summary["texts"], name="texts"), labels], axis=1)
    order = [split for split in ("train", "validation", "test") if split in table.index]
    return table.loc[order].to_string(formatters=["{:,}".format] * table.shape[1])
