"""The bytes of a text file: unpacked, known to be UTF-8, without what programs leave at its start."""

import codecs
import gzip
import io
import zlib
from pathlib import Path

from recipe.errors import RecipeError, as_recipe_error

BLOCK = 1 << 20  # bytes read at once


def check_readable(path: Path) -> None:
    """Raise RecipeError for a path that cannot be opened, or that can be read only once."""
    # ValueError: a NUL in the name.
    with as_recipe_error((OSError, ValueError), f"{str(path)[:200]}: cannot be read", "check the path"):
        if path.is_fifo() or path.is_char_device():
            raise ValueError("it is a pipe or a device, and is read twice: write it into a file first")
        path.open("rb").close()


class Utf8File(io.BufferedReader):
    """The bytes of a text file, unpacked where its name ends in .gz, without a byte-order mark, and known to be UTF-8."""

    def __init__(self, path: Path, leading: bytes = b""):
        """Open the file and skip the `leading` bytes, such as blank lines, at its start."""
        super().__init__(CheckedBytes(path), BLOCK)
        if self.peek(3).startswith(codecs.BOM_UTF8):
            self.read(3)
        while leading and self.peek(1)[:1] and self.peek(1)[:1] in leading:
            self.read(1)
        if not self.peek(1).strip(b" \t\r\n") and not self.peek(BLOCK).strip():
            raise RecipeError(f"{path}: the file is empty: give a file with at least one text")


class CheckedBytes(io.RawIOBase):
    """The unpacked bytes of a file; raises RecipeError, with the line, at the first that are not UTF-8."""

    def __init__(self, path: Path):
        self.path, self.decoder, self.line = path, codecs.getincrementaldecoder("utf-8")(), 1
        check_readable(path)
        self.file = (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        fix = "copy it again, or drop the .gz if it is not packed"
        with as_recipe_error((OSError, EOFError, zlib.error), f"{self.path}: is not a complete gzip file", fix):
            block = self.file.read(len(buffer))
        try:
            self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = self.line + error.object.count(b"\n", 0, error.start)
            byte = error.object[error.start]
            is_gzip = self.line == 1 and error.object.startswith(b"\x1f\x8b")
            fix = "it is gzip: give it a name that ends in .gz" if is_gzip else "save the file as UTF-8"
            raise RecipeError(f"{self.path}: line {line} is not UTF-8 (byte 0x{byte:02x}): {fix}") from error
        if self.line == 1 and block[:1000].count(b"\0") > len(block[:1000]) / 4:
            raise RecipeError(f"{self.path}: every second byte is NUL, as in UTF-16: save the file as UTF-8")
        self.line += block.count(b"\n")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()
