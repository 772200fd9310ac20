import gzip
import json
import os

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import SMS, needs_sms

from recipe.arguments import DataArguments
from recipe.data.columns import TEXT_AND_LABEL, find_columns
from recipe.data.dataset import load_splits
from recipe.data.files import FileFormat
from recipe.data.readers import expand_paths, read_file, read_texts
from recipe.data.texts import clean_text
from recipe.errors import RecipeError


def read(tmp_path, name, content, file_format=FileFormat(), **columns):
    columns = {"text": columns.get("text_column"), "label": columns.get("label_column")}
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(path, columns, file_format)[0][["text", "label", "row"]].values.tolist()


def test_csv_cells_are_taken_as_written(tmp_path):
    content = 'text,label\n"a, ""b""",1\nNA,01\nnull,x\n,y\n"",z\n"two\nlines",w\n'
    expected = [['a, "b"', "1"], ["NA", "01"], ["null", "x"], [None, "y"], ["", "z"], ["two\nlines", "w"]]
    assert [row[:2] for row in read(tmp_path, "a.csv", content)] == expected
    nulls = read(tmp_path, "a.tsv", "text\tlabel\na\t\\N\n\\N\tb\n\\Nab\tc\n")
    assert [row[:2] for row in nulls] == [["a", None], [None, "b"], ["\\Nab", "c"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbflabel,text\r\nham,hello\r\n"),
        ("a.csv", "label;text\nham;hello\n"),
        ("a.csv", "label|text\nham|hello\n"),
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
        ("a.csv", "text,label\na,b\n".encode("utf-16-le"), "as in UTF-16: give --encoding utf-16-le"),
        ("a.tsv", b"text|label\na|b\n", "give the --delimiter that stands between the columns"),
        ("a.csv", b"text,kind\na,b\n", "no column with a usual name.*'text', 'kind'.*--label_column"),
        ("a.csv", b"text,label,label\na,b,c\n", "two columns are called 'label'"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1, 2]\n[1, 2]\n", "line 1 is a JSON list, not an object"),
    ],
)
def test_broken_files_are_refused_with_the_place(tmp_path, name, content, message):
    with pytest.raises(RecipeError, match=message) as error:
        read(tmp_path, name, content)
    assert name in str(error.value)


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.csv: cannot be read \(No such file or directory\)"):
        read_file("nowhere.csv")
    with pytest.raises(RecipeError, match="no column 'msg' among 'text', 'label': name it with --text_column"):
        read(tmp_path, "a.csv", "text,label\na,b\n", text_column="msg")
    with pytest.raises(RecipeError, match="column 'text' is given for two fields"):
        read_file(tmp_path / "a.csv", {"text": "text", "text_2": "text"})
    with pytest.raises(RecipeError, match="the column 'text' is taken for another field: give --text_column"):
        read(tmp_path, "a.csv", "text,label\na,b\n", label_column="text")
    with pytest.raises(RecipeError, match="delimiter is ''"):
        read(tmp_path, "a.csv", "text,label\na,b\n", file_format=FileFormat(delimiter=""))
    with pytest.raises(RecipeError, match="delimiter is '<>'"):
        read(tmp_path, "a.csv", "text,label\na,b\n", file_format=FileFormat(delimiter="<>"))


def test_a_pipe_is_refused_since_it_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(RecipeError, match="it is a pipe or a device, and is read twice: write it into a file"):
        read_file(tmp_path / "pipe.csv")


def test_a_column_of_texts_alone_keeps_its_empty_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\na\n\nb\n")
    assert read_file(path, {"text": None})[0]["text"].tolist() == ["a", None, "b"]


