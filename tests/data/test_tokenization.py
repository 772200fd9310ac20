import ast
import shutil
from pathlib import Path

import datasets
import pytest
from conftest import NANO, SHARED, make_texts
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GPT2Config, GPT2Tokenizer

from recipe.data import texts, tokenization, trained_on, windows
from recipe.data.texts import join_texts
from recipe.data.tokenization import encode_texts, load_tokenizer, tokenize
from recipe.errors import RecipeError
from recipe.model.export import save_tokenizer

CONFIG = GPT2Config.from_pretrained(NANO)


def test_tokens_are_the_tokenizers_own_and_never_special():
    tokenizer = load_tokenizer(str(NANO), CONFIG)
    texts = ["hello there", "", "a <|endoftext|>", "\ud800 lone", "nul \0"]
    ids, lengths = encode_texts(tokenizer, texts)
    reference = AutoTokenizer.from_pretrained(NANO, split_special_tokens=True)
    assert ids[0] == reference("hello there")["input_ids"]
    assert ids[1] == [CONFIG.eos_token_id]
    assert CONFIG.eos_token_id not in ids[2]
    assert reference.decode(ids[3]) == "\ufffd lone"
    assert reference.decode(ids[4]) == "nul \0"
    assert lengths == [len(row) for row in ids]


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_takes_the_side_that_was_asked(side):
    tokenizer = load_tokenizer(str(NANO), CONFIG, max_length=4, truncation_side=side)
    whole = AutoTokenizer.from_pretrained(NANO)("one two three four five six seven")["input_ids"]
    ids, lengths = encode_texts(tokenizer, ["one two three four five six seven", "one"])
    assert ids[0] == (whole[:4] if side == "right" else whole[-4:])
    assert lengths == [len(whole), 1]


def test_a_saved_tokenizer_says_how_it_was_used(tmp_path):
    load_tokenizer(str(NANO), CONFIG, max_length=32, truncation_side="left").save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert (saved.model_max_length, saved.padding_side, saved.truncation_side) == (32, "right", "left")
    assert saved.split_special_tokens
    assert saved.pad_token_id == CONFIG.eos_token_id
    assert CONFIG.eos_token_id not in saved("x <|endoftext|>")["input_ids"]


def test_splits_are_tokenized_counted_and_keep_their_labels(caplog):
    frame = make_texts(30, ["sport", "medicine"]).assign(label=lambda f: (f["label"] == "sport").astype(int))
    frame.loc[30] = ["", 1]
    rows_in = datasets.Dataset.from_pandas(frame.assign(other="x"), preserve_index=False)
    tokenizer = load_tokenizer(str(NANO), CONFIG, max_length=16, truncation_side="right")
    # A plain dict of another split, ids or names: whatever has text and label.
    named = rows_in.cast_column("label", datasets.ClassLabel(names=["medicine", "sport"]))
    tokenized = tokenize(datasets.DatasetDict({"train": rows_in, "mine": named.select([3, 1])}), tokenizer)
    rows = tokenized["train"]
    whole = AutoTokenizer.from_pretrained(NANO)(frame["text"].tolist())["input_ids"]
    whole[30] = [CONFIG.eos_token_id]
    assert rows["input_ids"][:] == [ids[:16] for ids in whole]
    assert rows["attention_mask"][:] == [[1] * min(len(ids), 16) for ids in whole]
    assert rows["length"][:] == [min(len(ids), 16) for ids in whole]
    assert rows["uncut_length"][:] == [len(ids) for ids in whole]
    assert rows["labels"][:] == frame["label"].tolist()
    assert sorted(rows.column_names) == ["attention_mask", "input_ids", "labels", "length", "uncut_length"]
    assert tokenized["mine"][:] == rows.select([3, 1])[:]
    lengths = [len(ids) for ids in whole]
    cut, seen = sum(length > 16 for length in lengths), sum(min(length, 16) for length in lengths)
    share = f"{seen / sum(lengths) * 100:.1f} %"
    assert f"train: {seen} of {sum(lengths)} tokens read ({share}), {cut} of 31 texts cut at 16 tokens" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "text_pair": ["b"], "label": [1]}, "test: join the column text_pair onto text first"),
        ({"text": ["a"], "target": [1]}, "test: no column 'label' among text, target"),
        ({"text": ["a", None], "label": [1, 0]}, "test: row 1 has the text 'None'"),
        ({"text": ["a", "b"], "label": [1, -1]}, "test: row 1 has the label '-1'"),
        ({"text": ["a"], "label": ["spam"]}, r"test: row 0 has the label 'spam': .*class_encode_column\('label'\)"),
    ],
)
def test_rows_without_text_or_label_are_refused(columns, message):
    with pytest.raises(RecipeError, match=message):
        tokenize({"test": datasets.Dataset.from_dict(columns)}, load_tokenizer(str(NANO), CONFIG))


