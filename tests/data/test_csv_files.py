"""CSV and TSV: delimiter, quotes, header."""

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from conftest import SMS, needs_sms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.data.columns import TEXT_AND_LABEL
from recipe.data.files import FileFormat, read_batches
from recipe.data.quoting import QuoteWatch
from recipe.errors import RecipeError

LABEL_TEXT = ("label", "text")


def read(path, content, wanted=TEXT_AND_LABEL, **options):
    """The rows of a file, as lists of cells, and their numbers."""
    path.write_bytes(content.encode())
    rows, numbers = [], []
    for batch in read_batches(path, wanted, FileFormat(**options)):
        columns = [x if isinstance(x, list) else x.to_pylist() for x in batch.columns]
        rows += [list(row) for row in zip(*columns, strict=True)]
        numbers += batch.rows
    assert numbers == sorted(numbers)
    return rows


# Quotes


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize(
    "rows", ['ham,one\nspam,"two\nham,three\nspam,four', 'ham,one\nspam,"two', 'ham,one\nspam,"', 'a,5" b\nspam,"two']
)
def test_a_quote_that_is_never_closed_is_refused_with_its_row(tmp_path, rows, end):
    content = f"label,text\n{rows}{end}"
    with pytest.raises(RecipeError, match=r"a\.csv: row 3 opens a quote that is never closed .*--csv_quoting none"):
        read(tmp_path / "a.csv", content)
    as_written = [line.split(",") for line in rows.split("\n")]
    assert read(tmp_path / "a.csv", content, csv_quoting="none") == as_written
    assert read(tmp_path / "a.tsv", content.replace(",", "\t")) == as_written


def test_rows_that_a_quote_swallows_in_the_middle_of_a_file_are_refused(tmp_path):
    many = "ham,fine\n" * 100_000
    content = f'label,text\nspam,"two\n{many}spam,"four\n{many}'
    with pytest.raises(
        RecipeError, match=r"row 2 opens a quote that closes some .*, or --csv_quoting minimal, which reads"
    ):
        read(tmp_path / "a.csv", content)
    with pytest.raises(RecipeError, match="row 100002 opens a quote that is never closed"):
        read(tmp_path / "a.csv", f'label,text\n{many}spam,"two\n{many}')


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ('spam,"two\nham,three\nspam,four"', "ham,three"),
        ('spam,"two\nham,four"', "ham,four"),
        ('"two,ham\nthree",spam', "two,ham"),
        ('7,"two\n8,four"', "8,four"),
    ],
)
def test_a_text_with_rows_in_it_is_warned_about(tmp_path, row, line, caplog):
    other = {'"': "one,ham\nyes,spam", "7": "1,one\n2,yes"}.get(row[0], "ham,one\nspam,yes")
    header = "text,label" if row.startswith('"') else "label,text"
    assert len(read(tmp_path / "a.csv", f"{header}\n{other}\n{row}\n")) == 3
    assert f"row 4 has a text of several lines, one of which looks like a row of its own ({line})" in caplog.text


def test_a_text_of_several_lines_is_no_reason_to_warn(tmp_path, caplog):
    texts = ["Dear all,\nI came, late\n\nham, he said", "a, b\nc", "Well,\nyes", "one\ntwo,three\nfour"]
    frame = pd.DataFrame({"label": ["ham", "spam"] * 2, "text": texts})
    rows = read(tmp_path / "a.csv", frame.to_csv(index=False))
    assert [row[1] for row in rows] == texts
    assert not caplog.text