@needs_sms
@pytest.mark.parametrize(("quoting", "rows"), [("auto", 5574), ("minimal", 5572)])
def test_the_uci_file(quoting, rows):
    frame, *_ = read_file(SMS, file_format=FileFormat(column_names=("label", "text"), csv_quoting=quoting))
    assert len(frame) == rows
    pandas_quoting = {"auto": 3, "minimal": 0}[quoting]
    by_pandas = pd.read_csv(
        SMS, sep="\t", header=None, names=["label", "text"], quoting=pandas_quoting, keep_default_na=False
    )
    assert frame["text"].tolist() == by_pandas["text"].tolist()
    assert frame["label"].tolist() == by_pandas["label"].tolist()


ROWS = pd.DataFrame({"text": ['a, "b"', "two\nlines", "", "🎉"], "label": ["x", "y", "x", "y"]})


def write_formats(folder, frame):
    """One frame in each format, by pandas, pyarrow and datasets; the folder's files and what is in it."""
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_json(folder / "a.jsonl", orient="records", lines=True, force_ascii=False)
    frame.to_parquet(folder / "a.parquet")
    datasets.Dataset.from_pandas(frame).save_to_disk(folder / "saved")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    return sorted(folder.iterdir())


def test_every_format_reads_the_same(tmp_path):
    frame = ROWS[ROWS["text"] != ""]  # pandas writes an empty text as a missing one
    paths = write_formats(tmp_path, frame)
    assert len(paths) == 7
    for path in paths:
        found, *_ = read_file(path)
        assert found[["text", "label"]].values.tolist() == frame.values.tolist(), path
        assert found["row"].tolist() == ([2, 3, 4] if ".csv" in path.name else [1, 2, 3]), path


def test_parquet_as_other_tools_write_it(tmp_path):
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=names).to_parquet(tmp_path / "names.parquet")
    frame, names, _ = read_file(tmp_path / "names.parquet")
    assert frame["label"].tolist() == ["yes", "no", None]
    assert names == ["no", "yes"]
    names = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=names))}
    )
    rows["label"] = [[1], [0, 1], []]
    datasets.Dataset.from_dict(rows, features=names).to_parquet(tmp_path / "lists.parquet")
    frame, names, _ = read_file(tmp_path / "lists.parquet")
    assert (frame["label"].tolist(), names) == ([["yes"], ["no", "yes"], []], ["no", "yes"])
    table = pa.table({"text": pa.array([b"caf\xc3\xa9", None], pa.binary()), "label": pa.array([1, 2], pa.int8())})
    pa.parquet.write_table(table, tmp_path / "binary.parquet")
    assert read_file(tmp_path / "binary.parquet")[0]["text"].tolist() == ["café", None]
    categories = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])})
    categories.to_parquet(tmp_path / "categories.parquet")
    assert read_file(tmp_path / "categories.parquet")[0]["label"].tolist() == ["x", "y"]
    pa.parquet.write_table(pa.table({"text": [b"\xff"], "label": [1]}), tmp_path / "bytes.parquet")
    with pytest.raises(RecipeError, match=r"bytes\.parquet: column 'text' cannot be read \(.*UTF8"):
        read_file(tmp_path / "bytes.parquet")


def test_a_damaged_file_is_one_line(tmp_path):
    packed = gzip.compress(b"text,label\n" + b"some text,a\n" * 1000)
    for name, content in {
        "cut": packed[:-20],
        "flipped": packed[:20] + b"\0" * 30,
    }.items():
        (tmp_path / f"{name}.csv.gz").write_bytes(content)
        with pytest.raises(
            RecipeError, match=rf"{name}\.csv\.gz: is not a complete gzip file \(.*copy it again"
        ) as error:
            read_file(tmp_path / f"{name}.csv.gz")
        assert "\n" not in str(error.value)
    ROWS.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-50])
    with pytest.raises(RecipeError, match=r"cut\.parquet: is not a complete Parquet file"):
        read_file(tmp_path / "cut.parquet")


