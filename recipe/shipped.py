"""Files that the package ships: gpt2-nano, the recipes and the scripts, found from any folder."""

from pathlib import Path

PACKAGE = Path(__file__).parent


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
