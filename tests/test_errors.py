"""What a terminal would act on never reaches it from a text, a label or an error."""

import logging
import subprocess
import sys

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


def test_log_lines_are_harmless(capfd):
    logger = logging.getLogger("recipe")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    try:
        setup_logging(is_main_process=True)
        logging.getLogger("recipe.data").warning("a label %s", HOSTILE)
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    shown = capfd.readouterr().err
    assert "a label" in shown
    assert all(mark.isprintable() for mark in shown.replace("\n", ""))