def test_folders_that_datasets_saved(tmp_path):
    dataset = datasets.Dataset.from_pandas(ROWS)
    dataset.select([3, 1]).save_to_disk(tmp_path / "one")
    assert read_file(tmp_path / "one")[0][["text", "row"]].values.tolist() == [["🎉", 1], ["two\nlines", 2]]
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "both")
    with pytest.raises(RecipeError, match=r"holds several splits: give it as --dataset_name.*both/train, .*both/test"):
        read_file(tmp_path / "both")
    assert len(read_file(tmp_path / "both" / "test")[0]) == 4
    with pytest.raises(RecipeError, match="is a folder that `datasets` did not save"):
        read_file(tmp_path)
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(RecipeError, match=r"one' cannot be loaded .*save it again"):
        read_file(tmp_path / "one")


@pytest.mark.parametrize("name", ["\ufeffText ", " text", "text\u00a0"])
def test_a_header_may_have_spaces_and_a_byte_order_mark(tmp_path, name):
    table = pa.table({name: ["hello"], "label ": ["ham"]})
    pa.csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "a.tsv").write_text(f"\ufeff{name}\tlabel \nhello\tham\n")
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps({name: "hello", "label ": "ham"}))
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    for path in tmp_path.iterdir():
        assert read_file(path)[0][["text", "label"]].values.tolist() == [["hello", "ham"]], path
        column = name.strip(" \ufeff\u00a0")
        assert read_file(path, {"text": f"{column} ", "label": "label"})[0]["text"].tolist() == ["hello"]


def test_joined_files_may_hold_a_byte_order_mark_in_the_middle(tmp_path):
    line = "\ufeff" + '{"text": "a", "label": "x"}\n'
    assert [row[0] for row in read(tmp_path, "a.jsonl", line * 2)] == ["a", "a"]


def test_column_names_that_differ_only_by_spaces_are_refused(tmp_path):
    for name, content in {
        "a.jsonl": '{"text": "a", " text": "b", "label": 1}',
        "a.csv": "text,text ,label\na,b,c\n",
    }.items():
        with pytest.raises(RecipeError, match="two columns are called 'text'"):
            read(tmp_path, name, content)


def test_extra_columns_are_not_taken_for_the_text(tmp_path):
    (tmp_path / "a.csv").write_text("body,title,label,who\nanswer,question,x,me\n")
    columns = {"text": None, "label": None, "text_2": "body", "group": "who", "time": None}
    frame, *_ = read_file(tmp_path / "a.csv", columns)
    assert frame.iloc[0].to_dict() == {"text": "question", "label": "x", "text_2": "answer", "group": "me", "row": 2}
    with pytest.raises(RecipeError, match=r"no column 'when' among .*: name it with --time_column"):
        read_file(tmp_path / "a.csv", {"time": "when"})


def test_globs_are_sorted_and_must_match(tmp_path):
    for name in ("b.csv", "a.csv", "c[1].csv", "sub/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def expand(*patterns):
        paths = expand_paths([str(tmp_path / pattern) for pattern in patterns], "train_file")
        return [path.removeprefix(f"{tmp_path}/") for path in paths]

    assert expand("*.csv") == ["a.csv", "b.csv", "c[1].csv"]
    assert expand("c[1].csv", "b.csv") == ["c[1].csv", "b.csv"]
    assert expand("b.csv", "*.csv", "**/*.csv") == ["b.csv", "a.csv", "c[1].csv", "sub/d.csv"]
    assert expand("nowhere.csv") == ["nowhere.csv"]  # whose reading says that it is not there
    with pytest.raises(RecipeError, match=r"train_file '.*/\*\.txt' matches no file"):
        expand("*.txt")


def test_a_first_row_with_a_comma_in_quotes_is_a_row(tmp_path):
    (tmp_path / "x.csv").write_text('ham,"Hello, you\nthere"\nspam,"Win ""now"""\n')
    frame, *_ = read_file(tmp_path / "x.csv", file_format=FileFormat(column_names=("label", "text")))
    assert frame["text"].tolist() == ["Hello, you\nthere", 'Win "now"']
    assert frame["row"].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["x" * 300, "nul\0"])
