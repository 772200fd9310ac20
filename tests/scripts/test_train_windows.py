"""Runs with windows against transformers alone: the stock model over windows cut by hand."""

import functools
import json
import random

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NANO, WORDS, make_texts, run_training, train_on
from safetensors.torch import load_file
from sklearn.metrics import log_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from recipe.data.dataset import load_saved_splits
from recipe.data.windows import Windows
from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier

FILLER = ["the", "a", "of", "to", "in", "it", "is", "was", "for", "on"]


def late_texts(count: int, seed: int = 0) -> pd.DataFrame:
    """Texts that start alike and tell their label only after some 30 tokens."""
    rng, rows = random.Random(seed), []
    for i in range(count):
        label = ["sport", "medicine"][i % 2]
        words = [*rng.choices(FILLER, k=rng.randint(30, 36)), *rng.choices(WORDS[label], k=rng.randint(10, 20))]
        rows.append({"text": " ".join(words), "label": label})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    path = tmp_path_factory.mktemp("late") / "late.csv"
    late_texts(200).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def windowed(late, tmp_path_factory):
    """A run with windows of 16 tokens over texts of about 50."""
    folder = tmp_path_factory.mktemp("windowed") / "run"
    train_on(NANO, late, folder, "--window", "16", "--num_train_epochs", "2")
    return folder


@functools.cache
def transformers_own(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()


def probabilities_by_hand(folder, text, size, overlap):
    """The mean over windows that are cut by hand, each through transformers' model by itself."""
    tokenizer, model = transformers_own(folder)
    ids = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id]
    rows, start = [], 0
    while not rows or start + overlap < len(ids):
        rows.append(ids[start : start + size])
        start += size - overlap
    with torch.no_grad():
        return np.mean([model(torch.tensor([row])).logits[0].double().softmax(-1).numpy() for row in rows], axis=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--window", "513"], "window is 513, but the model has 512 positions: take 1 to 512 tokens, or 0"),
        (["--window", "-1"], "window is -1"),
        (["--window", "16", "--window_overlap", "16"], "window_overlap is 16, the window 16: take an overlap from 0 to 15"),
        (["--window", "16", "--window_overlap", "-1"], "window_overlap is -1"),
        (["--window_overlap", "4"], "texts are not cut into windows: give --window too"),
        (["--max_length", "513"], "max_length is 513, but"),
    ],
)  # fmt: skip
def test_windows_that_do_not_fit_are_refused(fields, message, late, tmp_path):
    with pytest.raises(RecipeError, match=message):
        run_training(late, tmp_path / "x", *fields)


def test_words_beyond_the_first_window_are_read(late, windowed, tmp_path):
    truncated = train_on(NANO, late, tmp_path / "truncated", "--max_length", "16", "--num_train_epochs", "2")
    figures = json.loads((windowed / "test_results.json").read_text())
    assert truncated["test_accuracy"] < 0.75
    assert figures["test_accuracy"] > 0.95
    assert figures["test_tokens_seen"] == figures["test_tokens"] == truncated["test_tokens"]
    assert truncated["test_tokens_seen"] == 40 * 16
    train_figures = json.loads((windowed / "train_results.json").read_text())
    assert train_figures["train_tokens_seen"] == train_figures["train_tokens"] > 140 * 40
    texts = late_texts(40, seed=1)
    assert (
        np.array(TextClassifier.from_pretrained(windowed).predict(texts["text"])[0]) == texts["label"]
    ).mean() > 0.95


def test_figures_are_those_of_windows_cut_by_hand(windowed):
    """Each window of the test split through transformers' model; and Trainer's validation says what ours says."""
    test = load_saved_splits(windowed)["test"]
    expected = np.array([probabilities_by_hand(windowed, text, 16, 4) for text in test["text"]])
    figures = json.loads((windowed / "test_results.json").read_text())
    assert figures["test_loss"] == pytest.approx(log_loss(list(test["label"]), expected), rel=1e-4, abs=1e-5)
    log = json.loads((windowed / "trainer_state.json").read_text())["log_history"]
    best = min(entry["eval_loss"] for entry in log if "eval_loss" in entry)
    validation = json.loads((windowed / "eval_results.json").read_text())
    assert validation["eval_loss"] == pytest.approx(best, rel=1e-4, abs=1e-5)
    odd = ["", "one", "one " * 15 + "one", "one " * 16 + "one", "two " * 27 + "two", "<|endoftext|> " * 9]
    expected = [probabilities_by_hand(windowed, text, 16, 4) for text in odd]
    np.testing.assert_allclose(TextClassifier.from_pretrained(windowed).predict(odd)[1], expected, atol=1e-5)


