"""Errors of the user: one line that names the fix, and exit code 2; the parser of the scripts."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from recipe.shipped import as_typed, is_command


class RecipeError(ValueError):
    """Bad input: the message says what is wrong, where, and how to fix it, in one line."""


class OneLineErrors:
    """Mixin for argument parsers: raise the error alone, without the page of usage that argparse prints first.

    Their help shows commands as the user types them; of the command, also the recipes, which have no folder there.
    """

    def error(self, message: str) -> NoReturn:
        raise RecipeError(message)

    def format_help(self) -> str:
        text = as_typed(super().format_help())
        return text.replace("recipe/configs/", "") if is_command() else text


class OneLineParser(OneLineErrors, argparse.ArgumentParser):
    """The parser of a script, whose docstring is the description, printed unchanged."""

    def __init__(self, description: str | None):
        as_it_is = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=as_it_is, allow_abbrev=False)


def parse_probability(field: str, value: str | float, one_allowed: bool = False, instead: str = "") -> float:
    """Return the number, above 0 and below 1 (or up to 1); refusing another, name the word that is taken `instead`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (0 < number < 1 or (one_allowed and number == 1)):
        wanted = "above 0, up to 1, such as 0.9" if one_allowed else "between 0 and 1, such as 0.3"
        raise RecipeError(f"{field} is {value!r}: take {instead and f'{instead}, or '}a number {wanted}")
    return number


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: those of other libraries may have many."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def as_recipe_error(errors: type[Exception] | tuple[type[Exception], ...], problem: str, fix: str) -> Iterator[None]:
    """Raise `PROBLEM (the reason): FIX` as a RecipeError in place of other libraries' errors."""
    try:
        yield
    except RecipeError:
        raise
    except errors as error:
        reason = getattr(error, "strerror", None) or first_line(error)[:200]
        raise RecipeError(f"{problem} ({reason}): {fix}") from error


def printable(text: str) -> str:
    """Return a text with line breaks and tabs, but nothing else that acts on a terminal, such as escapes."""
    return "".join(mark if mark.isprintable() or mark in "\n\t" else "\N{REPLACEMENT CHARACTER}" for mark in text)


def shorten(text: str, width: int = 70) -> str:
    """Return a text on one line of a report."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 3] + "..."


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether a full disk, a quota or a limit on file sizes is behind an error of any library."""
    if error is None:
        return False
    words = ("No space left", "File too large", "Disk quota", "file write failed")  # the last is torch.save's
    numbers = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    here = getattr(error, "errno", None) in numbers or any(word in str(error) for word in words)
    return here or is_disk_full(error.__cause__ or error.__context__)


def user_message(error: Exception) -> str | None:
    """Return the line for an error that the user, or the user's machine, has to fix; None for one of ours."""
    if isinstance(error, RecipeError):
        return str(error)
    reason = first_line(error)[:200]
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in reason:
        return f"not enough memory ({reason}): lower per_device_train_batch_size or max_length, or free some"
    if is_disk_full(error):
        return f"the disk is full ({reason}): free some space, and run the same command again"
    is_of_network = isinstance(error, (ConnectionError, TimeoutError))
    if (isinstance(error, OSError) and not is_of_network) or kind == "SafetensorError":
        return f"a file cannot be read or written ({reason}): check the path and its permissions"
    return None


def stop_on_sigterm(*_: object) -> NoReturn:
    """Exit, so that unfinished files are removed on the way out; a training handles the signal by itself."""
    sys.exit(128 + signal.SIGTERM)


def end_process_group() -> None:
    """End what several processes share: one that exits after the first might abort otherwise, its work done."""
    torch = sys.modules.get("torch")  # not imported for this
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; an error that `user_message` knows ends it with one line on stderr and exit code 2, no traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(getattr(sys, name), "reconfigure"):  # a text may hold what the screen's encoding does not
            getattr(sys, name).reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, stop_on_sigterm)
    try:
        main()
        sys.stdout.flush()
        end_process_group()
    except BrokenPipeError:  # `... | head`
        print("stopped: the reader of the output has closed it", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        from tqdm import tqdm

        line = f"error: {printable(as_typed(' '.join(message.split())))}"
        tqdm.write(line, file=sys.stderr)  # on a line of its own, beside a bar
        try:
            sys.stdout.flush()
        except OSError:  # as in `> /dev/full`: what is left to print has no place
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)