def test_an_impossible_path_is_refused(name, tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_file(tmp_path / f"{name}.csv")
    assert expand_paths([str(tmp_path / name)], "train_file") == [str(tmp_path / name)]  # refused when it is read


def test_times_out_of_range_are_refused(tmp_path):
    cells = {"text": ["a"], "label": pa.array([253402300800000], pa.timestamp("ms"))}
    pa.parquet.write_table(pa.table(cells), tmp_path / "x.parquet")
    with pytest.raises(RecipeError, match="column 'label' cannot be read"):
        read_file(tmp_path / "x.parquet")


def test_arrays_of_json_objects_are_read(tmp_path):
    content = '[\n  {"text": "a", "label": 1},\n  {"text": null, "label": "x"}\n]\n'
    assert read(tmp_path, "a.json", content) == [["a", 1, 1], [None, "x", 2]]
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(content.encode()))
    assert read_file(tmp_path / "b.json.gz")[0]["text"].tolist() == ["a", None]
    with pytest.raises(
        RecipeError,
        match=r"a\.json: array is not JSON \(.*line 2 .*an array of objects, or one object a line, is needed",
    ):
        read(tmp_path, "a.json", '[{"text": "a"},\n{"text": }]')
    with pytest.raises(RecipeError, match="item 2 of the array is a JSON int, not an object"):
        read(tmp_path, "a.json", '[{"text": "a"}, 2]')
    with pytest.raises(RecipeError, match="no rows under the header"):
        read(tmp_path, "a.json", "[]")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "saved"])
def test_texts_come_in_batches_with_their_other_columns(tmp_path, name, monkeypatch):
    count = 25
    frame = pd.DataFrame({"id": range(count), "text": [f"text {i}" * 20_000 for i in range(count)], "x": "y"})
    monkeypatch.setattr("recipe.data.batches.BATCH_ROWS", 10)
    path = tmp_path / name
    if name == "saved":
        datasets.Dataset.from_pandas(frame).save_to_disk(path)
    elif name == "a.parquet":
        frame.to_parquet(path)
    elif name == "a.csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    batches = list(read_texts(path, {"text": None}, FileFormat(max_row_mb=1)))
    assert len(batches) > 2
    assert [text for texts, _ in batches for text in texts] == frame["text"].tolist()
    assert [str(i) for _, others in batches for i in others["id"]] == [str(i) for i in range(count)]
    assert {tuple(others) for _, others in batches} == {("id", "x")}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_a_row_that_is_too_large_is_refused_before_it_takes_the_memory(tmp_path, name):
    frame = pd.DataFrame({"text": ["short", "long" * 1_000_000], "label": "x"})
    write = {"a.jsonl": lambda path: frame.to_json(path, orient="records", lines=True), "a.parquet": frame.to_parquet}
    write.get(name, lambda path: frame.to_csv(path, index=False))(tmp_path / name)
    with pytest.raises(RecipeError, match=f"{name}: .*raise --max_row_mb"):
        read_file(tmp_path / name, file_format=FileFormat(max_row_mb=2))
    assert len(read_file(tmp_path / name, file_format=FileFormat(max_row_mb=5)).frame) == 2


def test_bytes_that_are_no_text_are_refused_with_their_line_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.data.text_files.BLOCK", 64)
    good = "text,label\n" + "".join(f"naïve text {i},a\n" for i in range(50))
    for cut in (100, 101, 102, 103, 517):
        line = good.encode()[:cut].count(b"\n") + 1
        broken = good.encode()[:cut].rstrip(b"\xc3") + b"\xff" + good.encode()[cut:]
        with pytest.raises(RecipeError, match=rf"line {line} is not UTF-8 \(byte 0xff\)"):
            read(tmp_path, "a.csv", broken)


