import json

import pandas as pd
import pytest
from conftest import SMS, needs_sms

from recipe.errors import RecipeError
from recipe.reading import FileFormat, clean_text, read_file


def read(tmp_path, name, content, **kwargs):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(path, **kwargs)[["text", "label", "row"]].values.tolist()


def test_csv_cells_are_taken_as_written(tmp_path):
    content = 'text,label\n"a, ""b""",1\nNA,01\nnull,x\n,y\n"",z\n"two\nlines",w\n'
    expected = [['a, "b"', "1"], ["NA", "01"], ["null", "x"], [None, "y"], ["", "z"], ["two\nlines", "w"]]
    assert [row[:2] for row in read(tmp_path, "a.csv", content)] == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbflabel,text\r\nham,hello\r\n"),
        ("a.csv", "label;text\nham;hello\n"),
        ("a.tsv", "Label\tText\nham\thello\n"),
        ("a.txt", "label\ttext\nham\thello\n"),
        ("a.csv", '"id","category","message"\n1,"ham","hello"\n'),
        ("a.jsonl", '{"text": "hello", "label": "ham"}\n'),
        ("a.json", '{"label": "ham", "text": "hello", "other": [1]}'),
    ],
)
def test_formats_and_usual_columns_are_found(tmp_path, name, content):
    (row,) = read(tmp_path, name, content)
    assert row[:2] == ["hello", "ham"]


def test_rows_are_numbered_as_an_editor_shows_them(tmp_path):
    assert [row[2] for row in read(tmp_path, "a.csv", "text,label\na,x\nb,y\n")] == [2, 3]
    assert [
        row[2] for row in read(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 2}\n')
    ] == [1, 3]
    names = FileFormat(column_names=("label", "text"))
    assert read(tmp_path, "a.tsv", "x\ta\n", file_format=names) == [["a", "x", 1]]


def test_column_names_are_for_files_without_a_header(tmp_path):
    names = FileFormat(column_names=("label", "text"))
    assert read(tmp_path, "a.csv", "text,label\na,x\n", file_format=names) == [["a", "x", 2]]
    assert read(tmp_path, "a.csv", "t,l\na,x\n", file_format=names, text_column="t", label_column="l") == [
        ["a", "x", 2]
    ]
    with pytest.raises(RecipeError, match="gives 2 names, but row 1 has 3 columns"):
        read(tmp_path, "a.csv", "1,2,3\n", file_format=names)


def test_tabs_are_not_quoted_unless_told(tmp_path):
    content = 'text\tlabel\n"say\tx\nno" more\ty\n'
    assert [row[0] for row in read(tmp_path, "a.tsv", content)] == ['"say', 'no" more']
    quoted = 'text\tlabel\n"say ""hi"""\tx\n'
    assert read(tmp_path, "a.tsv", quoted, file_format=FileFormat(csv_quoting="minimal")) == [['say "hi"', "x", 2]]


def test_odd_texts_just_work(tmp_path):
    texts = ["nul \0 byte", "🎉 emoji", "مرحبا", "x" * 1_000_000]
    content = "".join(json.dumps({"text": text, "label": "a"}) + "\n" for text in texts)
    assert [row[0] for row in read(tmp_path, "a.jsonl", content)] == texts
    csv = pd.DataFrame({"text": texts, "label": "a"}).to_csv(index=False)
    assert [row[0] for row in read(tmp_path, "a.csv", csv)] == texts
    assert read(tmp_path, "s.jsonl", '{"text": "a\\ud800b \\ud83c\\udf89", "label": 1}')[0][0] == "a\ufffdb 🎉"
    assert clean_text("\udcff") == "\ufffd"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"text,label\n", "no rows under the header"),
        ("a.csv", b"text,label\nok,x\ncaf\xe9,y\n", r"line 3 is not UTF-8 \(byte 0xe9\)"),
        ("a.csv", b"text,label\na,b,c\n", "Row #2: Expected 2 columns, got 3"),
        ("a.csv", b"text,kind\na,b\n", "no column with a usual name.*'text', 'kind'.*--label_column"),
        ("a.csv", b"text,label,label\na,b,c\n", "two columns are called 'label'"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1 is a JSON list, not an object"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, name, content, message):
    with pytest.raises(RecipeError, match=message) as error:
        read(tmp_path, name, content)
    assert name in str(error.value)


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.csv: cannot be read \(No such file or directory\)"):
        read_file("nowhere.csv")
    with pytest.raises(RecipeError, match="no column 'msg' among 'text', 'label': name it with --text_column"):
        read(tmp_path, "a.csv", "text,label\na,b\n", text_column="msg")
    with pytest.raises(RecipeError, match="delimiter is '<>'"):
        read(tmp_path, "a.csv", "text,label\na,b\n", file_format=FileFormat(delimiter="<>"))


def test_a_column_of_texts_alone_keeps_its_empty_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\na\n\nb\n")
    assert read_file(path, needs_label=False)["text"].tolist() == ["a", None, "b"]


@needs_sms
@pytest.mark.parametrize(("quoting", "rows"), [("auto", 5574), ("minimal", 5572)])
def test_the_uci_file(quoting, rows):
    frame = read_file(SMS, file_format=FileFormat(column_names=("label", "text"), csv_quoting=quoting))
    assert len(frame) == rows
    pandas_quoting = {"auto": 3, "minimal": 0}[quoting]
    by_pandas = pd.read_csv(
        SMS, sep="\t", header=None, names=["label", "text"], quoting=pandas_quoting, keep_default_na=False
    )
    assert frame["text"].tolist() == by_pandas["text"].tolist()
    assert frame["label"].tolist() == by_pandas["label"].tolist()
