"""The benchmark runs, its numbers are those of real work, and training's own memory does not grow with the cache."""

import importlib
import json
import sys

import pytest
from conftest import NANO, ROOT, SMS, make_texts, needs_sms, run

BENCHMARK = "scripts/benchmark/benchmark.py"
JOB = {"model": str(NANO), "learning_rate": 1e-3, "epochs": 1, "use_cpu": True, "accuracy": True, "steps": 0}


@pytest.fixture(scope="module")
def measurements():
    sys.path.insert(0, str(ROOT / "scripts" / "benchmark"))
    yield importlib.import_module("measurements")
    sys.path.pop(0)


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    path = tmp_path_factory.mktemp("messages") / "messages.tsv"
    frame = make_texts(400, ["sport", "medicine"])
    frame[["label", "text"]].to_csv(path, sep="\t", header=False, index=False)
    return path


@pytest.mark.launch
def test_quick_prints_a_row_for_each_variant(measurements, messages, tmp_path, monkeypatch, capsys):
    """Each measurement in this process, which spares the seconds of its imports."""
    benchmark = importlib.import_module("benchmark")
    monkeypatch.setattr(benchmark, "run_job", lambda job: measurements.MEASURES[job["measure"]](job))
    monkeypatch.chdir(ROOT)
    output = tmp_path / "figures.json"
    words = ["--train_file", str(messages), "--quick", "--variants", "b", "d", "e", "--use_cpu", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", [BENCHMARK, *words])
    benchmark.main()
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line.startswith("(")}
    assert set(rows) == {f"({variant})" for variant in "bde"}
    nano = json.loads(output.read_text())["nano"]
    assert nano["training"]["e"][0]["checkpoint_bytes"] < nano["training"]["b"][0]["checkpoint_bytes"] / 10
    assert nano["training"]["e"][0]["accuracy"] > 0.5
    assert nano["training"]["b"][0]["accuracy"] is None  # a few steps: nothing to compare
    assert nano["floor"]["total_s"] < nano["training"]["e"][0]["total_s"]
    assert set(nano["inference"]) == {"engine", "pipeline", "onnx", "onnx_int8"}
    assert nano["inference"]["pipeline"]["ratio"] == 1
    assert "Inference, texts/s" in printed
    assert "learning rates on one cache" in printed
    assert 1 < nano["sweep"]["halving_runs"] <= 2


@needs_sms
@pytest.mark.launch
@pytest.mark.parametrize("variant", "abcdef")
def test_real_protocol_runs_with_few_steps(measurements, variant):
    """The book's config on the UCI file, whose 149 validation messages batches do not divide."""
    config = str(ROOT / "recipe" / "configs" / "sms_spam_book.yaml")
    job = {**JOB, "variant": variant, "config": config, "train_file": str(SMS), "steps": 5, "fields": []}
    if variant == "c":  # times an epoch
        job["fields"] = ["--max_train_samples", "64"]
    figures = measurements.MEASURES["training"](job)
    assert figures["epoch_s"] > 0
    assert figures["checkpoint_bytes"] < 1e6 if variant in "ef" else figures["checkpoint_bytes"] > 1e7


@pytest.mark.launch
def test_missing_file_is_one_line():
    result = run("python", BENCHMARK, "--train_file", "nowhere")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "does not exist" in result.stderr


@pytest.mark.launch
def test_anonymous_memory_stays_below_the_cache(tmp_path):
    """50 MB of features; held in memory they would all be added to it."""
    frame = make_texts(1600, ["sport", "medicine"]).assign(text=lambda f: f["text"] * 3)
    frame.to_csv(tmp_path / "long.csv", index=False)
    fields = ["--max_train_samples", "1000", "--max_eval_samples", "20", "--max_steps", "130"]
    config = str(ROOT / "recipe" / "configs" / "quickstart.yaml")
    job = {**JOB, "measure": "memory", "config": config, "train_file": str(tmp_path / "long.csv"), "fields": fields}
    result = run("python", "scripts/benchmark/measurements.py", json.dumps(job))
    assert result.returncode == 0, result.stderr[-2000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("RESULT "))
    figures = json.loads(line.removeprefix("RESULT "))
    assert figures["cache_bytes"] > 45e6
    assert figures["growth_bytes"] < 0.6 * figures["cache_bytes"], figures
