"""A column of times, whatever it is written as, into what sorts."""

import numpy as np
import pandas as pd

from recipe.data.row_checks import refuse_rows


def parse_times(rows: pd.DataFrame) -> pd.Series:
    """The column `time` as what sorts: numbers as they stand, or dates in UTC.

    A column is one or the other, by what more of its cells can be read as. Dates are ISO 8601, each in a form of its
    own: a day, a time, a zone (UTC if it names none). Others, such as 03/04/2024, are refused, since day and month
    cannot be told apart.

    Raises:
        RecipeError: missing or unreadable times, with their rows.
    """
    cells = rows["time"].map(lambda cell: cell.strip() or None if isinstance(cell, str) else cell)
    refuse_rows(rows, cells.isna(), "no time (--time_column)", "fill in the time or drop the row")
    words = cells.map(lambda cell: cell.isoformat() if hasattr(cell, "isoformat") else str(cell))
    numbers = pd.to_numeric(words, errors="coerce").replace([np.inf, -np.inf], np.nan)
    dates = pd.to_datetime(words, format="ISO8601", utc=True, errors="coerce")
    times = numbers if numbers.notna().sum() >= dates.notna().sum() else dates
    bad = times.isna()
    example = repr(words[bad].iloc[0][:40]) if bad.any() else ""
    refuse_rows(
        rows,
        bad,
        f"a time that cannot be read, such as {example}",
        "write numbers, or dates as 2024-01-31T18:30:00+01:00",
    )
    return times
