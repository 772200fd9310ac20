"""Files that are neither CSV nor JSON: lines, folders of texts, workbooks, Arrow."""

import datetime
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from recipe.data.columns import TEXT_AND_LABEL
from recipe.data.files import FileFormat, read_batches
from recipe.data.readers import read_file, read_texts
from recipe.errors import RecipeError


def rows_of(path, wanted=TEXT_AND_LABEL, **options):
    """The names of a file's columns, its rows and their numbers."""
    rows, numbers = [], []
    for batch in read_batches(path, wanted, FileFormat(**options)):
        columns = [x if isinstance(x, list) else x.to_pylist() for x in batch.columns]
        rows += [list(row) for row in zip(*columns, strict=True)]
        numbers += batch.rows
    return batch.names, rows, numbers


# Lines


@pytest.mark.parametrize("name", ["a.txt", "a.train", "a.csv", "a"])
def test_fasttext_is_told_by_its_labels(tmp_path, name, caplog):
    caplog.set_level("INFO")
    content = "__label__a one, two\n__label__a __label__b\tthree \n\n__label__c\n__label__d four __label__x\n"
    (tmp_path / name).write_text(content)
    expected = [["one, two", "a"], ["three ", ["a", "b"]], ["", "c"], ["four __label__x", "d"]]
    assert rows_of(tmp_path / name) == (["text", "label"], expected, [1, 2, 4, 5])
    assert "is read as fastText" in caplog.text
    (tmp_path / name).write_text("one, two __label__a\n\nthree\t__label__a __label__b \n __label__c\n")
    expected = [["one, two", "a"], ["three", ["a", "b"]], ["", "c"]]
    assert rows_of(tmp_path / name) == (["text", "label"], expected, [1, 3, 4])


def test_trec_is_told_by_its_labels(tmp_path):
    content = "DESC:manner How did it ?\nHUM:ind Who, \xe9 ?\n"
    (tmp_path / "a.label").write_bytes(content.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"line 2 is not UTF-8 .*--encoding"):
        rows_of(tmp_path / "a.label")
    names, rows, _ = rows_of(tmp_path / "a.label", encoding="latin-1")
    assert names == ["text", "coarse", "fine"]
    assert rows == [["How did it ?", "DESC", "DESC:manner"], ["Who, \xe9 ?", "HUM", "HUM:ind"]]
    (tmp_path / "b.label").write_text("DESC:manner How ?\n" * 5000 + "no label\n")
    with pytest.raises(RecipeError, match="line 5001 has no label such as DESC:manner"):
        rows_of(tmp_path / "b.label")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
def test_one_name_makes_each_line_a_text(tmp_path, name):
    lines = ['He said "hi, you"', "", '"a\tb;c"', " é", "__label__x", ""]
    (tmp_path / name).write_text("\r\n".join(lines))
    names, rows, numbers = rows_of(tmp_path / name, {"text": None}, column_names=("text",))
    assert (names, rows, numbers) == (["text"], [[line] for line in lines[:-1]], [1, 2, 3, 4, 5])
    (tmp_path / name).write_text("text\n" + "\n".join(lines))
    assert rows_of(tmp_path / name, {"text": None}, column_names=("text",))[2] == [2, 3, 4, 5, 6]
    (tmp_path / name).write_text("label\ttext\nx\tone\n")
    assert rows_of(tmp_path / name, {"text": None}, column_names=("text",))[1] == [["x", "one"]]
    (tmp_path / name).write_text('"two\nlines, ""a"""\nplain\n')
    quoted = rows_of(tmp_path / name, {"text": None}, column_names=("text",), csv_quoting="minimal", delimiter=";")
    assert quoted[1] == [['two\nlines, "a"'], ["plain"]]


def test_a_line_that_is_too_long_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short\n" + "x" * 3_000_000)
    with pytest.raises(RecipeError, match="line 2 has over 2 MB: cut the text, or raise --max_row_mb"):
        rows_of(tmp_path / "a.txt", {"text": None}, column_names=("text",), max_row_mb=2)


