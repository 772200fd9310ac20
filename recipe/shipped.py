"""Files that the package ships: gpt2-nano, the recipes and the scripts, found from any folder."""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
COMMAND = "gpt2-classifier"
SCRIPT = re.compile(r"(?<![\w/.-])(?:(?:accelerate launch --config_file \S+ |python )?scripts/)?(\w+)\.py(?![\w.])")


def shipped(path: str | None) -> str | None:
    """Return the path, or, if nothing is there, what the package ships under it: `recipe/...`, or a recipe's bare name."""
    if path is None or Path(path).exists():
        return path
    ours = PACKAGE.parent / path if path.startswith("recipe/") else PACKAGE / "configs" / path
    is_ours = path.startswith("recipe/") or path.endswith(".yaml")
    return str(ours) if is_ours and ours.exists() else path


def find_script(name: str) -> Path:
    """Return the path of a script: in a wheel scripts lie in the package, in a checkout beside it."""
    return next(path for path in (PACKAGE / "scripts", PACKAGE.parent / "scripts") if path.is_dir()) / f"{name}.py"


def is_command() -> bool:
    """Return whether a script was started as `gpt2-classifier X`: recipe/cli.py puts both words into sys.argv[0]."""
    return sys.argv[0].startswith(f"{COMMAND} ")


def as_typed(text: str) -> str:
    """Return a text with `gpt2-classifier X` in place of scripts/X.py, if that is how the user has started this one."""

    def typed(found: re.Match) -> str:
        is_ours = find_script(found[1]).is_file()
        return f"{COMMAND} {found[1].replace('_', '-').removesuffix('-model')}" if is_ours else found[0]

    return SCRIPT.sub(typed, text) if is_command() else text
