"""What holds for any padding and for any text: hypothesis draws them, transformers' own model on single texts judges."""

import functools
import itertools

import numpy as np
import torch
from conftest import NANO, tiny_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from recipe.data.tokenization import Coverage, encode_texts, load_tokenizer
from recipe.data.windows import Windows
from recipe.inference.text_classifier import TextClassifier

bounded = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
EOS, POSITIONS = 8191, 64

# Every code point, lone surrogates and NUL among them; what people type to look special; emoji; and long texts.
characters = st.characters(exclude_categories=())
special = st.sampled_from(
    ["<|endoftext|>", "<|endoftext|", "\ud800", "\0", "👩‍👩‍👧", "🎉", "\u202e", "\ufeff", "\r\n", " " * 50]
)
pieces = st.one_of(st.text(characters, max_size=30), special)
short_texts = st.lists(pieces, max_size=5).map("".join)


def repeated(times):
    return st.one_of(short_texts, st.builds(lambda text, times: text * times, short_texts, st.integers(1, times)))


texts, long_texts = repeated(8), repeated(500)


@functools.cache
def models():
    """Ours and transformers' own with the same weights; a stock head has no bias."""
    model = tiny_model(vocab_size=8192, eos_token_id=EOS, pad_token_id=EOS, n_positions=POSITIONS)
    model.score.bias.data.zero_()
    stock = GPT2ForSequenceClassification(GPT2Config.from_dict(model.config.to_dict())).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "score.bias"}
    stock.load_state_dict(state)
    stock.config.pad_token_id = None  # else it takes a text's own last token for padding where the ids are equal
    return model, stock


@functools.cache
def tokenizer(side="right"):
    return load_tokenizer(str(NANO), models()[0].config, truncation_side=side)


@functools.cache
def plain_tokenizer():
    """The tokenizer by itself, to check ours with."""
    return AutoTokenizer.from_pretrained(NANO, split_special_tokens=True)


def readable(text):
    """As Unicode allows it: half of a surrogate pair is U+FFFD. Without Unicode's white space at the ends."""
    white = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip(white)


@torch.no_grad()
def logits_alone(input_ids):
    """Row by row, unpadded, so that transformers need not look for the last token."""
    return torch.cat([models()[1](torch.tensor([ids])).logits for ids in input_ids])


# Tokens may be the id that pads; only the mask tells.
rows = st.lists(
    st.tuples(
        st.lists(st.sampled_from([EOS, 0, 5, 70, 4000]) | st.integers(0, EOS), min_size=1, max_size=40),
        st.integers(0, 12),  # padding on its left, and on its right
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=6,
)


@bounded
@given(rows, st.sampled_from(["as drawn", "left", "right"]), st.integers(0, EOS))
def test_any_padding_gives_the_unpadded_logits(drawn, side, filler):
    """`as drawn` pads both sides, with whatever is missing to the batch's width on the right."""
    width = max(left + len(ids) + right for ids, left, right in drawn)
    batch, mask = [], []
    for ids, left, _ in drawn:
        before = {"as drawn": left, "left": width - len(ids), "right": 0}[side]
        after = width - before - len(ids)
        batch.append([filler] * before + ids + [filler] * after)
        mask.append([0] * before + [1] * len(ids) + [0] * after)
    with torch.no_grad():
        logits = models()[0](torch.tensor(batch), torch.tensor(mask)).logits
    torch.testing.assert_close(logits, logits_alone([ids for ids, *_ in drawn]), atol=1e-5, rtol=1e-4)


@bounded
@given(st.lists(st.lists(st.integers(0, EOS), min_size=7, max_size=7), min_size=1, max_size=4))
def test_no_padding_needs_no_mask(drawn):
    with torch.no_grad():
        logits = models()[0](torch.tensor(drawn)).logits
    torch.testing.assert_close(logits, logits_alone(drawn), atol=1e-5, rtol=1e-4)


@bounded
@given(st.lists(long_texts, min_size=1, max_size=8))
@example(["", "<|endoftext|>", "\ud800", "\0", "word " * 30_000])
def test_any_text_tokenizes_without_a_special_token(drawn):
    ids, lengths = encode_texts(tokenizer(), drawn)
    assert len(ids) == len(lengths) == len(drawn)
    for text, row, length in zip(drawn, ids, lengths, strict=True):
        assert 1 <= len(row) == min(length, POSITIONS)
        assert (EOS in row) == (readable(text) == "")
        if readable(text) and length <= POSITIONS:
            assert plain_tokenizer().decode(row) == readable(text)


@bounded
@given(st.lists(texts, max_size=6), st.sampled_from([0, 8, 24]))
@example(["", "<|endoftext|>", "\ud800", "\0", "word " * 300, ""], 24)
def test_one_row_out_for_each_row_in_and_in_order(drawn, window):
    """Each text's row is that of the text by itself, through transformers' model, window by window."""
    classifier = TextClassifier(models()[0], tokenizer(), "cpu", window)
    labels, probabilities = classifier.predict(drawn)
    assert len(labels) == len(drawn)
    assert probabilities.shape == (len(drawn), 3)
    limit = None if window else POSITIONS
    for text, label, row in zip(drawn, labels, probabilities, strict=True):
        ids = (plain_tokenizer()(readable(text), verbose=False)["input_ids"] or [EOS])[:limit]
        step = window - window // 4 if window else len(ids)
        cut = [
            ids[s : s + (window or len(ids))] for s in range(0, len(ids), step) if s == 0 or s + window // 4 < len(ids)
        ]
        expected = logits_alone(cut).double().softmax(-1).mean(0).numpy()
        np.testing.assert_allclose(row, expected, atol=1e-5)
        assert label == classifier.label_names[row.argmax()]


@bounded
@given(st.integers(1, 300), st.integers(1, 70), st.data())
def test_windows_hold_every_token_and_end_where_the_text_ends(length, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    ids = list(range(length))
    cut = Windows(size, overlap).cut(ids)
    joined = cut[0] + [token for window in cut[1:] for token in window[overlap:]]
    assert joined == ids  # each token once but for the overlaps, in order
    assert cut[-1][-1] == length - 1
    assert all(len(window) == size for window in cut[:-1])
    assert overlap < len(cut[-1]) <= size or len(cut) == 1
    assert all(before[size - overlap :] == after[:overlap] for before, after in itertools.pairwise(cut))


@bounded
@given(
    st.lists(texts, min_size=1, max_size=6),
    st.integers(1, 40),
    st.none() | st.integers(1, 100),
    st.sampled_from(["right", "left"]),
)
def test_the_tokens_that_are_counted_are_those_that_are_read(drawn, size, max_length, side):
    cutting = tokenizer(side)
    windows = Windows(size, size // 4, max_length)
    ids, lengths = encode_texts(cutting, drawn, windows.limit)
    coverage = Coverage(lengths, max_length)
    seen = 0
    for row, length in zip(ids, lengths, strict=True):
        places = list(range(length))
        kept = places[:max_length] if side == "right" or max_length is None else places[-max_length:]
        assert len(row) == len(kept)
        seen += len({place for window in windows.cut(kept) for place in window})
    assert (coverage.tokens, coverage.tokens_seen) == (sum(lengths), seen)
    assert coverage.texts_cut == sum(length > (max_length or length) for length in lengths)
