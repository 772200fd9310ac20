"""The exported folder: its tokenizer.json alone, and the check that it has to pass."""

import json

import pytest
import torch
from conftest import NANO, make_texts
from saved_models import LABELS, three_label_run
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from recipe import GPT2LastTokenClassifier, load_tokenizer
from recipe.data.windows import Windows, remember_windows
from recipe.errors import RecipeError
from recipe.inference import onnx_export
from recipe.inference.onnx_export import ODD_TEXTS, check_rows, check_tokenizer, export_folder, save_standalone
from recipe.inference.text_classifier import TextClassifier

TEXTS = [*ODD_TEXTS, *make_texts(30, LABELS)["text"], "a<|endoftext|>", "  two  spaces\r\n"]


def classifier_with(max_length=None, side=None, windows=None):
    model = GPT2LastTokenClassifier.from_pretrained(NANO)
    remember_windows(model.config, windows)
    return TextClassifier(model, load_tokenizer(str(NANO), model.config, max_length, side), "cpu")


@pytest.mark.parametrize(("max_length", "side"), [(None, None), (8, None), (8, "left"), (1, "right")])
def test_tokenizers_alone_gives_our_tokens(max_length, side, tmp_path):
    classifier = classifier_with(max_length, side)
    save_standalone(classifier, tmp_path / "tokenizer.json")
    check_tokenizer(classifier, tmp_path / "tokenizer.json", TEXTS)
    alone, eos = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), classifier.tokenizer.eos_token_id
    ours = classifier.tokenizer.pad({"input_ids": classifier.encode(TEXTS)[0]})
    found = alone.encode_batch(TEXTS)
    assert [part.ids for part in found] == ours["input_ids"]
    assert [part.attention_mask for part in found[1:]] == ours["attention_mask"][1:]
    assert found[0].ids[0] == eos  # of the empty text, as padding, which the graph reads the same way
    assert sum(found[0].attention_mask) == 0
    assert all(eos not in alone.encode(text).ids for text in TEXTS)


@pytest.mark.parametrize("windows", [Windows(16, 4), Windows(16, 0), Windows(5, 4)])
def test_windows_are_the_overflow(windows, tmp_path):
    classifier = classifier_with(windows=windows)
    save_standalone(classifier, tmp_path / "tokenizer.json")
    check_tokenizer(classifier, tmp_path / "tokenizer.json", TEXTS)


def test_windows_of_a_part_of_a_text_are_refused(tmp_path):
    classifier = classifier_with(windows=Windows(16, 4, max_length=40))
    save_standalone(classifier, tmp_path / "tokenizer.json")
    with pytest.raises(RecipeError, match=r"other tokens for the text 'word word .*cannot cut windows from a part"):
        check_tokenizer(classifier, tmp_path / "tokenizer.json", TEXTS)


def test_rows_to_check_have_all_lengths():
    classifier = classifier_with()
    rows = check_rows(classifier, None)
    assert [len(row) for row in rows[:2]] == [1, 512]
    assert len(rows) == 200
    assert len({len(row) for row in rows}) > 50
    long = check_rows(classifier, ["word " * 3000] * 1000)
    assert len(long) == 40  # of 512 tokens each: no more are read


@pytest.mark.launch
def test_folder_loads_in_transformers_too(tmp_path):
    run = three_label_run()
    export_folder(str(run), TextClassifier.from_pretrained(run, "cpu"), TEXTS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    saved, config = (json.loads((folder / "config.json").read_text()) for folder in (run, tmp_path))
    assert config == saved
    assert config["id2label"] == {"0": "medicine", "1": "sport", "2": "technology"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXTS)["input_ids"] == AutoTokenizer.from_pretrained(run)(TEXTS)["input_ids"]
    assert tokenizer.pad_token_id == 8191


@pytest.mark.launch
def test_folder_of_our_own_class_keeps_its_config(tmp_path):
    """Another pooling, two labels without names, a threshold and windows."""
    model = GPT2LastTokenClassifier.from_pretrained(NANO, pooling="mean")
    remember_windows(model.config, Windows(16, 4))
    model.config.decision_threshold = 0.3
    model.save_pretrained(tmp_path / "run")
    load_tokenizer(str(NANO), model.config).save_pretrained(tmp_path / "run")
    export_folder(
        str(tmp_path / "run"), TextClassifier.from_pretrained(tmp_path / "run", "cpu"), None, tmp_path / "onnx"
    )
    saved, config = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("run", "onnx"))
    assert config == {**saved, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    kept = (config["pooling"], config["decision_threshold"], config["window"], config["window_overlap"])
    assert kept == ("mean", 0.3, 16, 4)


@pytest.mark.parametrize(("shift", "head"), [(1e-3, 1), (1e-5, 0)])
@torch.no_grad()
def test_export_that_answers_differently_is_not_saved(shift, head, tmp_path, monkeypatch):
    """By more than rounding; or by less, but where all logits are 0 that is another label."""
    run = three_label_run()
    classifier = TextClassifier.from_pretrained(run, "cpu")
    for parameter in classifier.model.score.parameters():
        parameter.mul_(head)
    classifier.model.transformer.ln_f.bias.mul_(head)

    class Other(torch.nn.Module):
        def __init__(self, path, config):
            super().__init__()

        def forward(self, **batch):
            output = classifier.model(**batch)
            output.logits[:, 1] += shift
            return output

    monkeypatch.setattr(onnx_export, "OnnxModel", Other)
    monkeypatch.setattr(onnx_export, "export_graph", lambda model, empty_id, path: path.write_bytes(b"graph"))
    with pytest.raises(RecipeError, match=r"answers differently, by .* nothing is saved"):
        export_folder(str(run), classifier, TEXTS, tmp_path)
    assert list(tmp_path.iterdir()) == []
