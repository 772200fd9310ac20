"""scripts/probe.py as a user runs it."""

import json
import re
import shutil

import pandas as pd
import pytest
from conftest import NANO, assert_one_line, assert_refused, fields_of, make_texts, run, tiny_folder

from recipe.data.trained_on import save_trained_on

PROBE = ["python", "scripts/probe.py"]


@pytest.fixture
def fields(texts_file, tmp_path):
    return fields_of(tiny_folder(), texts_file, tmp_path)[:4]  # no output_dir: none is asked for


def test_probe_finds_the_label_and_writes_both_files(tmp_path, texts_file):
    output, plot = tmp_path / "probe.json", tmp_path / "probe.png"
    command = [*PROBE, "--model_name_or_path", NANO, "--train_file", texts_file]
    result = run(*command, "--output_file", output, "--plot_file", plot)
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())
    assert [row["depth"] for row in figures["depths"]] == list(range(13))
    best = max(row["accuracy"] for row in figures["depths"])
    assert figures["depths"][figures["best_depth"]]["accuracy"] == best > 0.8  # a third of the labels each
    assert figures["texts"] == {"train": 84, "validation": 12}
    assert figures["at_most"] == f"last_blocks:{max(12 - figures['shallowest_depth'], 1)}"
    assert set(figures["baselines"]) == {"majority", "tfidf"}
    assert figures["advice"] in result.stdout
    assert re.search(rf"block 12 \(h\.11\) +{figures['depths'][12]['accuracy']:.3f} ", result.stdout)
    assert "Running the model: 100%" in result.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe.json", "probe.png"]


def test_mistakes_are_one_line(tmp_path, run_here, fields):
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    for words, message in [
        (["--output_file", kept], "exists: give another one, or pass --overwrite_output_file"),
        (["--output_file", tmp_path / "x.csv"], "unknown ending '.csv'"),
        (["--plot_file", tmp_path / "x.gif"], "unknown ending '.gif'"),
        (["--output_file", tmp_path / "no" / "x.json"], "does not exist"),
        (["--pooling", "mean"], "probes read the last token"),
        (["--window", "32"], "experiments truncate long texts"),
        (["--trainble", "all"], "did you mean 'trainable'?"),
    ]:
        assert_one_line(run_here([*PROBE, *fields, *words]), message)
    assert kept.read_text() == "mine"
    make_texts(6, ["sport"]).to_csv(tmp_path / "one.csv", index=False)
    assert_refused(run_here([*PROBE, *fields[:3], tmp_path / "one.csv"]), "label")


def test_an_existing_file_is_overwritten_where_asked(tmp_path, run_here, fields):
    output = tmp_path / "x.json"
    output.write_text("old")
    result = run_here([*PROBE, *fields, "--output_file", output, "--overwrite_output_file", "--disable_tqdm", "true"])
    assert (result.returncode, result.stderr) == (0, "")
    assert len(json.loads(output.read_text())["depths"]) == 5


def test_texts_that_the_model_was_trained_on_are_warned_of(tmp_path, run_here, texts_file):
    """A tenth of the file's 120 texts are validation, a fifth the test, which is not read."""
    model = shutil.copytree(tiny_folder(), tmp_path / "model")
    save_trained_on(model, pd.read_csv(texts_file)["text"], tiny_folder())
    result = run_here([*PROBE, *fields_of(model, texts_file, tmp_path)[:4]])
    assert result.returncode == 0
    assert f"96 of the 96 texts were trained on, by {model}" in result.stderr
