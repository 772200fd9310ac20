"""The templates, each by its command in the README, on both paths: the same figures and the same saved model."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_one_line, make_texts, run_training, tiny_folder
from safetensors.torch import load_file
from transformers import GPT2ForSequenceClassification

from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier

README = (ROOT / "scripts" / "README.md").read_text()
COMMANDS = {
    Path(line.split()[1]).stem: line.split() for line in re.findall("^python scripts/examples/.*$", README, re.M)
}
FIELDS = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "1e-2"]
FIELDS += ["--disable_tqdm", "true", "--use_cpu", "true", "--save_strategy", "no", "--report_to", "none"]


@pytest.fixture
def run_example(run_here, tmp_path):
    make_texts(90, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")

    def run(name, choice, *more):
        words = ["--model_name_or_path", tiny_folder(), "--output_dir", tmp_path / choice, "--feature_cache", choice]
        result = run_here([*COMMANDS[name], *words, *FIELDS, *more], cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run


def figures_of(printed):
    """The dict on the last line, without its timings."""
    figures = ast.literal_eval(printed.strip().splitlines()[-1])
    return {name: value for name, value in figures.items() if not re.search("runtime|second", name)}


@pytest.mark.parametrize("name", ["own_dataset", "own_loss", "own_metric", "own_head", "lora"])
def test_example_gives_the_same_model_on_both_paths(run_example, tmp_path, name):
    cached, plain = (figures_of(run_example(name, choice)) for choice in ("on", "off"))
    assert cached == pytest.approx(plain, abs=1e-4)
    assert {"own_metric": "test_matthews", "own_dataset": "eval_macro_f1"}.get(name, "test_accuracy") in cached
    weights = [load_file(tmp_path / choice / "model.safetensors") for choice in ("on", "off")]
    base = load_file(tiny_folder() / "model.safetensors")
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], atol=1e-3, rtol=0)
    moved = {
        key
        for key, tensor in weights[0].items()
        if not key.startswith("score.") and not torch.equal(tensor, base[key.removeprefix("transformer.")])
    }
    assert moved
    assert all(key.startswith(("transformer.h.3.", "transformer.ln_f.")) for key in moved)
    if name == "own_head":
        assert "score.2.weight" in weights[0]
    else:
        GPT2ForSequenceClassification.from_pretrained(tmp_path / "on")


def test_own_head_is_loaded_back(run_example, tmp_path):
    run_example("own_head", "on")
    sys.path.insert(0, str(ROOT / "scripts" / "examples"))
    from own_head import TwoLayerHead

    sys.path.pop(0)
    model = TwoLayerHead.from_pretrained(tmp_path / "on").eval()
    assert model.config.id2label == {0: "medicine", 1: "sport"}
    saved = load_file(tmp_path / "on" / "model.safetensors")
    assert torch.equal(model.score[0].weight, saved["score.0.weight"])
    with pytest.raises(RecipeError, match="was saved by TwoLayerHead, a class with a head of its own"):
        TextClassifier.from_pretrained(tmp_path / "on")


def test_peers_stand_beside_a_finished_run(run_here, tmp_path):
    """TF-IDF's figures are the run's own baseline's; what is not installed is skipped."""
    make_texts(90, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    run_training(tmp_path / "my.csv", tmp_path / "run", "--baselines", "true")
    command = [sys.executable, ROOT / "scripts" / "examples" / "peers.py", "--model_dir", tmp_path / "run"]
    command += ["--output_file", tmp_path / "peers.json", "--sentence_model", tmp_path / "none"]
    result = run_here(command)
    assert result.returncode == 0, result.stderr
    peers = json.loads((tmp_path / "peers.json").read_text())["peers"]
    test = json.loads((tmp_path / "run" / "test_results.json").read_text())
    (run, ours), (_, tfidf), (_, ngrams) = peers.items()
    assert run == "this model"
    assert ours["accuracy"] == pytest.approx(test["test_accuracy"])
    assert tfidf["accuracy"] == pytest.approx(test["test_tfidf_accuracy"])
    assert tfidf["mcnemar_p"] == pytest.approx(test["test_mcnemar_p_tfidf"])
    assert ngrams["accuracy"] > 0.9
    assert result.stdout.count("skipped: ") == 2
    assert_one_line(run_here(command), "peers.json exists: give another one")


def test_search_prints_the_best_rate(run_example):
    """Against transformers' own: test_trainer.py."""
    printed = run_example("search", "on", "--n_trials", "2", "--max_steps", "3").splitlines()
    assert re.fullmatch(r"best: \{'learning_rate': [\d.e-]+\}, validation loss [\d.]+", printed[-1])


def test_every_example_stands_in_the_readme():
    files = {path.stem for path in (ROOT / "scripts" / "examples").glob("[!_]*.py")}
    assert set(COMMANDS) == files == {"own_dataset", "own_loss", "own_metric", "own_head", "lora", "search", "peers"}