def test_backslashes_before_quotes(tmp_path, caplog):
    comma = 'text,label\n"He said \\"hi\\", then left",ham\nplain,spam\n'
    without = comma.replace('",', '"').replace('"ham', '",ham').replace('\\""', '\\" ')
    for content in (comma, without):
        with pytest.raises(RecipeError, match=r"row 2 has a quote after a backslash .*give --csv_quoting backslash"):
            read(tmp_path / "a.csv", content)
    assert read(tmp_path / "a.csv", comma, csv_quoting="backslash") == [
        ['He said "hi", then left', "ham"],
        ["plain", "spam"],
    ]
    both = read(tmp_path / "a.csv", 'text,label\n"a ""b"" \\"c\\" \\\\",x\n', csv_quoting="backslash")
    assert both == [['a "b" "c" \\', "x"]]
    with pytest.raises(RecipeError, match="row 2 opens a quote that is never closed"):
        read(tmp_path / "a.csv", 'text,label\n"a \\",x\n', csv_quoting="backslash")
    path_and_quote = 'text,label\n"C:\\dir\\",x\n"a \\""b""",y\n'  # where a backslash is one
    assert read(tmp_path / "a.csv", path_and_quote) == [["C:\\dir\\", "x"], ['a \\"b"', "y"]]
    assert not caplog.text


def test_quotes_where_no_cell_begins_or_ends(tmp_path, caplog):
    assert read(tmp_path / "a.csv", 'text,label\na 5" screen,x\nb "c" d,y\n') == [
        ['a 5" screen', "x"],
        ['b "c" d', "y"],
    ]
    assert not caplog.text
    assert read(tmp_path / "a.csv", 'text,label\n"Hi" he said,x\n') == [["Hi he said", "x"]]
    assert "row 2 goes on after the quote that closes its cell" in caplog.text
    for content in ('label,text\nham, "Hi, you"\n', 'label,text\nham, "Hi"\n'):
        with pytest.raises(
            RecipeError, match=r"row 2 has a blank between delimiter and quote .*remove such blanks, or"
        ):
            read(tmp_path / "a.csv", content)


def test_lines_of_text_are_told_their_option(tmp_path):
    for name in ("a.txt", "a.csv"):
        with pytest.raises(RecipeError, match=r"Row #2: .*: give --column_names text if each line is a text"):
            read(tmp_path / name, "text\none, two\nthree\n", {"text": None})
        assert read(tmp_path / name, "text\none, two\nthree\n", {"text": None}, column_names=("text",))[0] == [
            "one, two"
        ]
        with pytest.raises(
            RecipeError, match=r"Row #2: Expected 1 columns, got 2: text,label.*if row 1 is none, remove"
        ):
            read(tmp_path / name, "# written today\ntext,label\none,a\n")


def test_ends_of_line_of_old_macs(tmp_path):
    assert read(tmp_path / "a.csv", "label,text\rham,one\rspam,two\r") == [["ham", "one"], ["spam", "two"]]
    with pytest.raises(RecipeError, match=r'row 3 opens a quote that is never closed \(spam,"two\)'):
        read(tmp_path / "a.csv", 'label,text\rham,one\rspam,"two\rham,three\r')


@pytest.mark.parametrize("content", ["label,text\nham,one\nspam,two, three\n", "label,text\nham,one\nspam\n"])
def test_rows_of_another_length_are_one_line_with_the_row(tmp_path, content):
    with pytest.raises(RecipeError, match=r"Row #3: Expected 2 columns, got .*--delimiter.*--csv_quoting") as error:
        read(tmp_path / "a.csv", content)
    assert "\n" not in str(error.value)
    with pytest.raises(
        RecipeError, match=r"Expected 2 columns, got 3: .* give each row, and the header, as many cells"
    ):
        read(tmp_path / "a.csv", '"text","label"\n"1","one","ham"\n')  # R's write.table, which names no rows


