"""What the demo page shows; tests/scripts/test_demo.py meets the page itself, in a browser."""

import html
import re

import numpy as np
import pytest
from conftest import NANO, tiny_model
from transformers import AutoTokenizer

from recipe.data.texts import pair_fields_of
from recipe.data.windows import Windows, remember_windows
from recipe.inference.demo_page import build_page, card_html, decision_html, occlusion_html, pair_note
from recipe.inference.occlusion import Occlusion
from recipe.inference.text_classifier import TextClassifier


def classifier_of(num_labels=2, windows=None, **config):
    special = {"bos_token_id": 8191, "eos_token_id": 8191, "pad_token_id": 8191}
    model = tiny_model(vocab_size=8192, num_labels=num_labels, **special, **config)
    remember_windows(model.config, windows)
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    tokenizer.model_max_length = 64
    return TextClassifier(model, tokenizer, "cpu")


def words_of(content):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", content)).split())


def test_the_decision_keeps_to_the_threshold_and_says_so():
    classifier = classifier_of(decision_threshold=0.2)
    shown = words_of(decision_html(classifier, "a text", "LABEL_1", np.array([0.7, 0.3])))
    assert shown == (
        "LABEL_1 , with a probability of 0.3000"
        " This model decides for LABEL_1 from a probability of 0.2 on, else for the other label."
    )


def test_of_many_labels_the_others_are_counted():
    probabilities = np.array([0.4, 0.3, *[0.03] * 8, 0.02, 0.04])
    shown = words_of(decision_html(classifier_of(12), "a text", "LABEL_0", probabilities))
    assert "2 more labels are not shown: each has a probability of 0.0300 or less." in shown
    assert "more labels" not in decision_html(classifier_of(10), "a", "LABEL_0", np.full(10, 0.1))


def test_what_the_model_does_not_read_is_told():
    half = np.array([0.5, 0.5])
    long = "word " * 70
    tokens = len(classifier_of().tokenizer(long)["input_ids"])
    shown = words_of(decision_html(classifier_of(), long, "LABEL_0", half))
    assert f"The model reads only the first 64 of the text's {tokens} tokens." in shown
    windows = words_of(decision_html(classifier_of(windows=Windows(32, 8)), long, "LABEL_0", half))
    assert "The text is read in 3 windows, whose probabilities are averaged." in windows
    assert "reads only" not in windows
    assert "windows" not in decision_html(classifier_of(windows=Windows(32, 8)), "short", "LABEL_0", half)


def test_shades_follow_the_drops():
    """The text is complete, spaces included; a word whose loss makes the label likelier has no colour."""
    occlusion = Occlusion([(1, 2), (2, 4), (4, 9)], 3, 0.9, np.array([0.5, 0.7, 0.95]), np.array([2.0, 1.0, -0.5]))
    shown = occlusion_html(" a b\n<c> \xa0d", "<x>", occlusion)
    assert re.findall(r"--shade:(\d+)%", shown) == ["100", "50", "0"]
    assert "0.9000, without it 0.5000" in shown
    text = re.search(r"<div[^>]*>(.*)</div>", shown, re.DOTALL)[1]
    assert html.unescape(re.sub(r"</?mark[^>]*>", "", text)) == " a b\n<c>  d"
    assert "&lt;x&gt;" in shown
    assert words_of(shown).startswith("Each word is left out once: the stronger the colour")
    runs = Occlusion([(0, 5)], 2, 0.9, np.array([0.9]), np.array([0.01]))
    shown = occlusion_html("a b c", "x", runs)
    assert "The text has 2 words: each of 1 runs of them is left out once" in words_of(shown)
    assert "--shade:1%" in shown  # what matters little stays pale


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n# A\n\n---\n\nb", "<h1>A</h1>\n<hr />\n<p>b</p>\n"),
        ("---\r\nlicense: mit\r\n---\r\nb", "<p>b</p>\n"),
        ("a<!-- x\ny -->b", "<p>ab</p>\n"),
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>\n"),
        ("![a](http://x/y.png)z", "<p>z</p>\n"),
        ("[a](javascript:x)", "<p>[a](javascript:x)</p>\n"),
        ("", ""),
    ],
)
def test_a_card_is_text_without_tags_of_its_own(card, expected):
    assert card_html(card) == expected


def test_a_folder_without_card_and_pictures(tmp_path):
    page = build_page(classifier_of(), tmp_path)
    shown = " ".join(str(block.value) for block in page.blocks.values() if hasattr(block, "value"))
    assert "has no card (README.md)" in shown
    assert "has no pictures (figures/*.png)" in shown
    assert "pairs" not in shown


def test_a_model_of_pairs_says_how_to_give_them(tmp_path):
    (tmp_path / "run_config.yaml").write_text("text_pair_column: answer\ntext_pair_separator: ' | '\n")
    assert pair_note(pair_fields_of(tmp_path)["text_pair_separator"]).endswith("in one, with ' | ' between.")
    page = build_page(classifier_of(), tmp_path)
    assert any("The model reads pairs" in str(getattr(block, "value", "")) for block in page.blocks.values())
