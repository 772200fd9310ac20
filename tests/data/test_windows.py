"""Windows against the tokenizer's own cuts, and averages against scikit-learn and closed forms."""

import numpy as np
import pytest
from conftest import NANO
from datasets import Dataset
from scipy.special import softmax
from sklearn.metrics import log_loss
from transformers import AutoTokenizer, EvalPrediction, GPT2Config

from recipe.data.tokenization import load_tokenizer
from recipe.data.windows import (
    Windows,
    average_windows,
    by_text,
    choose_windows,
    remember_windows,
    tokenize_texts,
)
from recipe.errors import RecipeError

CONFIG = GPT2Config.from_pretrained(NANO)


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (4, 0), (4, 1), (4, 3), (5, 2)])
def test_windows_are_those_of_the_tokenizer(size, overlap):
    tokenizer = AutoTokenizer.from_pretrained(NANO, split_special_tokens=True)
    for words in range(1, 16):
        text = " ".join(["one"] * words)
        options = {"truncation": True, "max_length": size, "stride": overlap, "return_overflowing_tokens": True}
        expected = tokenizer(text, **options)["input_ids"]
        tokenizer.backend_tokenizer.no_truncation()
        assert Windows(size, overlap).cut(tokenizer(text)["input_ids"]) == expected


def test_probabilities_are_averaged_and_single_windows_left_alone():
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    text_index = np.array([0, 1, 1, 1, 2, 2])
    averaged = average_windows(logits, text_index)
    assert np.array_equal(averaged[0], logits[0])
    p = softmax(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(np.exp(averaged[1:]), [p[1:4].mean(0), p[4:].mean(0)], rtol=1e-12)
    assert np.array_equal(average_windows(logits, np.arange(6)), logits)
    assert average_windows(logits[:0], text_index[:0]).shape == (0, 3)
    far = np.array([[0.0, 2000.0], [0.0, 2000.0]])  # e^-2000 is 0 in float64, but no infinite loss
    np.testing.assert_allclose(average_windows(far, np.array([0, 0])), [[-2000, 0]])
    with pytest.raises(ValueError, match="6 rows of logits for 5 windows"):
        average_windows(logits, text_index[:5])


def test_options_win_over_saved_windows():
    saved = GPT2Config(window=100, window_overlap=10, window_max_length=500)
    assert choose_windows(GPT2Config()) is None
    assert choose_windows(GPT2Config(), 64) == Windows(64, 16)
    assert choose_windows(GPT2Config(), 64, 0, 5000) == Windows(64, 0, 5000)  # more than there are positions
    assert choose_windows(saved) == Windows(100, 10, 500)
    assert choose_windows(saved, window_overlap=20) == Windows(100, 20, 500)
    assert choose_windows(saved, 64) == Windows(64, 16, 500)
    assert choose_windows(saved, 0) is None


def test_trainers_metrics_are_of_texts():
    rng, text_index = np.random.default_rng(1), np.array([0, 0, 0, 1, 2, 2, 3])
    logits, labels = rng.normal(size=(7, 2)) * 3, np.array([0, 0, 0, 1, 1, 1, 0])
    seen = []
    rows = Dataset.from_dict({"text_index": text_index})
    by_text(lambda prediction: seen.append(prediction) or {}, rows)(EvalPrediction(logits, labels))
    p = [softmax(logits, axis=-1)[text_index == text].mean(0) for text in range(4)]
    assert seen[0].label_ids.tolist() == [0, 1, 1, 0]
    ours = softmax(seen[0].predictions, axis=-1)
    assert log_loss([0, 1, 1, 0], ours) == pytest.approx(log_loss([0, 1, 1, 0], p))


def test_rows_are_windows_with_their_texts_label_and_index(caplog):
    caplog.set_level("INFO")
    texts = {"train": Dataset.from_dict({"text": ["one " * 9 + "one", "one", ""], "label": [2, 0, 1]})}
    tokenizer = load_tokenizer(str(NANO), CONFIG)
    rows = tokenize_texts(texts, tokenizer, Windows(4, 1))["train"]
    assert rows["length"][:] == [4, 4, 4, 1, 1]
    assert rows["labels"][:] == [2, 2, 2, 0, 1]
    assert rows["text_index"][:] == [0, 0, 0, 1, 2]
    assert rows["uncut_length"][:] == [10, 10, 10, 1, 1]
    assert rows["attention_mask"][:] == [[1] * length for length in rows["length"]]
    assert rows["input_ids"][4] == [CONFIG.eos_token_id]
    assert "train: 3 texts in 5 windows of 4 tokens, 1 of them shared with the window before" in caplog.text
    assert "train: 12 of 12 tokens read (100.0 %), 0 of 3 texts cut" in caplog.text
    rows = tokenize_texts(texts, tokenizer, Windows(4, 1, max_length=6))["train"]
    assert rows["length"][:] == [4, 3, 1, 1]
    assert "train: 8 of 12 tokens read (66.7 %), 1 of 3 texts cut at 6 tokens, their right end" in caplog.text


def test_a_config_remembers_its_windows(tmp_path):
    for windows in (Windows(100, 10, 500), Windows(64, 0), None):
        config = GPT2Config()
        remember_windows(config, windows)
        config.save_pretrained(tmp_path)
        assert choose_windows(GPT2Config.from_pretrained(tmp_path)) == windows


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        (513, None, "window is 513, but the model has 512 positions: take 1 to 512 tokens, or 0"),
        (-1, None, "window is -1"),
        (16, 16, "window_overlap is 16, the window 16: take an overlap from 0 to 15"),
        (16, -1, "window_overlap is -1"),
        (None, 4, "texts are not cut into windows: give --window too"),
    ],
)
def test_windows_that_do_not_fit_are_refused(window, overlap, message):
    with pytest.raises(RecipeError, match=message):
        choose_windows(CONFIG, window, overlap)


def test_a_length_that_the_model_remembers_is_told():
    config = GPT2Config(n_positions=64)
    remember_windows(config, Windows(16, 4, max_length=40))
    assert choose_windows(config) == Windows(16, 4, max_length=40)
    assert str(choose_windows(config)) == (
        "windows of 16 tokens of each text's first 40, 4 of them shared with the window before"
    )
    assert choose_windows(config, max_length=20) == Windows(16, 4, max_length=20)
