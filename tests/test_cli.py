"""The command `gpt2-classifier`, in a checkout and out of a wheel that is installed elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NANO, ROOT, assert_one_line, make_texts, run

import recipe
from recipe.cli import COMMANDS, run_command
from recipe.shipped import as_typed, shipped


def test_every_command_is_a_script(tmp_path):
    for name, (script, _) in COMMANDS.items():
        assert (ROOT / "scripts" / f"{script}.py").is_file(), name
    shown = run("gpt2-classifier", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(f"    {name} " in shown.stdout for name in COMMANDS)
    assert run("gpt2-classifier", "--version", cwd=tmp_path).stdout.strip() == recipe.__version__
    assert run("gpt2-classifier", "predict", "--help", cwd=tmp_path).stdout.startswith(
        "usage: gpt2-classifier predict "
    )
    assert_one_line(run("gpt2-classifier", "fit", cwd=tmp_path), "'fit' is no command: take one of train, evaluate")
    assert_one_line(run("gpt2-classifier", "predict", "--modl_dir", "x", cwd=tmp_path), "--model_dir")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_the_user_of_a_command_types(name, tmp_path, monkeypatch, capsys):
    """Each line of the docstring: a command of ours, with options that it has, and recipes that are found anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpt2-classifier", name, "--help"])
    with pytest.raises(SystemExit):
        run_command()
    shown = capsys.readouterr().out
    assert not re.search(r"python |scripts/|accelerate_configs|\b[a-z_]+\.py\b", shown)
    commands = [line.split() for line in shown.splitlines() if re.match(r" *gpt2-classifier \S+( --|$)", line)]
    assert commands
    for _, command, *words in commands:
        assert command in COMMANDS
        if command == name:
            assert all(f"{word} " in shown for word in words if word.startswith("--"))
        recipes = [words[i + 1] for i, word in enumerate(words) if word == "--config"]
        assert all("/" not in recipe and Path(shipped(recipe)).is_file() for recipe in recipes)


@pytest.mark.slow
def test_messages_name_commands_where_one_was_started(tmp_path, monkeypatch):
    text = "python scripts/train.py, scripts/inspect_model.py, predict.py's; not own_head.py, /x/scripts/train.py, setup.py"
    assert as_typed(text) == text
    monkeypatch.setattr(sys, "argv", ["gpt2-classifier evaluate"])
    wanted = "gpt2-classifier train, gpt2-classifier inspect, gpt2-classifier predict's; not own_head.py, /x/scripts/"
    assert as_typed(text) == f"{wanted}train.py, setup.py"
    shutil.copytree(NANO, tmp_path / "base")
    script = "evaluate", "--model_dir", tmp_path / "base"
    assert_one_line(run("gpt2-classifier", *script, cwd=tmp_path), "head: train one with gpt2-classifier train")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and installed into a folder of its own; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("recipe", "scripts"):  # building writes beside the source
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 12e6
    assert run(*pip, "install", "--no-deps", "--target", folder / "site", wheel).returncode == 0
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_predicts_anywhere(installed, tmp_path):
    make_texts(90, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)

    def command(*words):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        script = [sys.executable, str(installed / "bin" / "gpt2-classifier"), *words]
        result = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr[-2000:]
        return result

    fields = ["--train_file", "my.csv", "--column_names", "text", "label", "--output_dir", "run", "--max_steps", "20"]
    command("train", "--config", "recipe/configs/quickstart.yaml", *fields)
    assert (
        "Saved to run"
        in command("train", "--config", "recipe/configs/quickstart.yaml", *fields, "--overwrite_output_dir").stdout
    )
    command("evaluate", "--model_dir", "run", "--no_baselines")
    assert '"label": "sport"' in command("predict", "--model_dir", "run", "--text", "goal team league match").stdout
    assert "model.safetensors" in command("publish", "--model_dir", "run", "--dry_run").stdout
    shown = command("inspect", "--model_name_or_path", "recipe/assets/gpt2-nano", "--text", "a b")
    assert re.search(r"trainable +198,786 ", shown.stdout)


@pytest.mark.slow
def test_the_wheel_is_its_own(installed):
    """Nothing of the checkout is used: the package, the scripts and the small model are in the wheel."""
    code = "import recipe; print(recipe.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, env=environment
    ).stdout
    assert Path(found.strip()).is_relative_to(installed)
    assert (installed / "recipe" / "assets" / "gpt2-nano" / "model.safetensors").is_file()
    assert {path.stem for path in (installed / "recipe" / "scripts").glob("*.py")} >= {s for s, _ in COMMANDS.values()}
