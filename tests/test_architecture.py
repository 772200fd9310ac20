"""The shape of the package: imports between packages one way, no circles, a core without the optional parts, small modules."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

from recipe import MODULES

# What a package may import, beside itself. `top` is the modules directly in recipe/.
ARROWS = {
    "top": {"top"},
    "data": {"top"},
    "model": {"top"},
    "training": {"top", "data", "model", "hub", "evaluation"},
    "inference": {"top", "data", "model"},
    "evaluation": {"top", "data", "model", "inference"},
    "experiments": {"top", "data", "model", "inference", "evaluation", "training", "hub"},
    "hub": {"top", "data", "model", "inference", "evaluation"},
}
OPTIONAL = {
    "data.windows",
    "data.group_and_time_splits",
    "data.trained_on",
    "model.adapters",
    "model.convert",
    "model.tf_checkpoint",
    "inference.onnx_export",
    "training.steps",
    "inference.occlusion",
    "inference.demo_page",
    "evaluation.baselines",
    "evaluation.calibration",
    "evaluation.plots",
    "evaluation.run_steps",
    "experiments.table",
    "experiments.runs",
    "experiments.curves",
    "experiments.options",
    "experiments.probing",
    "experiments.folds",
    "experiments.label_errors",
    "experiments.sweep",
}
MAX_LINES, MAX_TOP = 500, 8


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def package_of(module: str) -> str:
    return module.split(".")[0] if "." in module or module in ARROWS else "top"


def imports_of(path: Path, package: Path, everywhere: bool = False) -> set[str]:
    """Modules and packages of recipe that a file imports: when it is imported, or also within functions. Types do not count."""
    todo, found = list(ast.parse(path.read_text(encoding="utf-8")).body), set()
    parents = ["recipe", *path.relative_to(package).parent.parts]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not everywhere:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = parents[: len(parents) + 1 - node.level] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            # `from recipe.data import windows` imports a module, `from recipe import load_splits` a public name.
            names = {MODULES.get(name.name, name.name) if origin == "recipe" else name.name for name in node.names}
            found |= {origin} | {f"{origin}.{name}" for name in names}
        todo += ast.iter_child_nodes(node)
    names = {name.removeprefix("recipe.") for name in found if name.startswith("recipe.")}
    return {name for name in names if is_module(package / name.replace(".", "/"))}


def is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def faults(package: Path) -> list[str]:
    """Return everything that is wrong with the shape of a package."""
    paths = {
        module_name(path, package): path
        for path in package.rglob("*.py")
        if path.parent != package or path.stem != "__init__"
    }
    imports = {module: imports_of(path, package) for module, path in paths.items()}
    found = []
    for module, path in paths.items():
        for imported in imports_of(path, package, everywhere=True):
            if package_of(imported) not in ARROWS[package_of(module)] | {package_of(module)}:
                found.append(f"{module} imports {imported}, against the arrows")
        if module not in OPTIONAL:
            found += [f"{module}, of the core, imports the optional {name}" for name in imports[module] & OPTIONAL]
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            found.append(f"{module} has over {MAX_LINES} lines")
        if path.stem == "__init__" and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None:
            found.append(f"{module} has no __init__ that says what it is for")
    found += [f"{module} imports itself through others" for module in imports if module in reachable(imports, module)]
    if len(list(package.glob("*.py"))) > MAX_TOP:
        found.append(f"over {MAX_TOP} files directly in the package")
    for folder in {path.parent for path in paths.values()}:
        if not (folder / "__init__.py").is_file():
            found.append(f"{folder.name} has no __init__ that says what it is for")
    return found


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, todo = set(), list(graph[start])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += graph.get(module, ())
    return seen


def test_package_has_its_shape():
    assert faults(ROOT / "recipe") == []


def test_optional_modules_exist():
    for module in OPTIONAL:
        assert (ROOT / "recipe" / f"{module.replace('.', '/')}.py").is_file()


@pytest.fixture
def sound(tmp_path):
    """A small package without a fault."""
    for package in ("", "data", "model", "training", "evaluation"):
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").write_text('"""A package."""\n')
    (tmp_path / "errors.py").write_text("")
    (tmp_path / "data" / "windows.py").write_text("from recipe.errors import RecipeError\n")
    (tmp_path / "data" / "readers.py").write_text("def f():\n    from recipe.data.windows import g\n")
    (tmp_path / "model" / "tail.py").write_text("")
    (tmp_path / "training" / "trainer.py").write_text("from recipe.model.tail import t\n")
    (tmp_path / "evaluation" / "plots.py").write_text("")
    assert faults(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("model/tail.py", "from recipe.training.trainer import T\n", "model.tail imports training.trainer, against"),
        ("errors.py", "import recipe.data.readers\n", "errors imports data.readers, against the arrows"),
        ("data/readers.py", "def f():\n    from recipe.evaluation.plots import p\n", "against the arrows"),
        ("data/readers.py", "from recipe.data.windows import g\n", "data.readers, of the core, imports the optional"),
        ("data/readers.py", "from recipe.data import windows\n", "data.readers, of the core, imports the optional"),
        (
            "data/readers.py",
            "try:\n    import recipe.data.windows\nexcept OSError:\n    pass\n",
            "imports the optional",
        ),
        ("model/tail.py", "from recipe import training\n", "model.tail imports training, against the arrows"),
        ("model/tail.py", "from recipe import RecipeTrainer\n", "model.tail imports training.trainer, against"),
        ("model/tail.py", "from ..training.trainer import T\n", "model.tail imports training.trainer, against"),
        ("data/__init__.py", '"""A."""\nimport recipe.training.trainer\n', "data imports training.trainer, against"),
        ("errors.py", "x = 1\n" * 501, "errors has over 500 lines"),
        ("data/__init__.py", "", "data has no __init__ that says what it is for"),
    ],
)
def test_each_fault_is_found(sound, file, text, fault):
    (sound / file).write_text(text)
    assert any(fault in found for found in faults(sound)), faults(sound)


def test_circles_and_too_many_files_are_found(sound):
    (sound / "data" / "labels.py").write_text("from recipe.data.readers import r\n")
    (sound / "data" / "readers.py").write_text("from recipe.data.labels import l\n")
    for number in range(8):
        (sound / f"top_{number}.py").write_text("")
    found = faults(sound)
    assert "data.labels imports itself through others" in found
    assert "over 8 files directly in the package" in found