def test_a_long_row_among_short_ones_changes_nothing_else(tmp_path):
    """It takes a larger block than the others, from where on the file is read again."""
    texts = [f"text {i} " * 40 for i in range(6000)]
    texts[5900] = "long " * 500_000
    frame = pd.DataFrame({"text": texts, "label": [str(i) for i in range(6000)]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    read = read_file(tmp_path / "a.csv").frame
    assert read["text"].tolist() == texts
    assert read["label"].tolist() == frame["label"].tolist()
    assert read["row"].tolist() == list(range(2, 6002))


def test_other_columns_never_stop_a_prediction(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("x,text,x\n1,hello,2\n")
    ((_, others),) = read_texts(tmp_path / "a.csv", {"text": None})
    assert others == {"x": ["1"], "x.1": ["2"]}
    picture = pa.table({"text": ["hello"], "picture": pa.array([b"\xff\xd8"], pa.binary())})
    pa.parquet.write_table(picture, tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet", {"text": None})) == [(["hello"], {})]
    assert "column 'picture' cannot be read" in caplog.text
    lines = [json.dumps({"text": "x", **({"late": i} if i > 2500 else {})}) for i in range(3000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    *_, (_, others) = read_texts(tmp_path / "a.jsonl", {"text": None})
    assert others["late"][-1] == 2999


def test_answers_are_not_taken_for_given_labels(tmp_path):
    """predict.py's output beside the labels of its input; corrected answers alone are labels as any."""
    path = tmp_path / "answers.csv"
    path.write_text("text,label,probability_a,probability_b,input_label\nx,a,0.9,0.1,b\n")
    with pytest.raises(RecipeError, match=r"label is what predict\.py answered.*: give --label_column input_label, or"):
        find_columns(str(path), path.read_text().splitlines()[0].split(","), TEXT_AND_LABEL)
    for wanted in ({"text": None, "label": "label"}, {"text": None}):
        assert "text" in find_columns("x", ["text", "label", "probability_a", "input_label"], wanted)
    assert find_columns("x", ["text", "label", "probability_a"], TEXT_AND_LABEL)["label"] == "label"


def test_a_data_set_of_csv_files_is_read_as_train_file_reads_them(tmp_path):
    """`datasets` would merge 001 and 1, and take N/A for a missing label."""
    rows = [(f"text {i}", label) for i, label in enumerate(["001", "1", "N/A", "None"] * 10)]
    (tmp_path / "data").mkdir()
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "data" / "train.csv", index=False)
    datasets.load_dataset(str(tmp_path / "data"))  # whose features it caches, and which are not taken
    assert load_splits(DataArguments(dataset_name=str(tmp_path / "data"))).label_names == ["001", "1", "N/A", "None"]
    pd.DataFrame({"id": [1], "text": ["secret"]}).to_csv(tmp_path / "data" / "test.csv", index=False)
    folder = load_splits(DataArguments(dataset_name=str(tmp_path / "data")))
    file = load_splits(DataArguments(train_file=str(tmp_path / "data" / "train.csv")))
    assert folder.label_names == file.label_names == ["001", "1", "N/A", "None"]
    assert all(folder[split].to_dict() == file[split].to_dict() for split in file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("category,text,sentiment", "labels are read from 'category', and 'sentiment' might be meant: --label_column"),
        ("target,text,stance", "labels are read from 'stance', and 'target' might be meant: --label_column"),
        ("label,title,description", "texts are read from 'title', and 'description' might be meant: --text_column"),
        ("label,text,notes", None),
    ],
)
def test_guesses_among_several_columns_are_warned_about(tmp_path, caplog, header, message):
    long, short = "a longer text of several words", "short"
    cells = {"category": "x", "label": "x", "sentiment": "y", "title": short, "description": long, "text": long}
    row = ",".join(cells.get(name, short) for name in header.split(","))
    (tmp_path / "a.csv").write_text(f"{header}\n{row}\n")
    read_file(tmp_path / "a.csv")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message in warning for warning in warnings] == ([True] if message else [])


def test_missing_cells_of_all_fields_are_named_at_once_or_dropped_and_counted(tmp_path):
    rows = "".join(f"title {i},body {i},{'xy'[i % 2]}\n" for i in range(20))
    (tmp_path / "a.csv").write_text(f"title,body,label\n{rows},,x\n,b,x\nt,,\n")
    args = {"train_file": str(tmp_path / "a.csv"), "text_column": ["title", "body"]}
    with pytest.raises(RecipeError) as refused:
        load_splits(DataArguments(**args))
    assert "row 22 has no text (column 'title'); row 24 has no label (column 'label'): fill in" in str(refused.value)
    splits = load_splits(DataArguments(**args, drop_missing=True))
    assert splits.summary["missing_dropped"] == {"train": 2}
    assert sum(splits.summary["texts"].values()) == 21
    texts = {text for split in splits for text in splits[split]["text"]}
    assert {"title 3\nbody 3", "\nb"} <= texts
    assert splits.summary["columns"] == {"text_column": ["title", "body"], "label_column": "label"}


def test_a_test_without_labels_is_for_predict(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t {i},{'xy'[i % 2]}\n" for i in range(20)))
    for content in ("text,label\na,\nb,\n", "text,id\na,1\n"):
        (tmp_path / "test.csv").write_text(content)
        with pytest.raises(RecipeError, match=r"test\.csv: .*predict\.py"):
            load_splits(DataArguments(train_file=str(tmp_path / "a.csv"), test_file=str(tmp_path / "test.csv")))


def test_other_files_may_call_a_column_otherwise_but_the_training_files_name_comes_first(tmp_path):
    (tmp_path / "a.csv").write_text("Title,label\n" + "".join(f"t {i},{'xy'[i % 2]}\n" for i in range(20)))
    (tmp_path / "test.csv").write_text("text,title,label\nwrong,right,x\n")
    (tmp_path / "valid.csv").write_text("message,category\nhello,x\n")
    files = {
        f"{split}_file": str(tmp_path / f"{name}.csv")
        for split, name in (("train", "a"), ("validation", "valid"), ("test", "test"))
    }
    splits = load_splits(DataArguments(**files))
    assert splits["test"]["text"][:] == ["right"]
    assert splits["validation"]["text"][:] == ["hello"]


def test_a_json_document_of_several_splits_is_for_train_file_alone(tmp_path):
    rows = [{"text": f"t {i}", "label": "xy"[i % 2]} for i in range(20)]
    splits = {"train": rows[2:], "dev": rows[:2], "test": [{"text": "u", "label": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(splits))
    assert load_splits(DataArguments(train_file=str(tmp_path / "a.json")))["test"]["text"][:] == ["u"]
    with pytest.raises(RecipeError, match="holds the splits train, dev, test: write the one to read into a file"):
        read_file(tmp_path / "a.json")


def test_a_header_is_found_where_column_names_are_given_too(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t {i},{'xy'[i % 2]}\n" for i in range(20)))
    splits = load_splits(DataArguments(train_file=str(tmp_path / "a.csv"), column_names=["label", "text"]))
    assert splits.label_names == ["x", "y"]
    assert sum(splits.summary["texts"].values()) == 20


def test_empty_texts_are_warned_about_or_dropped(tmp_path, caplog):
    rows = "".join(f"t {i},{'xy'[i % 2]}\n" for i in range(20))
    (tmp_path / "a.csv").write_text(f'text,label\n{rows}"",x\n"  ",y\n')
    assert sum(load_splits(DataArguments(train_file=str(tmp_path / "a.csv"))).summary["texts"].values()) == 21
    assert "a.csv: rows 22, 23 (2 in all) have an empty text, read as <|endoftext|>: --drop_missing" in caplog.text
    dropped = load_splits(DataArguments(train_file=str(tmp_path / "a.csv"), drop_missing=True))
    assert dropped.summary["missing_dropped"] == {"train": 2}
