"""Files that the package ships: gpt2-nano and the recipes, found from any folder."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(path: str | None) -> str | None:
    """Return the path; one into `recipe/` that does not exist from here is that of the installed package."""
    installed = PACKAGE.parent / (path or "")
    is_ours = path is not None and path.startswith("recipe/") and not Path(path).exists()
    return str(installed) if is_ours and installed.exists() else path