def test_modules_for_one_text_import_no_data_libraries():
    heavy = {"datasets", "pandas", "sklearn", "scipy"}
    for module in (tokenization, windows, texts, trained_on):
        tree = ast.parse(Path(module.__file__).read_text())
        imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {getattr(node, "module", None) or node.names[0].name for node in imported}
        assert not heavy & {name.split(".")[0] for name in names}


def test_wrong_lengths_and_tokenizers_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"max_length is 513, but .* has 512 positions"):
        load_tokenizer(str(NANO), CONFIG, max_length=513)
    shutil.copy(NANO / "config.json", tmp_path)
    with pytest.raises(RecipeError, match="tokenizer"):
        load_tokenizer(str(tmp_path), CONFIG)
    with pytest.raises(RecipeError, match="vocabulary of 100, its tokenizer one of 8192"):
        load_tokenizer(str(NANO), GPT2Config(vocab_size=100))


@pytest.mark.skipif(not SHARED.is_dir(), reason="GPT-2's own vocabulary is in ../shared/data")
def test_gpt2s_own_vocabulary(tmp_path):
    files = SHARED / "data" / "gpt2_tokenizer"
    GPT2Config().save_pretrained(tmp_path)
    GPT2Tokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt")).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), GPT2Config())
    assert tokenizer.model_max_length == 1024
    assert encode_texts(tokenizer, ["Do you have time"])[0] == [[5211, 345, 423, 640]]


def test_a_tokenizer_whose_texts_end_in_padding_is_refused(tmp_path):
    """A stock model finds the last token by its id: it would read the one before what the tokenizer appends."""
    config = GPT2Config.from_pretrained(NANO)
    tokenizer = load_tokenizer(str(NANO), config)
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"ends each text with '<.endoftext.>', which a stock"):
        load_tokenizer(str(tmp_path), config)


def test_white_space_at_the_ends_moves_nothing_and_the_saved_tokenizer_knows_it(tmp_path):
    tokenizer = load_tokenizer(str(NANO), CONFIG)
    texts = ["hello there", "hello there ", " \thello there\n", "hello there\u00a0"]
    assert len({tuple(ids) for ids in encode_texts(tokenizer, texts)[0]}) == 1
    assert encode_texts(tokenizer, ["  "])[0] == [[CONFIG.eos_token_id]]
    save_tokenizer(tokenizer, tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved(texts)["input_ids"] == [AutoTokenizer.from_pretrained(NANO)("hello there")["input_ids"]] * 4
    # A tokenizer of somebody else's model stays as it is.
    theirs = load_tokenizer(str(NANO), CONFIG, strip=False)
    assert theirs("hello ")["input_ids"] != theirs("hello")["input_ids"]


@pytest.mark.parametrize("separator", ["\n", " [SEP] "])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_tokenized_as_transformers_does_and_the_longer_text_is_cut(tmp_path, separator, side):
    tokenizer = load_tokenizer(str(NANO), CONFIG, 32, side, text_pair_separator=separator)
    save_tokenizer(tokenizer, tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert join_texts(["two\nlines", " end "], "\n") == "two lines\nend"
    pairs = [
        ("one two", "three"),
        ("long " * 100, "short"),
        ("short", "long " * 100),
        ("a " * 50, "b " * 90),
        ("x", ""),
    ]
    ids, lengths = encode_texts(tokenizer, [join_texts(pair, separator) for pair in pairs])
    columns = [[first.strip() for first, _ in pairs], [second.strip() for _, second in pairs]]
    assert ids[:-1] == saved(*columns, truncation=True, max_length=32)["input_ids"][:-1]
    assert ids[-1] == saved("x", "")["input_ids"]  # transformers takes an empty second text for none, in a call of one
    assert lengths[:-1] == [len(row) for row in saved(*columns)["input_ids"][:-1]]
    assert "short" in tokenizer.decode(ids[1])
    assert "short" in tokenizer.decode(ids[2])
    assert tokenizer.backend_tokenizer.truncation is None
    again = load_tokenizer(str(tmp_path), CONFIG, strip=False)
    assert encode_texts(again, [join_texts(pair, separator) for pair in pairs])[0] == ids