# Tabs


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('text\tlabel\n"He said ""hi"""\tham\nplain\tspam\n', [['He said "hi"', "ham"], ["plain", "spam"]]),
        ('text\tlabel\n"two\nlines"\tham\nplain\tspam\n', [["two\nlines", "ham"], ["plain", "spam"]]),
        ('text\tlabel\n"a\ttab"\tham\nplain\tspam\n', [["a\ttab", "ham"], ["plain", "spam"]]),
        ('"text"\tlabel\n"one"\tham\n"two"\tspam\n', [["one", "ham"], ["two", "spam"]]),
        ('text\tlabel\n"one, two"\tham\n"three, four"\tspam\n', [["one, two", "ham"], ["three, four", "spam"]]),
        # As it is written: stray quotes, a quoted text among others, and lines that are rows by themselves.
        ('text\tlabel\n"He said\tham\n"plain" one\tspam\n', [['"He said', "ham"], ['"plain" one', "spam"]]),
        ('text\tlabel\n"Hello"\tham\nplain\tspam\n', [['"Hello"', "ham"], ["plain", "spam"]]),
        (
            'text\tlabel\n"a, b"\tham\n"c, d"\tspam\ne, f\tham\n',
            [['"a, b"', "ham"], ['"c, d"', "spam"], ["e, f", "ham"]],
        ),
        ('text\tlabel\n"say\tx\nno"\ty\n', [['"say', "x"], ['no"', "y"]]),
        ('text\tlabel\n"He said ""hi"""\tham\n"lone\tspam\n', [['"He said ""hi"""', "ham"], ['"lone', "spam"]]),
    ],
)
def test_quotes_between_tabs_are_meant_where_all_are_as_pandas_writes_them(tmp_path, content, rows, caplog):
    caplog.set_level("INFO")
    assert read(tmp_path / "a.tsv", content) == rows
    assert ("its quotes are read as quotes of cells" in caplog.text) == ('"' not in str(rows[0][0])[:1])


@needs_sms
def test_stray_quotes_between_tabs_stay(tmp_path):
    rows = read(tmp_path / "a.txt", SMS.read_text(encoding="utf-8"), column_names=LABEL_TEXT)
    assert rows == [line.split("\t") for line in SMS.read_text(encoding="utf-8").splitlines()]


FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # caplog, which is cleared
)
CELLS = st.text(st.sampled_from('ab ,;\t\n"\\|é='), min_size=1, max_size=8).filter(str.strip)


@FEW
@given(st.lists(st.tuples(CELLS, st.sampled_from(["ham", "spam"])), min_size=2, max_size=8), st.sampled_from(",\t;"))
def test_what_pandas_writes_is_read_back(rows, delimiter):
    frame = pd.DataFrame([("plain", "ham"), *rows], columns=["text", "label"])
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.tsv" if delimiter == "\t" else "a.csv")
        content = frame.to_csv(index=False, sep=delimiter)
        found = read(path, content)
    is_ambiguous = delimiter == "\t" and not any(set(text) & set('\t\n"') for text, _ in rows)
    assert found == frame.values.tolist() or is_ambiguous


@FEW
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=6), st.integers(1, 7))
def test_well_formed_quotes_are_never_suspicious(rows, size):
    class Parts:
        content = pd.DataFrame(rows).to_csv(index=False).encode()

        def read(self, _):
            part, self.content = self.content[:size], self.content[size:]
            return part

    watch = QuoteWatch(Parts(), ",")
    while watch.read():
        pass
    assert not watch.is_suspicious


