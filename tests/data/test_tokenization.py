import ast
import shutil
from pathlib import Path

import datasets
import pytest
from conftest import NANO, SHARED, make_texts
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GPT2Config, GPT2Tokenizer

from recipe.data import texts, tokenization, trained_on, windows
from recipe.data.tokenization import encode_texts, load_tokenizer, tokenize
from recipe.errors import RecipeError

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
