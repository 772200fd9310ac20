"""First bytes: what a file is, whatever its name; packed ones are unpacked, others than tables and texts named and refused."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from recipe.errors import RecipeError, as_recipe_error

BLOCK = 1 << 20  # bytes read at once
PACKED = {  # first bytes -> what packed the file
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
PACKED_NAMES = (".gz", ".bz2", ".xz", ".zst", ".zip")
UNPACKING_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)
UNPACKING_ERRORS += (NotImplementedError, RuntimeError)  # of zip: an unknown method, a password

TABLES = {  # first bytes -> the kind of a table
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "Arrow",  # a stream
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "Excel",  # also an old Word document, which its reader refuses
}
SAVE_AS_TABLE = "save its texts and labels as CSV, JSON lines or Parquet"
REFUSED = (  # first bytes, what they tell, what to do
    (b"\x80\x02", "a pickle", f"loading one could run any code: {SAVE_AS_TABLE}"),
    (b"\x80\x03", "a pickle", f"loading one could run any code: {SAVE_AS_TABLE}"),
    (b"\x80\x04", "a pickle", f"loading one could run any code: {SAVE_AS_TABLE}"),
    (b"\x80\x05", "a pickle", f"loading one could run any code: {SAVE_AS_TABLE}"),
    (b"%PDF-", "a PDF document", SAVE_AS_TABLE),
    (b"SQLite format 3\0", "an SQLite database", SAVE_AS_TABLE),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", SAVE_AS_TABLE),
    (b"\x93NUMPY", "a numpy array", SAVE_AS_TABLE),
    (b"<stata_dta>", "a Stata file", SAVE_AS_TABLE),
    (b"$FL2", "an SPSS file", SAVE_AS_TABLE),
    (b"X\n\0\0\0", "an R file", SAVE_AS_TABLE),
    (b"FEA1", "a Feather file of version 1", SAVE_AS_TABLE),
    (b"Obj\x01", "an Avro file", SAVE_AS_TABLE),
    (b"{\\rtf", "an RTF document", SAVE_AS_TABLE),
    (b"\x89PNG", "a picture", "give a file of texts"),
    (b"\xff\xd8\xff", "a picture", "give a file of texts"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and give the file in it"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it, and give the file in it"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the data", "run `git lfs pull`"),
)
PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<!--")


class OpenFile(NamedTuple):
    """An open file, unpacked.

    name: its name without the ending of what packed it, or that of the only file in a zip archive.
    kind: "Parquet", "Arrow" or "Excel" by its first bytes; "" for any other.
    """

    file: io.BufferedReader
    name: str
    kind: str
    packing: str | None = None  # what packed it

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()


def check_readable(path: Path) -> None:
    """Raise RecipeError for a path that cannot be opened, or that can be read only once."""
    # ValueError: a NUL in the name.
    with as_recipe_error((OSError, ValueError), f"{str(path)[:200]}: cannot be read", "check the path"):
        if path.is_fifo() or path.is_char_device():
            raise ValueError("it is a pipe or a device, and is read twice: write it into a file first")
        path.open("rb").close()


def open_unpacked(path: Path, pages_allowed: bool = False) -> OpenFile:
    """Open a file, unpacked where its first bytes say that it is packed; refuse what holds no table and no texts.

    pages_allowed: an HTML page may be a text, as one of a folder, but is no table.
    """
    check_readable(path)
    file = io.BufferedReader(open(path, "rb", buffering=0), BLOCK)  # noqa: SIM115
    name = path.stem if path.suffix.lower() in PACKED_NAMES else path.name
    if packing := packing_of(file.peek(10)):
        with unpacking(path, packing):
            if packing == "zip":
                file, member = open_zip(path, file)
                if member is None:
                    return OpenFile(file, path.name, "Excel")
                name = os.path.basename(member)
            else:
                file = buffered(UNPACK[packing](file))
            file.peek(1)
    head = file.peek(512)
    kind = next((kind for first, kind in TABLES.items() if head.startswith(first)), "")
    what = next((what for first, *what in REFUSED if head.startswith(first)), None)
    if head[257:262] == b"ustar":
        what = "a tar archive", "unpack it, and give the file in it"
    elif packing_of(head):
        what = "packed twice", "unpack it once"
    elif not pages_allowed and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith(PAGES):
        what = "an HTML or XML page, such as that of a login or an error", "download the file again, or save it as CSV"
    if what:
        file.close()
        raise RecipeError(f"{path}: is {what[0]}: {what[1]}")
    return OpenFile(file, name, kind, packing)


def packing_of(head: bytes) -> str | None:
    """Return what packed a file with these first bytes, if anything did."""
    packing = next((kind for first, kind in PACKED.items() if head.startswith(first)), None)
    if packing == "bzip2" and head[4:10] not in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return None  # a text that begins with these letters
    return packing


def buffered(file: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(file, BLOCK)


UNPACK = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"),
}


def unpacking(path: Path, packing: str | None) -> AbstractContextManager[None]:
    """Turn the errors of reading, and of unpacking, into one line."""
    problem = f"is not a complete {packing} file" if packing else "cannot be read"
    return as_recipe_error(UNPACKING_ERRORS, f"{path}: {problem}", "copy it again")


def open_zip(path: Path, file: io.BufferedReader) -> tuple[io.BufferedReader, str | None]:
    """Open the only file in a zip archive, and return its name; a workbook, which is an archive too, as it is (None)."""
    archive = zipfile.ZipFile(file)
    hidden = ("__MACOSX/", ".")
    members = [x.filename for x in archive.infolist() if not x.is_dir() and not x.filename.startswith(hidden)]
    members = [name for name in members if not os.path.basename(name).startswith(".")]
    is_open_document = "mimetype" in members and b"spreadsheet" in archive.read("mimetype")
    if is_open_document or any(name.startswith("xl/") for name in members):
        file.seek(0)
        return file, None
    refused = {
        "word/": "a Word document",
        "ppt/": "slides",
        "mimetype": "an OpenDocument or e-book",
    }
    for start, what in refused.items():
        if any(name.startswith(start) for name in members):
            raise RecipeError(f"{path}: is {what}: {SAVE_AS_TABLE}")
    if any(name.endswith((".npy", "data.pkl")) for name in members):
        raise RecipeError(f"{path}: holds numpy arrays or a pickle: {SAVE_AS_TABLE}")
    if len(members) != 1:
        shown = ", ".join(members[:8]) + (", ..." if len(members) > 8 else "")
        what = f"is a zip archive of {len(members)} files ({shown})" if members else "is an empty zip archive"
        raise RecipeError(f"{path}: {what}: unpack it, and give the file with the texts")
    return buffered(archive.open(members[0])), members[0]
