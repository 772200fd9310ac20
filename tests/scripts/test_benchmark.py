"""The benchmark runs, its numbers are those of real work, and training's own memory does not grow with the cache."""

import json

import pytest
from conftest import NANO, ROOT, make_texts, run


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    path = tmp_path_factory.mktemp("messages") / "messages.tsv"
    frame = make_texts(400, ["sport", "medicine"])
    frame[["label", "text"]].to_csv(path, sep="\t", header=False, index=False)
    return path


def test_quick_prints_a_row_for_each_variant(messages, tmp_path):
    output = tmp_path / "figures.json"
    result = run(
        "python",
        "scripts/benchmark/benchmark.py",
        "--train_file",
        messages,
        "--quick",
        "--variants",
        "b",
        "d",
        "e",
        "--use_cpu",
        "--json",
        output,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("(")}
    assert set(rows) == {f"({variant})" for variant in "bde"}
    nano = json.loads(output.read_text())["nano"]
    assert nano["training"]["e"][0]["checkpoint_bytes"] < nano["training"]["b"][0]["checkpoint_bytes"] / 10
    assert nano["training"]["e"][0]["accuracy"] > 0.5
    assert nano["training"]["b"][0]["accuracy"] is None  # a few steps: nothing to compare
    assert nano["floor"]["total_s"] < nano["training"]["e"][0]["total_s"]
    assert "Inference:" in result.stdout
    assert "learning rates on one cache" in result.stdout


def test_what_is_missing_is_said(tmp_path):
    result = run("python", "scripts/benchmark/benchmark.py", "--train_file", tmp_path / "nowhere")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "does not exist" in result.stderr


def test_anonymous_memory_stays_flat_when_the_data_grows_ten_times(tmp_path):
    """Ten times the cache, 96 MB more; held in memory it would add a fifth to what the libraries take up."""
    frame = make_texts(3000, ["sport", "medicine"]).assign(text=lambda f: f["text"] * 3)
    frame.to_csv(tmp_path / "long.csv", index=False)
    figures = {}
    for texts in (200, 2000):
        job = {
            "measure": "memory",
            "model": str(NANO),
            "config": str(ROOT / "recipe" / "configs" / "quickstart.yaml"),
            "train_file": str(tmp_path / "long.csv"),
            "learning_rate": 1e-3,
            "epochs": 1,
            "use_cpu": True,
            "fields": ["--max_train_samples", str(texts), "--max_eval_samples", "20", "--max_steps", "30"],
        }
        result = run("python", "scripts/benchmark/measurements.py", json.dumps(job))
        assert result.returncode == 0, result.stderr[-2000:]
        line = next(line for line in result.stdout.splitlines() if line.startswith("RESULT "))
        figures[texts] = json.loads(line.removeprefix("RESULT "))
    cache = figures[2000]["cache_bytes"] - figures[200]["cache_bytes"]
    assert cache > 80e6
    assert figures[2000]["rss_anon_bytes"] < 1.1 * figures[200]["rss_anon_bytes"] < 900e6
