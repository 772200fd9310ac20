import numpy as np
import pytest
import torch
from saved_models import three_label_run
from transformers import AutoTokenizer, GPT2ForSequenceClassification

from recipe.inference import occlusion
from recipe.inference.occlusion import leave_one_out
from recipe.inference.text_classifier import TextClassifier

TEXT = "the referee saw the goal, and a doctor  looked at the player in the stadium"


def by_hand(texts: list[str], size: int = 1000, overlap: int = 0) -> np.ndarray:
    """Probabilities from transformers' own model, a text at a time, the mean over windows of it."""
    model = GPT2ForSequenceClassification.from_pretrained(three_label_run()).eval()
    tokenizer, rows = AutoTokenizer.from_pretrained(three_label_run()), []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        starts = range(0, max(1, len(ids) - overlap), size - overlap)
        with torch.no_grad():
            logits = torch.cat([model(torch.tensor([ids[start : start + size]])).logits for start in starts])
        rows.append(logits.double().softmax(-1).mean(0).numpy())
    return np.array(rows)


def pieces_of(text, found):
    return [text[start:end] for start, end in found.spans]


@pytest.fixture(scope="module")
def classifier():
    return TextClassifier.from_pretrained(three_label_run(), "cpu")


@pytest.mark.parametrize("window", [0, 8])
def test_against_a_loop_over_transformers_model(window):
    found = leave_one_out(TextClassifier.from_pretrained(three_label_run(), "cpu", window), TEXT, 1)
    words = TEXT.replace(" ", "| ").replace("| | ", "|  ").split("|")
    assert pieces_of(TEXT, found) == words
    texts = ["".join(words[:i] + words[i + 1 :]).lstrip() for i in range(len(words))]
    complete, *rows = by_hand([TEXT, *texts], *((window, window // 4) if window else ()))
    without = np.array(rows)[:, 1]
    assert found.probability == pytest.approx(complete[1], abs=1e-5)
    np.testing.assert_allclose(found.without, without, atol=1e-5)
    log_odds = np.log(without / (1 - without))
    np.testing.assert_allclose(found.drops, np.log(complete[1] / (1 - complete[1])) - log_odds, atol=1e-4)
    assert found.words == len(words)


def test_a_long_text_is_left_out_in_runs(classifier, monkeypatch):
    text = " ".join(f"word{i}" for i in range(10)) + " "
    monkeypatch.setattr(occlusion, "MAX_PIECES", 4)
    found = leave_one_out(classifier, text, 0)
    assert pieces_of(text, found) == [
        "word0 word1 word2",
        " word3 word4 word5",
        " word6 word7",
        " word8 word9",
    ]
    assert (found.words, len(found.without), len(found.drops)) == (10, 4, 4)
    monkeypatch.setattr(occlusion, "MAX_TOKENS", 10)
    monkeypatch.setattr(occlusion, "MIN_PIECES", 2)
    assert len(leave_one_out(classifier, text, 0).spans) == 2


def test_what_has_no_spaces_is_left_out_in_parts(classifier):
    found = leave_one_out(classifier, "好" * 70, 0)
    assert pieces_of("好" * 70, found) == ["好" * 30, "好" * 30, "好" * 10]


@pytest.mark.parametrize(("side", "expected"), [("right", ["a", " b", " c"]), ("left", [" d", " e", " f"])])
def test_only_what_the_model_reads_is_left_out(side, expected):
    classifier = TextClassifier.from_pretrained(three_label_run(), "cpu")
    classifier.tokenizer.truncation_side, classifier.max_length = side, 3
    found = leave_one_out(classifier, "a b c d e f", 0)
    assert pieces_of("a b c d e f", found) == expected
    assert found.probability == pytest.approx(classifier.predict(["a b c d e f"])[1][0, 0], abs=1e-5)


@pytest.mark.parametrize("text", ["", " \n "])
def test_a_text_without_words_has_no_pieces(classifier, text):
    found = leave_one_out(classifier, text, 2)
    assert (found.spans, found.words, found.without.shape, found.drops.shape) == ([], 0, (0,), (0,))
    assert found.probability == pytest.approx(classifier.predict([text])[1][0, 2])


def test_of_one_word_an_empty_text_remains(classifier):
    found = leave_one_out(classifier, "goal", 1)
    assert found.without == pytest.approx(classifier.predict([""])[1][:, 1], abs=1e-5)
