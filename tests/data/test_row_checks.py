import pandas as pd
import pytest

from recipe.data.rows import check_known_labels, check_rows, refuse_rows, source_of
from recipe.errors import RecipeError


def frame_of(**columns):
    return pd.DataFrame(columns, dtype=object).assign(row=range(2, 2 + len(next(iter(columns.values())))))


def test_rows_get_their_source_and_canonical_labels():
    checked = check_rows(frame_of(text=["a", ""], label=[1.0, " x "], group=[True, 2]), "a.csv")
    assert checked["label"].tolist() == ["1", "x"]
    assert checked["group"].tolist() == ["true", "2"]
    assert set(checked["source"]) == {"a.csv"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", None], "label": ["x", "y"]}, r"a\.csv: row 3 has no text: fill in the text or drop the row"),
        ({"text": ["a", "b"], "label": [" ", "y"]}, "row 2 has no label"),
        ({"text": ["a", 7], "label": ["x", "y"]}, "row 3 has a text that is no string"),
        (
            {"text": ["a", "b"], "label": [["x", "y"], {}]},
            r"rows 2, 3 \(2 in all\) have several labels \(multi-label\)",
        ),
        ({"text": ["a"], "label": ["x"], "group": [[1, 2]]}, "row 2 has several groups"),
        ({"text": [None], "label": ["x"], "text_2": [None]}, "row 2 has no text: fill in the text or drop the row"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(columns, message):
    with pytest.raises(RecipeError, match=message):
        check_rows(frame_of(**columns), "a.csv")


def test_many_bad_rows_are_those_of_the_first_file_and_shortened():
    frame = frame_of(text=["x"] * 30).assign(source=["a.csv"] * 14 + ["b.csv"] * 16)
    assert source_of(frame) == "a.csv and 1 more"
    shown = ", ".join(str(row) for row in range(2, 12))
    with pytest.raises(RecipeError, match=rf"^a\.csv: rows {shown}, \.\.\. \(14 in all\) have bad texts: fix them$"):
        refuse_rows(frame, frame["text"] == "x", "bad texts", "fix them")
    refuse_rows(frame, frame["text"] == "y", "bad texts", "fix them")


def test_unknown_labels_are_refused_with_the_known_ones():
    frame = frame_of(text=["a", "b"], label=["x", "z"]).assign(source="a.csv")
    check_known_labels(frame, ["x", "z"])
    with pytest.raises(RecipeError, match="row 3 has a label that the model does not know, such as 'z': known are 'x'"):
        check_known_labels(frame, ["x"], of_model=True)
    with pytest.raises(RecipeError, match=r"the training data lacks.* --normalize_labels true merges"):
        check_known_labels(frame, ["x", "Z"])