# Folders


def make_folder(folder, **texts):
    for path, text in texts.items():
        file = folder / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_a_folder_of_texts_for_each_label(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("recipe.data.batches.BATCH_ROWS", 16)  # two texts a batch
    texts = {"pos__2_7.txt": "two\nlines", "pos__1_9.txt": "<html>", "neg__49960": '"no, good', "neg__b.txt": ""}
    extra = {"unsup__0.txt": "x", ".git__config": "x", "pos__.DS_Store": b"\xff", "imdb.vocab": "the", "README": "x"}
    names, rows, numbers = rows_of(make_folder(tmp_path, **texts, **extra))
    assert names == ["text", "label"]
    assert rows == [['"no, good', "neg"], ["", "neg"], ["<html>", "pos"], ["two\nlines", "pos"]]
    assert numbers == [1, 2, 3, 4]
    assert "unsup: is left out, since its texts have no label" in caplog.text
    assert [texts for texts, _ in read_texts(tmp_path, {"text": None})] == [['"no, good', ""], ["<html>", "two\nlines"]]


def test_errors_in_a_folder_name_the_file(tmp_path):
    make_folder(tmp_path, a__x="good", b__y="gr\xfc\xdf".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"b/y: line 1 is not UTF-8 .*--encoding cp1252"):
        rows_of(tmp_path)
    assert rows_of(tmp_path, encoding="latin-1")[1] == [["good", "a"], ["gr\xfc\xdf", "b"]]
    make_folder(tmp_path, a__z="x" * 3_000_000)
    with pytest.raises(RecipeError, match=r"a/z: has over 2 MB: .*--max_row_mb"):
        rows_of(tmp_path, encoding="latin-1", max_row_mb=2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train__pos__1": "x", "test__pos__1": "x"},
            "has a folder for each split: give --train_file .*train --test_file ",
        ),
        ({"train__a__1": "x", "dev__a__1": "x"}, "give --train_file .*train --validation_file .*dev"),
        ({"a.csv": "x"}, "`datasets` did not save, without a folder of texts for each label: give a file, or"),
        ({"part__a.csv": "x"}, r"did not save, and part/a\.csv is no single text: give the files as .*part/\*\.csv"),
        ({"a__fold__1": "x"}, r"folders in the folder of a label \(a/fold\): give the folder whose folders are"),
        ({"a__.hidden": "x"}, "its folders hold no files"),
    ],
)
def test_other_folders_are_refused(tmp_path, files, message):
    with pytest.raises(RecipeError, match=message):
        rows_of(make_folder(tmp_path, **files))


# Workbooks


OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/package/2006/relationships"


def write_workbook(path, **sheets):
    """The least that is a workbook, of strings, numbers, booleans and empty cells."""

    def cell(value, column, row):
        place = f"{'ABC'[column]}{row}"
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t>{value.replace("<", "&lt;")}</t></is></c>'
        kind = "b" if isinstance(value, bool) else "n"
        return "" if value is None else f'<c r="{place}" t="{kind}"><v>{+value}</v></c>'

    with zipfile.ZipFile(path, "w") as file:
        entries, links = "", ""
        for i, (name, rows) in enumerate(sheets.items(), start=1):
            entries += f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>'
            links += f'<Relationship Id="r{i}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            lines = ["".join(cell(value, x, y) for x, value in enumerate(row)) for y, row in enumerate(rows, start=1)]
            data = "".join(f'<row r="{y}">{line}</row>' for y, line in enumerate(lines, start=1))
            file.writestr(
                f"xl/worksheets/sheet{i}.xml", f'<worksheet xmlns="{MAIN}"><sheetData>{data}</sheetData></worksheet>'
            )
        file.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{entries}</sheets></workbook>'
        )
        book = f'<Relationship Id="r" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        file.writestr("_rels/.rels", f'<Relationships xmlns="{LINKS}">{book}</Relationships>')
        file.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{LINKS}">{links}</Relationships>')
    return path


