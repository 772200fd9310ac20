"""scripts/sweep.py: its trials are train.py's runs, and what was found outlasts an interruption."""

import json
import shlex
import shutil
import sys

import pytest
from conftest import FAST, ROOT, assert_one_line, assert_refused, make_texts, tiny_folder, tiny_model

from recipe.experiments import sweep


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "my.csv"
    make_texts(90, ["sport", "medicine"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("more", [[], ["--lora_r", "4", "--load_best_model_at_end", "false"]])
def test_the_script_finds_a_setting_that_train_py_confirms(data, tmp_path, run_here, more):
    """Its command, as printed, ends with the best trial's validation loss."""
    if more:
        pytest.importorskip("peft")
    fields = ["--model_name_or_path", tiny_folder(), "--train_file", data, *FAST, "--num_train_epochs", "3", *more]
    command = ["python", ROOT / "scripts" / "sweep.py", "--output_dir", tmp_path / "a sweep", *fields]
    grid = ["--learning_rates", "1e-3", "1e-2", "--depths", "1", "2", "--dropouts", "0.1", "--seeds", "2"]
    result = run_here([*command, *grid], cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "a sweep" / "sweep.json").read_text())
    assert len(found["trials"]) == 4
    assert found["other_seeds"]["runs"] == 2
    assert "The best setting with 2 other seeds" in result.stdout
    assert (tmp_path / "a sweep" / "sweep.png").stat().st_size > 5000
    assert f"To train the best: {found['command']}" in result.stdout
    python, *words = shlex.split(found["command"])
    assert python == "python"
    assert run_here([sys.executable, *words], cwd=ROOT).returncode == 0
    figures = json.loads((tmp_path / "a sweep" / "best" / "eval_results.json").read_text())
    assert figures["eval_loss"] == pytest.approx(found["best"]["loss"], rel=1e-4, abs=1e-5)
    assert figures["eval_accuracy"] == pytest.approx(found["best"]["accuracy"])
    assert_refused(run_here([*command, *grid], cwd=ROOT), "exists: give another output_dir")


@pytest.fixture
def one_rate(data, tmp_path):
    """The script's shortest sweep, on a file of its own."""
    texts = tmp_path / "texts.csv"
    texts.write_text(data.read_text())
    model = shutil.copytree(tiny_folder(), tmp_path / "model")
    command = ["python", ROOT / "scripts" / "sweep.py", "--output_dir", tmp_path / "out", "--train_file", texts]
    return [*command, "--model_name_or_path", model, *FAST, "--learning_rates", "1e-3"]


def test_without_other_seeds_there_is_a_picture_all_the_same(tmp_path, run_here, one_rate):
    result = run_here([*one_rate, "--seeds", "0"])
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["other_seeds"] == {}
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 5000


def test_the_lack_of_matplotlib_is_said_before_the_trials(tmp_path, run_here, one_rate, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run_here([*one_rate, "--seeds", "0"])
    assert result.returncode == 0, result.stderr
    assert "no pictures: they need matplotlib" in result.stderr.partition("trials")[0]
    assert {path.name for path in (tmp_path / "out").glob("sweep.*")} == {"sweep.json"}


@pytest.mark.slow
def test_what_was_found_is_kept_when_the_other_seeds_are_interrupted(tmp_path, run_here, one_rate, monkeypatch):
    """The same command goes on, unless the texts or the base model are others; a finished sweep is started anew."""
    command, found = [*one_rate, "--seeds", "1"], tmp_path / "out" / "sweep.json"
    trained, train = [], sweep.train
    monkeypatch.setattr(sweep, "train", lambda runner, *given: trained.append(given) or train(runner, *given))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "compare_best", interrupted)
        result = run_here(command)
    assert result.returncode == 130
    assert "To train the best" in result.stdout
    kept = (tmp_path / "out" / "results.jsonl").read_text()
    assert len(trained) == 1
    assert run_here(command).returncode == 0
    assert len(trained) == 2  # the other seed
    assert json.loads(found.read_text())["other_seeds"]["runs"] == 1
    texts = tmp_path / "texts.csv"

    def changed_texts():
        texts.write_text(texts.read_text().replace("match", "goal"))

    def changed_model():
        tiny_model(vocab_size=8192, n_positions=512, initializer_range=0.1).transformer.save_pretrained(tmp_path / "x")
        shutil.copy(tmp_path / "x" / "model.safetensors", tmp_path / "model")

    for change in (changed_texts, changed_model):
        change()
        found.unlink()
        (tmp_path / "out" / "results.jsonl").write_text(kept)
        assert run_here(command).returncode == 0
    assert len(trained) == 6
    assert run_here([*command, "--overwrite_output_dir", "true"]).returncode == 0
    assert len(trained) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rate", "0"], "learning_rates is 0:0, around learning_rate: give numbers between 0 and 10"),
        (["--learning_rate", "1.5"], "learning_rates is 0.15:15, around learning_rate: give numbers"),
        (["--learning_rates", "1e-2:1e-3"], "learning_rates is 1e-2:1e-3: give numbers"),
        (["--learning_rates", "x"], "learning_rates is x"),
        (["--learning_rates", "0", "1e-3"], "learning_rates is 0 1e-3"),
        (["--dropouts", "1"], "dropout is 1.0: take a share"),
        (["--trial_seeds", "-1"], "argument --trial_seeds: -1 is no whole number"),
        (["--seeds", "-1"], "argument --seeds: -1 is no whole number from 0 up"),
        (["--halving", "1"], "argument --halving: 1 is no whole number from 2 up"),
        (["--learning_rat", "1"], "unknown field 'learning_rat'"),
    ],
)
def test_bad_options_are_one_line(data, tmp_path, run_here, words, message):
    command = ["python", ROOT / "scripts" / "sweep.py", "--output_dir", tmp_path / "out", "--train_file", data]
    assert_one_line(run_here([*command, *words]), message)
    assert not (tmp_path / "out").exists()
