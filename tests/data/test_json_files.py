"""JSON: the shapes in which tables are written."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from recipe.data.columns import TEXT_AND_LABEL
from recipe.data.files import FileFormat, read_batches
from recipe.data.readers import read_file
from recipe.data.rows import check_rows
from recipe.errors import RecipeError

RECORDS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
LISTS = [["a", "x"], ["b", "y"]]
FRAME = pd.DataFrame(RECORDS)
SHAPES = {
    "array": RECORDS,
    "data": {"version": "1", "data": RECORDS},
    "columns": {"text": ["a", "b"], "label": ["x", "y"]},
    **{
        orient: json.loads(FRAME.to_json(orient=orient)) for orient in ("columns", "index", "split", "table", "records")
    },
    "named index": json.loads(FRAME.set_index(pd.Index(["one", "two"])).to_json()),
    "by name": {"q1": RECORDS[0], "q2": RECORDS[1]},
}


def read(path, content, wanted=TEXT_AND_LABEL, **options):
    path.write_text(content)
    frame = read_file(path, wanted, FileFormat(**options)).frame
    return frame[[*wanted, "row"]].values.tolist()


def names_and_rows(path, content, **options):
    path.write_text(json.dumps(content))
    (batch,) = read_batches(path, {"text": None, "split": None}, FileFormat(**options))
    return batch.names, [list(row) for row in zip(*batch.columns, strict=True)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a"])
@pytest.mark.parametrize("shape", SHAPES)
def test_documents_of_usual_shapes_are_read(tmp_path, shape, name, indent):
    if name in ("a.txt", "a") and shape not in ("array", "records"):
        return  # without the ending, only records tell what the file is
    content = json.dumps(SHAPES[shape], indent=indent)
    assert read(tmp_path / name, content) == [["a", "x", 1], ["b", "y", 2]]


def test_lines_of_objects_are_read_whatever_the_ending(tmp_path):
    lines = "\n".join(map(json.dumps, RECORDS))
    for name in ("a.json", "a.jsonl", "a.ndjson", "a.txt", "a"):
        assert read(tmp_path / name, f"\n{lines}\n") == [["a", "x", 2], ["b", "y", 3]]
    one = '{"text": "hello", "label": "ham", "entities": [{"a": 1}], "tags": ["x"]}'
    assert read(tmp_path / "a.json", one) == [["hello", "ham", 1]]
    assert read(tmp_path / "a.json", json.dumps(json.loads(one), indent=1)) == [["hello", "ham", 1]]
    with pytest.raises(RecipeError, match=r"line 1 is not JSON \(.*one object a line is needed"):
        read(tmp_path / "a.jsonl", f'{{"text": \n{lines}')


def test_splits_in_one_object_get_their_names(tmp_path):
    content = {"train": RECORDS, "test": RECORDS[:1]}
    names, rows = names_and_rows(tmp_path / "a.json", content)
    assert names == ["split", "text", "label"]
    assert [row[0] for row in rows] == ["train", "train", "test"]
    assert names_and_rows(tmp_path / "a.json", {"train": RECORDS})[1][0] == ["train", "a", "x"]
    own = {"val": [{"text": "a", "split": "mine"}]}
    assert names_and_rows(tmp_path / "a.json", own) == (["split", "text"], [["mine", "a"]])
    lists = {"train": LISTS, "oos_test": LISTS}
    names, rows = names_and_rows(tmp_path / "a.json", lists, column_names=("text", "label"))
    assert (names, rows[2]) == (["split", "text", "label"], ["oos_test", "a", "x"])
    with pytest.raises(
        RecipeError, match=r"is an object of several arrays \(intents, entities\): write the one to read"
    ):
        read(tmp_path / "a.json", json.dumps({"intents": RECORDS, "entities": RECORDS}))


@pytest.mark.parametrize("as_lines", [False, True])
def test_lists_take_their_names_from_column_names(tmp_path, as_lines):
    content = "\n".join(map(json.dumps, LISTS)) if as_lines else json.dumps(LISTS)
    expected = [["a", "x", 1], ["b", "y", 2]]
    assert read(tmp_path / "a.json", content, column_names=("text", "label")) == expected
    place = "line 1" if as_lines else "item 1 of the array"
    with pytest.raises(RecipeError, match=f"{place} is a JSON list, not an object: .*--column_names text label"):
        read(tmp_path / "a.json", content)
    with pytest.raises(RecipeError, match=f"{place} .* has 2 values, but column_names gives 3 names"):
        read(tmp_path / "a.json", content, column_names=("text", "label", "id"))


def test_texts_alone_take_one_name(tmp_path):
    assert read(tmp_path / "a.json", '["a", "b"]', {"text": None}, column_names=("text",)) == [["a", 1], ["b", 2]]
    with pytest.raises(RecipeError, match=r"item 1 of the array is a JSON str, .*--column_names text"):
        read(tmp_path / "a.json", '["a", "b"]', {"text": None})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "item 1 of the array is a JSON int, not an object: write"),
        ('"text"', "holds a single JSON str: an array of objects"),
        ('{"text": ["a"], "label": ["x", "y"]}', r"columns of different lengths \(text: 1, label: 2\)"),
        ('{"a": 1, "b": 2}', "no column with a usual name .* among 'a', 'b'"),
    ],
)
def test_other_shapes_are_named(tmp_path, content, message):
    with pytest.raises(RecipeError, match=message):
        read(tmp_path / "a.json", content)


def test_nan_is_a_missing_cell(tmp_path):
    lines = '{"text": "a", "label": NaN, "score": -Infinity}\n{"text": NaN, "label": "x", "score": 1}\n'
    for content in (lines, f"[{','.join(lines.splitlines())}]"):
        assert read(tmp_path / "a.json", content) == [["a", None, 1], [None, "x", 2]]


def test_fields_of_objects_are_named_with_dots(tmp_path):
    records = [{"review": {"text": "a", "by": {"name": "me"}}, "label": "x"}, {"review": None, "label": "y"}]
    wanted = {"text": "review.text", "label": "label", "group": "review.by.name"}
    expected = [["a", "x", "me", 1], [None, "y", None, 2]]
    for content in (json.dumps(records), "\n".join(map(json.dumps, records))):
        assert read(tmp_path / "a.json", content, wanted) == expected
    pa.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    frame = read_file(tmp_path / "a.parquet", wanted).frame
    assert frame[[*wanted, "row"]].astype(object).where(frame.notna(), None).values.tolist() == expected
    with pytest.raises(RecipeError, match=r"no column 'review\.words' among 'review', 'label'"):
        read_file(tmp_path / "a.parquet", {"text": "review.words"})
    flat = '{"review.text": "flat", "review": {"text": "a"}, "label": "x"}'
    assert read(tmp_path / "b.json", flat, {"text": "review.text"}) == [["flat", 1]]
    with pytest.raises(RecipeError, match=r"no column 'review\.words'"):
        read(tmp_path / "b.json", flat, {"text": "review.words"})


def test_objects_as_texts_or_labels_say_how_their_fields_are_named(tmp_path):
    """As Label Studio exports them."""
    made = {"by": 1, "result": [{"value": {"choices": ["x"]}}]}
    path, wanted = tmp_path / "a.json", {"text": "data", "label": "annotations"}
    path.write_text(json.dumps([{"data": {"text": "a"}, "annotations": [made]}, {"data": {"text": "b"}}]))
    for field, fix in (
        ("text", r"an object in place of a text: name the field .* \(text\), as in --text_column data\.text$"),
        ("label", r"\(result, by\), as in --label_column annotations\.result$"),
        ("label", r"in place of a label: .*--label_column annotations\.result\.value$"),
        ("label", r"--label_column annotations\.result\.value\.choices$"),
    ):
        with pytest.raises(RecipeError, match=fix) as error:
            check_rows(read_file(path, wanted).frame, "a", wanted)
        wanted[field] = str(error.value).split()[-1]
    assert read_file(path, wanted).frame[["text", "label"]].values.tolist() == [["a", ["x"]], ["b", None]]
