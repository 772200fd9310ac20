"""What a terminal would act on never reaches it from a text, a label or an error."""

import logging
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from recipe.distributed import setup_logging
from recipe.errors import printable, shorten

HOSTILE = "\x1b[2J\x1b]0;title\x07 plain \u202egnirts\u202c \x9b31m \x00 caf\u00e9 \U0001f389"


def test_printable_keeps_what_people_write_and_nothing_that_acts():
    assert printable("Grüße, 你好 🎉\tand\nmore") == "Grüße, 你好 🎉\tand\nmore"
    shown = printable(HOSTILE)
    assert all(mark.isprintable() for mark in shown)
    for word in ("plain", "gnirts", "café 🎉"):
        assert word in shown
    assert "\n" not in shorten("a\nb\x1b[1mc")


def test_errors_reach_the_screen_in_one_harmless_line():
    program = f"from recipe.errors import *\ndef main(): raise RecipeError({HOSTILE!r} + 'a\\nb')\nrun_script(main)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert all(mark.isprintable() for mark in result.stderr.rstrip("\n"))


def run_main(main, shell="{}"):
    """A script in a shell, which may close its streams."""
    program = f"from recipe.errors import *\ndef main():\n    {main}\nrun_script(main)"
    command = shell.format(f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}")
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT)


def test_a_closed_screen_fails_no_script():
    result = run_main("print('done'); open('/dev/stderr', 'w').write('worked')", "{} >&-")
    assert (result.returncode, result.stderr) == (0, "worked")


def test_a_reader_that_leaves_is_told():
    result = run_main("[print('x' * 1000) for _ in range(1000)]", "{} | head -1")
    assert result.returncode == 1
    assert result.stderr == "stopped: the reader of the output has closed it\n"


@pytest.mark.parametrize(
    "main", ["bytearray(1 << 60)", 'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")']
)
def test_too_little_memory_is_one_line(main):
    result = run_main(main)
    assert result.returncode == 2
    assert result.stderr.startswith("error: not enough memory (")
    assert result.stderr.count("\n") == 1


def test_log_lines_are_harmless(capfd):
    setup_logging(is_main_process=True)
    logging.getLogger("recipe.data").warning("a label %s", HOSTILE)
    shown = capfd.readouterr().err
    assert "a label" in shown
    assert all(mark.isprintable() for mark in shown.replace("\n", ""))
