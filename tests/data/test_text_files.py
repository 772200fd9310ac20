"""Bytes to texts: encodings, packing, first bytes."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from recipe.data.files import FileFormat
from recipe.data.readers import read_file
from recipe.errors import RecipeError

TEXTS = ["Die Küche war groß", "plain", "das Mädchen hört früh"]
CSV = "text,label\n" + "".join(f"{text},{'ab'[i % 2]}\n" for i, text in enumerate(TEXTS))


def read(path, content, encoding=None, **options):
    path.write_bytes(content)
    return read_file(path, file_format=FileFormat(encoding=encoding, **options)).frame["text"].tolist()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_a_mark_is_read_as_it_comes(tmp_path, encoding):
    assert read(tmp_path / "a.csv", CSV.encode(encoding)) == TEXTS
    assert read(tmp_path / "b.csv", CSV.encode(encoding), "latin-1") == TEXTS  # the mark counts


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "gb18030", "utf-16-le", "utf-16-be", "utf-32-be", "UTF-8", "mac_roman"]
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
def test_other_encodings_are_read_where_they_are_named(tmp_path, encoding, name, monkeypatch):
    monkeypatch.setattr("recipe.data.text_files.BLOCK", 16)  # letters of several bytes across blocks
    lines = [json.dumps({"text": text, "label": "x"}, ensure_ascii=False) for text in TEXTS]
    content = {
        "a.csv": CSV,
        "a.tsv": CSV.replace(",", "\t"),
        "a.jsonl": "\n".join(lines),
        "a.json": f"[{','.join(lines)}]",
        "a.txt": "".join(f"__label__x {text}\n" for text in TEXTS),
    }[name]
    assert read(tmp_path / name, content.encode(encoding), encoding) == TEXTS


@pytest.mark.parametrize(
    ("text", "encoding", "likely"),
    [
        ("Die Küche war groß und das Mädchen hört früh", "cp1252", "cp1252"),
        ("it\u2019s cold", "cp1252", "cp1252"),
        ("a price of 5 £", "latin-1", "cp1252"),
        ("今天天气很好\uff0c我们去看电影吧。", "gb18030", "gb18030"),
        ("こんにちは、今日はいい天気ですね。", "shift_jis", "shift_jis"),
        ("Привет, как дела? Сегодня хорошая погода", "cp1251", "cp1251"),
        ("text,\n今天天气很好", "utf-16-le", "utf-16-le"),
        ("text,\n今天天气很好", "utf-16-be", "utf-16-be"),
    ],
)
def test_an_error_names_the_likely_encoding(tmp_path, text, encoding, likely):
    content = b"" if encoding.startswith("utf") else b"text,label\nplain,a\n"
    with pytest.raises(RecipeError, match=rf"a\.csv: .*--encoding {likely}\b"):
        read(tmp_path / "a.csv", content + text.encode(encoding))


def test_a_bad_byte_in_a_utf_8_file_is_to_be_corrected(tmp_path):
    with pytest.raises(RecipeError, match=r"line 5 is not UTF-8 \(byte 0xff\): the file is UTF-8 elsewhere: correct"):
        read(tmp_path / "a.csv", CSV.encode() + b"bad \xff,x\n")


def test_encodings_that_do_not_fit_are_refused(tmp_path):
    for name in ("klingon", "base64", "nul\0"):
        with pytest.raises(RecipeError, match=r"encoding is .*: take one that Python knows"):
            FileFormat(encoding=name)
    with pytest.raises(RecipeError, match=r"line 3 is not CP1252 \(byte 0x81\): give another --encoding"):
        read(tmp_path / "a.csv", b"text,label\nok,a\n\x81,b\n", "cp1252")
    with pytest.raises(RecipeError, match=r"is not unicode.escape: give another --encoding"):
        read(tmp_path / "c.csv", rb"text,label\n\ud800,a" + b"\n\xff", "unicode_escape")


def test_an_encoding_is_for_files_that_are_not_utf_8(tmp_path):
    assert read(tmp_path / "b.csv", CSV.encode(), "cp1252") == TEXTS


@pytest.mark.parametrize("end", ["\x1a", "\x1a\x1a", "\r\n\x1a"])
def test_the_ctrl_z_that_dos_put_at_an_end_is_dropped(tmp_path, end, monkeypatch):
    monkeypatch.setattr("recipe.data.text_files.BLOCK", 5)
    assert read(tmp_path / "a.csv", (CSV + end).encode()) == TEXTS
    assert read(tmp_path / "b.csv", b"text,label\na\x1ab,x\nc\x1a,y\n") == ["a\x1ab", "c\x1a"]


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


def zipped(**members):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
PACK["zip"] = lambda content: zipped(**{"folder/": "", "folder/a.csv": content, "__MACOSX/folder/._a.csv": "x"})


@pytest.mark.parametrize("packing", PACK)
def test_packed_files_are_read_whatever_their_name(tmp_path, packing, monkeypatch):
    monkeypatch.setattr("recipe.data.first_bytes.BLOCK", 4096)  # the damage below is met while rows are read
    packed = PACK[packing](CSV.encode())
    for name in (f"a.csv.{packing}", "a.csv", f"a.{packing}"):
        assert read(tmp_path / name, packed) == TEXTS
    with pytest.raises(RecipeError, match=r"b\.csv: is not a complete \w+ file \(.*: copy it again"):
        read(tmp_path / "b.csv", PACK[packing](os.urandom(30_000).hex().encode())[:-25])
    with pytest.raises(RecipeError, match="is packed twice: unpack it once"):
        read(tmp_path / "c.csv", gzip.compress(packed, mtime=0))


def test_files_packed_in_two_parts_are_read_to_their_end(tmp_path):
    for packing in ("gz", "bz2", "xz", "zst"):
        first, second = CSV[:20].encode(), CSV[20:].encode()
        assert read(tmp_path / "a.csv", PACK[packing](first) + PACK[packing](second)) == TEXTS, packing


def test_the_name_within_tells_the_format(tmp_path):
    lines = b'{"text": "a", "label": "x"}\n'
    assert read(tmp_path / "a.zip", zipped(**{"x.jsonl": lines})) == ["a"]
    assert read(tmp_path / "a.jsonl.xz", lzma.compress(lines)) == ["a"]
    assert read(tmp_path / "plain.csv.gz", CSV.encode()) == TEXTS  # as browsers unpack what they load
    assert read(tmp_path / "BZh.txt", b"text\tlabel\nBZh9\ta\n") == ["BZh9"]
    assert read(tmp_path / "b.txt", b"BZh9\ta\n", column_names=("text", "label")) == ["BZh9"]
    with pytest.raises(RecipeError, match=r"a zip archive of 2 files \(a\.csv, b\.csv\): unpack it, and give the file"):
        read(tmp_path / "two.zip", zipped(**{"a.csv": CSV, "b.csv": CSV}))
    with pytest.raises(RecipeError, match="is an empty zip archive"):
        read(tmp_path / "none.zip", zipped())


def tar(content):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"), io.BytesIO(content))
    return sink.getvalue()


def saved(array):
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1]), "is a pickle: loading one could run any code"),
        (tar(b""), "is a tar archive: unpack it"),
        (gzip.compress(tar(b""), mtime=0), "is a tar archive: unpack it"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF document: save its texts"),
        (b"SQLite format 3\0" + bytes(100), "is an SQLite database"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
        (b"<stata_dta><header>", "is a Stata file: save its texts and labels as CSV"),
        (gzip.compress(b"X\n\0\0\0\3", mtime=0), "is an R file"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "is a 7z archive: unpack it"),
        (b"Rar!\x1a\x07\x00" + bytes(100), "is a rar archive: unpack it"),
        (saved(np.zeros(3)), "is a numpy array"),
        (zipped(**{"arr_0.npy": "x"}), "holds numpy arrays or a pickle"),
        (zipped(**{"word/document.xml": "x", "a": "b"}), "is a Word document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is not a complete Excel workbook"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html>", "is an HTML or XML page, such as that of a login"),
        (b"<html><body>Sign in</body></html>", "is an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer, not the data: run `git lfs"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet", "a"])
def test_what_is_no_table_is_named_by_its_first_bytes(tmp_path, name, content, message):
    with pytest.raises(RecipeError, match=message) as error:
        read(tmp_path / name, content)
    assert "\n" not in str(error.value)
