"""What the demo page shows; tests/scripts/test_demo.py meets the page itself, in a browser."""

import numpy as np
import pytest
from conftest import NANO, tiny_model
from transformers import AutoTokenizer

from recipe.data.windows import Windows, remember_windows
from recipe.inference.demo_page import answer_text, build_page, card_text, columns_of, shades
from recipe.inference.occlusion import Occlusion
from recipe.inference.text_classifier import TextClassifier


def classifier_of(num_labels=2, windows=None, **config):
    special = {"bos_token_id": 8191, "eos_token_id": 8191, "pad_token_id": 8191}
    model = tiny_model(vocab_size=8192, num_labels=num_labels, **special, **config)
    remember_windows(model.config, windows)
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    tokenizer.model_max_length = 64
    return TextClassifier(model, tokenizer, "cpu")


def test_the_answer_names_the_threshold():
    classifier = classifier_of(decision_threshold=0.2)
    assert answer_text(classifier, "a text", "LABEL_1", np.array([0.7, 0.3])) == (
        "LABEL_1, with a probability of 0.3000\nThe model decides for LABEL_1 from a probability of 0.2 on."
    )


def test_the_answer_says_how_a_long_text_is_read():
    half = np.array([0.5, 0.5])
    long = "word " * 70
    tokens = len(classifier_of().tokenizer(long)["input_ids"])
    answer = answer_text(classifier_of(), long, "LABEL_0", half)
    assert answer.endswith(f"\nThe model reads only the first 64 of the text's {tokens} tokens.")
    windows = answer_text(classifier_of(windows=Windows(32, 8)), long, "LABEL_0", half)
    assert windows.endswith("\nThe text is read in 3 windows, whose probabilities are averaged.")
    assert "reads only" not in windows
    assert "windows" not in answer_text(classifier_of(windows=Windows(32, 8)), "short", "LABEL_0", half)


def test_shades_follow_the_drops():
    """The text is complete, spaces included; a word whose loss makes the label likelier has a shade below 0."""
    occlusion = Occlusion([(0, 2), (2, 4), (4, 8)], 3, 0.9, np.array([0.5, 0.7, 0.95]), np.array([2.0, 1.0, -0.5]))
    shown = shades(" a b <c\u202e unread", occlusion)
    assert shown == [(" a", 1.0), (" b", 0.5), (" <c\ufffd", -0.25), (" unread", None)]
    little = Occlusion([(0, 5)], 2, 0.9, np.array([0.9]), np.array([0.07]))
    assert shades("a b c", little) == [("a b c", 0.1)]  # what matters little stays pale
    none = Occlusion([], 0, 0.9, np.array([]), np.array([]))
    assert shades("  ", none) == [("  ", None)]


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n# A\n\n---\n\nb", "# A\n\n---\n\nb"),
        ("---\r\nlicense: mit\r\n---\r\nb", "b"),
        ("![a](http://x/y.png)z<img\nsrc=x>", "z"),
        ("", ""),
    ],
)
def test_a_card_without_front_matter_and_pictures(card, expected):
    assert card_text(card) == expected


def test_a_folder_without_a_card(tmp_path):
    page = build_page(classifier_of(), tmp_path)
    assert any("No card (README.md)." in str(getattr(block, "value", "")) for block in page.blocks.values())
    assert not any("pairs" in str(getattr(block, "info", "")) for block in page.blocks.values())


def test_a_model_of_pairs_says_how_to_give_them(tmp_path):
    (tmp_path / "run_config.yaml").write_text("text_pair_column: answer\ntext_pair_separator: ' | '\n")
    page = build_page(classifier_of(), tmp_path)
    assert any("put ' | ' between the two" in str(getattr(block, "info", "")) for block in page.blocks.values())


def test_a_column_that_the_user_names_takes_the_place_of_the_first():
    reading = {"text_column": ["title", "body"], "text_pair_column": None}
    assert list(columns_of(reading).values()) == ["title", "body"]
    assert list(columns_of(reading, "headline").values()) == ["headline", "body"]
    assert list(columns_of({}, "headline").values()) == ["headline"]