@settings(FEW, max_examples=300)
@given(st.lists(st.text(st.sampled_from('ab" ,\n\\'), min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_read_without_a_word_is_as_the_strict_parser_reads_it(caplog, texts):
    """Texts as a careless program writes them, without quoting."""
    caplog.clear()
    content = "label,text\n" + "".join(f"x{i},{text}\n" for i, text in enumerate(texts))
    with TemporaryDirectory() as folder:
        try:
            found = read(Path(folder, "a.csv"), content)
        except RecipeError:
            return
    if not caplog.text:
        strict = [row for row in csv.reader(content.splitlines(keepends=True), strict=True) if row]
        assert [[cell or "" for cell in row] for row in found] == strict[1:]


# Delimiter


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_the_delimiter_is_the_one_that_agrees_over_the_lines(tmp_path, delimiter, name):
    rows = [["one, two; three", "ham"], ["four, five", "spam"], ["six", "ham"]]
    lines = [delimiter.join(row).replace(";" if delimiter == ";" else "\0", ";") for row in rows]
    if delimiter == ";":
        rows[0][0] = "one, two three"
        lines[0] = "one, two three;ham"
    if delimiter == ",":
        rows = [[text.replace(",", ""), label] for text, label in rows]
        lines = [",".join(row) for row in rows]
    content = "\n".join(lines) + "\n"
    assert read(tmp_path / name, content, column_names=("text", "label")) == rows
    assert read(tmp_path / name, f"text{delimiter}label\n{content}") == rows


def test_a_comma_with_a_blank_after_it_is_the_texts_own(tmp_path):
    content = "i am tired, so tired;sadness\ni am glad, so glad;joy\n"
    rows = [["i am tired, so tired", "sadness"], ["i am glad, so glad", "joy"]]
    for name in ("a.csv", "a.txt"):
        assert read(tmp_path / name, content, column_names=("text", "label")) == rows
    assert read(tmp_path / "b.csv", "label, text\nx, a\n") == [["x", " a"]]


def test_a_mark_of_some_texts_is_not_taken_for_the_delimiter_since_there_are_names_too_few(tmp_path):
    content = 'joy,"a, b",\nfear,"c; d",\njoy,"e",\n'
    with pytest.raises(RecipeError, match="column_names gives 2 names, but row 1 has 3 columns: name each of them, or"):
        read(tmp_path / "a.csv", content, column_names=("label", "text"))


def test_the_line_in_which_excel_notes_the_delimiter_is_skipped(tmp_path):
    for line in ("sep=;", '"sep=;"', "SEP=;"):
        assert read(tmp_path / "a.csv", f"\ufeff{line}\r\ntext;label\r\na, b;x\r\n") == [["a, b", "x"]]
    assert read(tmp_path / "a.csv", "sep=,\n\nlabel,text\nx,a;b\n") == [["x", "a;b"]]
    assert read(tmp_path / "a.csv", "sep=;\nlabel|text\nx|a\n", delimiter="|") == [["x", "a"]]


# Header


@pytest.mark.parametrize(
    ("content", "names", "shown"),
    [
        ("v1,v2\nham,hello you\n", LABEL_TEXT, "'v1', 'v2'"),
        ("kind,words\n" + "ham,hello you\nspam,win now\n" * 5, LABEL_TEXT, "'kind', 'words'"),
        ("Class Index,Title,Description\n1,Short,A long text\n", ("label", "title", "text"), "'Class Index', 'Title'"),
        (",words,kind\n" + "0,hello you,ham\n1,win now,spam\n" * 5, ("id", "text", "label"), "'', 'words', 'kind'"),
    ],
)
def test_a_header_is_not_taken_for_a_row(tmp_path, content, names, shown):
    with pytest.raises(RecipeError, match=rf"row 1 \({shown}.*leave out --column_names .*or, if it is data, move it"):
        read(tmp_path / "a.csv", content, column_names=names)


def test_a_header_is_not_classified(tmp_path):
    with pytest.raises(RecipeError, match=r"row 1 \('id', 'v2'\) seems to name the columns"):
        read(tmp_path / "a.csv", "id,v2\n0,hello\n", {"text": None}, column_names=("id", "text"))
    with pytest.raises(RecipeError, match=r"row 1 \('v2'\) seems to name the columns"):
        read(tmp_path / "a.txt", "v2\nhello\n", {"text": None}, column_names=("text",))


@pytest.mark.parametrize(
    "content",
    [
        "ham,hello\nspam,win\n",
        "question,why\n" + "question,why not\nreview,fine\n" * 5,
        "rare,Hello there, you\n".replace(", you", "!") + "ham,hello\n" * 50,
        "5,hello\n" + "1,hello\n2,fine\n" * 10,
    ],
)
def test_a_first_row_of_data_is_a_row(tmp_path, content):
    rows = read(tmp_path / "a.csv", content, column_names=LABEL_TEXT)
    assert len(rows) == content.count("\n")
