"""Text files: their bytes as UTF-8, whatever packed them and in whatever encoding they were written."""

import codecs
import io
import re
from pathlib import Path

from recipe.data.first_bytes import BLOCK, open_unpacked, unpacking
from recipe.errors import RecipeError

MARKS = {  # byte-order mark -> encoding; a mark of UTF-32 begins with one of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# What files without a mark are mostly in.
USUAL_ENCODINGS = ["cp1252", "gb18030", "shift_jis", "euc_jp", "big5", "euc_kr", "cp1251", "koi8_r", "cp1250", "cp1253"]
USUAL_ENCODINGS += ["cp1254", "cp1255", "cp1256"]
CTRL_Z = b"\x1a"


class Utf8File(io.BufferedReader):
    """A text file as UTF-8, unpacked, without a byte-order mark at its start and the Ctrl-Z that DOS put at its end."""

    def __init__(self, path: Path, encoding: str | None = None, start: int = 0, pages_allowed: bool = False):
        """Open the file, and skip the first `start` bytes.

        Args:
            encoding: of files that are not UTF-8; None refuses these. What has a mark is what its mark says.
        """
        if encoding and is_utf8(path):
            encoding = None
        super().__init__(Utf8Stream(path, encoding, pages_allowed), BLOCK)
        if self.peek(3).startswith(codecs.BOM_UTF8):
            self.read(3)
        self.read(start)


def split_lines(text: str) -> list[str]:
    """Return the lines with their ends, which are those of files; `splitlines` knows more."""
    return io.StringIO(text, newline="").readlines()


class Utf8Stream(io.RawIOBase):
    """The bytes of a text file in UTF-8; raises RecipeError, with the line, at the first that are not in its encoding."""

    def __init__(self, path: Path, encoding: str | None = None, pages_allowed: bool = False):
        self.path, self.line = path, 1
        opened = open_unpacked(path, pages_allowed)
        self.file, self.packing = opened.file, opened.packing
        head = self.file.peek(BLOCK)
        marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
        self.encoding = marked or codecs.lookup(encoding or "utf-8").name
        if encoding is None and not marked and (likely := utf_16_of(head[:1000])):
            what = "every second byte is NUL, as in UTF-16"
            raise RecipeError(f"{path}: {what}: give --encoding {likely}, or save the file as UTF-8")
        self.decoder = codecs.getincrementaldecoder(self.encoding)()
        self.ready = self.held = b""  # bytes that wait to be read; a Ctrl-Z that may be the last byte
        self.has_utf8 = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self.ready:
            with unpacking(self.path, self.packing):
                block = self.file.read(len(buffer))
            new = self.held + self.to_utf8(block)
            self.ready = new.rstrip(CTRL_Z)
            self.held = new[len(self.ready) :]
            if not block:
                break
        given = min(len(buffer), len(self.ready))
        buffer[:given], self.ready = self.ready[:given], self.ready[given:]
        return given

    def to_utf8(self, block: bytes) -> bytes:
        try:
            text = self.decoder.decode(block, final=not block)
            self.line += text.count("\n")
            self.has_utf8 = self.has_utf8 or not text.isascii()
            return block if self.encoding == "utf-8" else text.encode()
        except UnicodeDecodeError as error:
            content, start = error.object, error.start
            line = self.line + content[:start].decode(self.encoding, "replace").count("\n")
            where = f"line {line} is not {self.encoding.upper()} (byte 0x{content[start]:02x})"
            if self.encoding != "utf-8":
                raise RecipeError(f"{self.path}: {where}: give another --encoding, or correct the line") from error
            fix = advise(content, self.has_utf8)
            raise RecipeError(f"{self.path}: {where}: {fix}") from error
        except UnicodeError as error:  # of a codec that names no place, or gives lone surrogates
            raise RecipeError(f"{self.path}: is not {self.encoding}: give another --encoding") from error

    def close(self) -> None:
        if not self.closed and hasattr(self, "file"):
            self.file.close()
        super().close()


def utf_16_of(content: bytes) -> str | None:
    """Return the encoding in which every second byte of a text is NUL, if they are."""
    if content.count(0) <= len(content) / 4:
        return None
    width = 32 if content.count(0) > len(content) * 0.6 else 16
    return f"utf-{width}-le" if content[:1] != b"\0" else f"utf-{width}-be"


def advise(content: bytes, has_utf8: bool) -> str:
    """Return what to do about bytes that are not UTF-8, in a file with or without valid UTF-8 before them."""
    decoded = content.decode("utf-8", "replace")
    bad = decoded.count("\ufffd")
    valid = sum(not mark.isascii() for mark in decoded) - bad
    if has_utf8 or valid > 2 * bad:
        return "the file is UTF-8 elsewhere: correct that line"
    if content.count(0):
        return f"it seems UTF-16: give --encoding utf-16-{'be' if content[:1] == bytes(1) else 'le'}"
    return f"give its encoding, probably --encoding {likely_encoding(content)}, or save the file as UTF-8"


def likely_encoding(content: bytes) -> str:
    """Return which of the usual encodings a text that is not UTF-8 is probably in."""
    from charset_normalizer import from_bytes

    lines = [line for line in content.splitlines(keepends=True) if not line.isascii()]  # those that tell
    letters = re.findall(rb"[\x80-\xff]+", content)
    of_one_byte = sum(map(len, letters)) < 1.5 * len(letters)  # two of them seldom stand side by side
    candidates = [name for name in USUAL_ENCODINGS if name.startswith("cp") or not of_one_byte]
    results = from_bytes(b"".join(lines)[: 1 << 16], cp_isolation=candidates)
    best = results.best()
    equal = [match for match in results if match.chaos == best.chaos]  # as likely, but for the words that they give
    if best is None or any("cp1252" in match.could_be_from_charset for match in equal):  # the most common one
        return "cp1252"
    return best.encoding


def is_utf8(path: Path) -> bool:
    """Return whether all of a text file is UTF-8."""
    try:
        with Utf8Stream(path, None, pages_allowed=True) as stream:
            while stream.read(BLOCK):
                pass
    except RecipeError:
        return False
    return True
