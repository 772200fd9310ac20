"""Group and time splits (optional): no group in two splits; the earliest rows train and the latest are the test."""

import logging

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from recipe.data.rows import refuse_rows, source_of
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)


def split_groups(rows: pd.DataFrame, fractions: dict[str, float], seed: int) -> pd.Series:
    """Return the split of each row, by groups, with sizes and label shares as nearly right as groups allow.

    The greedy rule of scikit-learn's StratifiedGroupKFold, whose folds all have one size and may stay empty, for any
    fractions: the largest groups first, each to the split whose label counts it brings nearest to what is wanted (by
    chi-square, sum (n - wanted)^2 / wanted). Groups of one size come in seeded order. No split stays empty.
    """
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    table = rows.groupby(["group", "label"]).size().unstack(fill_value=0)
    if len(table) < len(shares):
        fix = "add groups, give --validation_file and --test_file, or drop --group_column"
        too_few = f"{len(table)} groups are too few for {len(shares)} splits ({', '.join(shares)}), since a text that groups share joins them"
        raise RecipeError(f"{source_of(rows)}: {too_few}: {fix}")
    counts = table.to_numpy()
    wanted = np.outer(list(shares.values()), counts.sum(axis=0))
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled, chosen = np.zeros_like(wanted), np.empty(len(counts), dtype=int)
    for group in order:
        distance = ((filled + counts[group] - wanted) ** 2 - (filled - wanted) ** 2) / wanted
        chosen[group] = distance.sum(axis=1).argmin()
        filled[chosen[group]] += counts[group]
    for split in range(len(shares)):
        sizes = np.bincount(chosen, minlength=len(shares))
        if not sizes[split]:  # it gets the smallest group of a split that keeps another one
            chosen[next(group for group in reversed(order) if sizes[chosen[group]] > 1)] = split
    return rows["group"].map(dict(zip(table.index, np.array(list(shares))[chosen], strict=True)))


def join_groups(rows: pd.DataFrame) -> pd.Series:
    """Return the group of each row, one for all rows that share a group or a text, also by way of others."""
    texts = rows["text"].factorize()[0]
    groups = texts.max() + 1 + (rows["group"].factorize()[0] if "group" in rows else np.arange(len(rows)))
    size = groups.max() + 1
    edges = coo_matrix((np.ones(len(rows)), (texts, groups)), shape=(size, size))
    joined = pd.Series(connected_components(edges, directed=False)[1][texts], rows.index)
    if "group" not in rows:
        return joined
    before, sizes = rows["group"].nunique(), joined.value_counts()
    if len(sizes) < before:
        shared = "%d groups are %d, since some share a text; the largest has %d rows"
        logger.info(shared, before, len(sizes), sizes.iloc[0])
    return rows["group"].groupby(joined).transform("first")


def parse_times(rows: pd.DataFrame) -> pd.Series:
    """Return the column `time` as values that sort: numbers, or dates in UTC.

    A column is one or the other, by which of them more of its cells are. Dates are ISO 8601, each in a form of its own:
    a day, a time, a zone (UTC if it names none). Others, such as 03/04/2024, are refused, since day and month cannot be
    told apart.
    """
    cells = rows["time"].map(lambda cell: cell.strip() or None if isinstance(cell, str) else cell)
    refuse_rows(rows, cells.isna(), "no time (--time_column)", "fill in the time or drop the row")
    words = cells.map(lambda cell: cell.isoformat() if hasattr(cell, "isoformat") else str(cell))
    numbers = pd.to_numeric(words, errors="coerce").replace([np.inf, -np.inf], np.nan)
    dates = pd.to_datetime(words, format="ISO8601", utc=True, errors="coerce")
    times = numbers if numbers.notna().sum() >= dates.notna().sum() else dates
    example = next((repr(word[:40]) for word in words[times.isna()]), "")
    problem = f"a time that cannot be read, such as {example}"
    refuse_rows(rows, times.isna(), problem, "write numbers, or dates as 2024-01-31T18:30:00+01:00")
    return times.convert_dtypes()  # whole numbers stay whole beside rows that need no time
