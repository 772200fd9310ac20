"""Files that the package ships: gpt2-nano, the recipes and the scripts, found from any folder."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(path: str | None) -> str | None:
    """Return the path; one into `recipe/` that does not exist from here is that of the installed package."""
    installed = PACKAGE.parent / (path or "")
    is_ours = path is not None and path.startswith("recipe/") and not Path(path).exists()
    return str(installed) if is_ours and installed.exists() else path


def find_script(name: str) -> Path:
    """Return the path of a script: in a wheel scripts lie in the package, in a checkout beside it."""
    return next(path for path in (PACKAGE / "scripts", PACKAGE.parent / "scripts") if path.is_dir()) / f"{name}.py"