def test_a_workbook_is_read_as_csv_would_show_it(tmp_path):
    pytest.importorskip("python_calamine")
    rows = [
        ["text", "label", "n"],
        ["NA", 1, 1.5],
        [None, "x", True],
        [None, None, None],
        ["01", 2, None],
        ["two\n<i>", 3, 7],
    ]
    path = write_workbook(tmp_path / "a.xlsx", Data=rows, Empty=[])
    names, found, numbers = rows_of(path)
    assert names == ["text", "label", "n"]
    assert found == [["NA", "1", "1.5"], [None, "x", "True"], ["01", "2", None], ["two\n<i>", "3", "7"]]
    assert numbers == [2, 3, 5, 6]
    (tmp_path / "a.csv").write_bytes(path.read_bytes())  # whatever its name
    assert rows_of(tmp_path / "a.csv")[1] == found
    write_workbook(path, Data=rows[1:])
    assert rows_of(path, column_names=("text", "label", "n"))[2] == [1, 2, 4, 5]
    with pytest.raises(RecipeError, match="column_names gives 2 names, but row 1 has 3 columns"):
        rows_of(path, column_names=("text", "label"))
    write_workbook(path, Data=[["v2", "v1"], ["hello", "ham"]])
    with pytest.raises(RecipeError, match=r"row 1 \('v2', 'v1'\) seems to name the columns"):
        rows_of(path, column_names=("text", "label"))


def test_workbooks_that_cannot_be_read_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("python_calamine")
    path = write_workbook(tmp_path / "a.xlsx", One=[["text"], ["a"]], Two=[["text"], ["b"]])
    with pytest.raises(RecipeError, match=r"has 2 sheets with rows \(One, Two\): keep the one to read, or save"):
        rows_of(path)
    with pytest.raises(RecipeError, match="has no rows: "):
        rows_of(write_workbook(path, One=[]))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<nothing")
    with pytest.raises(RecipeError, match=r"is not a complete Excel workbook \(.*save the sheet as CSV"):
        rows_of(path)
    monkeypatch.setitem(__import__("sys").modules, "python_calamine", None)
    with pytest.raises(RecipeError, match=r"is an Excel workbook: pip install '.*\[excel\]', or save the sheet as CSV"):
        rows_of(path)


# Arrow


@pytest.mark.parametrize("packed", [False, True])
def test_arrow_files_and_streams(tmp_path, packed):
    table = pa.Table.from_pandas(
        pd.DataFrame({"text": ["a", None] * 3000, "label": [1, 2] * 3000}), preserve_index=False
    )
    table = table.append_column("when", pa.array([datetime.date(2020, 1, 1)] * 6000))
    pa.feather.write_feather(table, tmp_path / "a.feather")
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.feather").read_bytes())  # whatever its name
    for path in list(tmp_path.iterdir()):
        if packed:
            with zipfile.ZipFile(tmp_path / f"{path.name}.zip", "w") as file:
                file.write(path, path.name)
            path = tmp_path / f"{path.name}.zip"
        frame = read_file(path).frame
        assert frame["text"].tolist() == ["a", None] * 3000, path
        assert frame["label"].tolist() == [1, 2] * 3000
        assert frame["row"].tolist() == list(range(1, 6001))


def test_damaged_arrow_files_are_one_line(tmp_path):
    pa.feather.write_feather(pd.DataFrame({"text": ["a"]}), tmp_path / "a.feather")
    for content in ((tmp_path / "a.feather").read_bytes()[:-100], b"text,label\n"):
        (tmp_path / "b.arrow").write_bytes(content)
        with pytest.raises(RecipeError, match=r"b\.arrow: is not a complete Arrow file \(.*: write it again") as error:
            rows_of(tmp_path / "b.arrow")
        assert "\n" not in str(error.value)
