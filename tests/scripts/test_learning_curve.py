"""scripts/learning_curve.py as a user runs it."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import assert_one_line, fields_of, run, tiny_folder
from safetensors.torch import load_file, save_file

CURVE = ["python", "scripts/learning_curve.py"]
FEW = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3"]


@pytest.fixture
def fields(texts_file, tmp_path):
    return [*fields_of(tiny_folder(), texts_file, tmp_path)[:4], *FEW]


def test_curve_is_measured_and_written(tmp_path, fields):
    output, plot = tmp_path / "curve.json", tmp_path / "curve.png"
    words = ["--fractions", "0.25", "1", "0.5", "--seeds", "2", "--output_file", output, "--plot_file", plot]
    result = run(*CURVE, *fields, *words)
    assert result.returncode == 0, result.stderr
    results = json.loads(output.read_text())
    points = results["points"]
    assert [(point["texts"], point["seed"]) for point in points] == [(n, s) for s in (42, 43) for n in (21, 42, 84)]
    assert all(0 <= point[name][score] <= 1 for point in points for name in ("gpt2", "tfidf") for score in point[name])
    assert [row["texts"] for row in results["summary"]] == [21, 42, 84] * 2
    assert set(results["power_laws"]) == {"gpt2", "tfidf"}
    assert results["power_laws"]["gpt2"]["texts"] == 168
    assert "Test split of 24 texts; mean and sd over 2 seeds" in result.stdout
    row = results["summary"][0]
    assert re.search(rf"\n *this model +21 +2 +{row['accuracy_mean']:.3f} +{row['accuracy_sd']:.3f} ", result.stdout)
    assert "with 168 texts, accuracy" in result.stdout
    assert "Training: 100%" in result.stderr
    assert result.stderr.count("Tokenizing train: 100%") == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.json", "curve.png"]


def test_an_interrupted_curve_goes_on_with_the_same_model_alone(tmp_path, run_here, texts_file, monkeypatch):
    calls, stop_at = [], 2

    def predict(runner, train, test, seed):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(train)
        return np.eye(3)[runner.tokenized["test"]["labels"][:]]

    monkeypatch.setattr("recipe.experiments.runs.Runner.train_to_the_end", predict)
    model = shutil.copytree(tiny_folder(), tmp_path / "model")
    command = [*CURVE, *fields_of(model, texts_file, tmp_path)[:4], "--seeds", "1"]
    command += ["--output_file", tmp_path / "x.json"]
    assert run_here(command).returncode == 130
    kept, stop_at = (tmp_path / "x.json.unfinished").read_bytes(), None
    assert run_here(command).returncode == 0
    assert len(calls) == 5
    (tmp_path / "x.json").unlink()
    (tmp_path / "x.json.unfinished").write_bytes(kept)
    save_file(load_file(model / "model.safetensors"), model / "model.safetensors", {"saved": "again"})
    assert run_here(command).returncode == 0
    assert len(calls) == 10
    summary = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)["summary"]  # of NaN
    assert {row["accuracy_sd"] for row in summary} == {None}


def test_mistakes_are_one_line(tmp_path, run_here, fields):
    output = ["--output_file", tmp_path / "x.json"]
    (tmp_path / "old.json").touch()
    for words, message in [
        ([], "required: --output_file"),
        (["--output_file", tmp_path / "old.json"], "exists: give another one, or pass --overwrite_output_file"),
        ([*output, "--fractions", "0", "1"], "take a number above 0, up to 1"),
        ([*output, "--seeds", "0"], "argument --seeds: 0 is no whole number from 1 up"),
        ([*output, "--seeds", "many"], "many is no whole number"),
        ([*output, "--model_name_or_path", tmp_path / "none"], "does not exist"),
    ]:
        assert_one_line(run_here([*CURVE, *fields, *words]), message)