def test_saved_folder_is_stock_and_remembers_its_windows(windowed):
    config = json.loads((windowed / "config.json").read_text())
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    assert (config["window"], config["window_overlap"]) == (16, 4)
    assert "window_max_length" not in config
    text = late_texts(1)["text"][0]
    classifier = TextClassifier.from_pretrained(windowed, window=0)
    whole = classifier.predict([text])[1]
    expected = pipeline("text-classification", str(windowed), top_k=None)([text], truncation=True)[0]
    by_label = {score["label"]: score["score"] for score in expected}
    np.testing.assert_allclose(whole[0], [by_label[name] for name in classifier.label_names], atol=1e-5)
    other = TextClassifier.from_pretrained(windowed, window=24).predict([text])[1]
    np.testing.assert_allclose(other[0], probabilities_by_hand(windowed, text, 24, 6), atol=1e-5)
    with pytest.raises(RecipeError, match="window is 513"):
        TextClassifier.from_pretrained(windowed, window=513)


def test_without_windows_nothing_is_saved_or_changed(trained):
    assert "window" not in (trained / "config.json").read_text()
    texts = make_texts(20, ["sport", "medicine"])["text"].tolist()
    plain, cut = (TextClassifier.from_pretrained(trained, window=window).logits(texts) for window in (None, 512))
    assert np.array_equal(plain, cut)


@pytest.mark.parametrize("side", ["right", "left"])
def test_max_length_cuts_first_and_is_remembered(late, tmp_path, side):
    """In a model of our own class too; with a max_length over the window, and truncation on either side."""
    fields = ["--window", "12", "--window_overlap", "2", "--max_length", "30", "--truncation_side", side]
    run_training(late, tmp_path / "x", *fields, "--pooling", "mean", "--max_steps", "2", "--trainable", "head")
    classifier = TextClassifier.from_pretrained(tmp_path / "x")
    assert classifier.windows == Windows(12, 2, 30)
    text = late_texts(1)["text"][0]
    ids = AutoTokenizer.from_pretrained(NANO)(text)["input_ids"]
    kept = ids[:30] if side == "right" else ids[-30:]
    with torch.no_grad():
        rows = [kept[start : start + 12] for start in (0, 10, 20)]
        expected = torch.stack([classifier.model(torch.tensor([row])).logits[0].softmax(-1) for row in rows]).mean(0)
    np.testing.assert_allclose(classifier.predict([text])[1][0], expected, atol=1e-5)
    figures = json.loads((tmp_path / "x" / "test_results.json").read_text())
    assert figures["test_tokens_seen"] == 40 * 30 < figures["test_tokens"]


def test_max_length_may_exceed_the_positions_with_windows(late, tmp_path):
    run_training(late, tmp_path / "x", "--window", "512", "--max_length", "2000", "--max_steps", "1")
    classifier = TextClassifier.from_pretrained(tmp_path / "x")
    assert classifier.windows == Windows(512, 128, 2000)
    assert classifier.tokenizer.model_max_length == 512  # what pipeline() cuts to


def test_cached_and_plain_path_give_the_same_model_with_windows(late, tmp_path):
    few = ["--max_train_samples", "48", "--max_eval_samples", "10", "--max_predict_samples", "10"]
    for name, choice in (("plain", "off"), ("fast", "on")):
        cache = ["--feature_cache", choice, "--feature_cache_dir", str(tmp_path / "cache")]
        run_training(late, tmp_path / name, "--window", "16", "--num_train_epochs", "2", *few, *cache)
    texts = late_texts(30, seed=2)["text"]
    plain, fast = (TextClassifier.from_pretrained(tmp_path / name).logits(texts) for name in ("plain", "fast"))
    np.testing.assert_allclose(fast, plain, atol=1e-4, rtol=0)
    weights = [load_file(tmp_path / name / "model.safetensors")["score.weight"] for name in ("plain", "fast")]
    assert not torch.equal(weights[0], torch.zeros_like(weights[0]))
    torch.testing.assert_close(*weights, atol=1e-4, rtol=0)
