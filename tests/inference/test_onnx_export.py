"""The exported folder: its tokenizer.json alone, and the check that it has to pass."""

import importlib.util
import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from conftest import NANO, make_texts, tiny_model
from saved_models import LABELS, three_label_run
from tokenizers import Tokenizer

from recipe import GPT2LastTokenClassifier, load_tokenizer, to_stock
from recipe.data.windows import Windows, remember_windows
from recipe.errors import RecipeError
from recipe.inference import onnx_export
from recipe.inference.onnx_export import (
    ODD_TEXTS,
    OnnxModel,
    check_tokenizer,
    export_folder,
    export_graph,
    quantize_int8,
    require_onnx,
    rows_to_check,
    save_standalone,
)
from recipe.inference.text_classifier import TextClassifier

TEXTS = [*ODD_TEXTS, *make_texts(30, LABELS)["text"], "a<|endoftext|>", "  two  spaces\r\n"]


def classifier_with(max_length=None, side=None, windows=None):
    model = GPT2LastTokenClassifier.from_pretrained(NANO, n_layer=1)
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
    empty = [not text.strip() for text in TEXTS]  # padding alone, which the graph reads the same way
    assert [sum(part.attention_mask) == 0 for part in found] == empty
    assert all(
        part.attention_mask == mask
        for part, mask, gone in zip(found, ours["attention_mask"], empty, strict=True)
        if not gone
    )
    assert found[0].ids[0] == eos
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
    rows = rows_to_check(classifier, None)
    assert [len(row) for row in rows[:2]] == [1, 512]
    assert len(rows) == 200
    assert len({len(row) for row in rows}) > 50
    long = rows_to_check(classifier, ["word " * 3000] * 1000)
    assert len(long) == 40  # of 512 tokens each: no more are read


@pytest.mark.launch
def test_folder_of_our_own_class_keeps_its_config(tmp_path):
    """Another pooling, two labels without names, a threshold and windows."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 8191)
    model = tiny_model(num_labels=2, n_layer=1, pooling="mean", vocab_size=8192, **special)
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


EMPTY = 99
pytestmark = pytest.mark.launch


@pytest.fixture(scope="module", params=["last", "mean", "first"])
def exported(request, tmp_path_factory):
    """A random model, the path of its graph, and the graph."""
    model = tiny_model(n_layer=2, pooling=request.param)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_graph(model, EMPTY, path)
    return model, path, OnnxModel(path, model.config)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (5, 33), (4, 64)])
def test_any_shape_and_padding_give_the_models_logits(exported, shape):
    model, _, graph = exported
    torch.manual_seed(sum(shape))
    ids = torch.randint(0, 98, shape)
    texts = [row[: int(length)] for row, length in zip(ids, torch.randint(1, shape[1] + 1, shape[:1]), strict=True)]
    expected = torch.cat([model(input_ids=text[None]).logits for text in texts])
    for place in ("right", "left", "between"):
        padded, mask = torch.randint(0, 98, shape), torch.zeros(shape, dtype=torch.int64)
        for row, text in enumerate(texts):
            room = shape[1] - len(text)
            columns = {"right": range(len(text)), "left": range(room, shape[1])}.get(place)
            columns = columns or sorted(torch.randperm(shape[1])[: len(text)].tolist())
            padded[row, list(columns)], mask[row, list(columns)] = text, 1
        torch.testing.assert_close(graph(padded, mask).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_texts_without_a_token_are_the_empty_one(exported):
    model, _, graph = exported
    expected = model(input_ids=torch.tensor([[EMPTY]])).logits.expand(2, -1)
    for width in (0, 1, 5):
        nothing = torch.zeros((2, width), dtype=torch.int64)
        torch.testing.assert_close(graph(nothing, nothing).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_beyond_all_positions_is_cut_off_and_longer_texts_are_an_error(exported):
    model, _, graph = exported
    ids = torch.randint(0, 98, (2, 90))
    mask = torch.zeros_like(ids)
    mask[:, 20:84] = 1
    torch.testing.assert_close(graph(ids, mask).logits, model(input_ids=ids[:, 20:84]).logits, atol=1e-5, rtol=0)
    with pytest.raises(Exception, match="Non-zero status code"):
        graph(ids, torch.ones_like(ids))


def test_the_file_says_how_it_is_called_and_nothing_of_this_machine(exported):
    _, path, _ = exported
    graph = onnx.load(path).graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"input_ids": ["batch", "length"], "attention_mask": ["batch", "length"], "logits": ["batch", 3]}
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


@torch.no_grad()
def test_stock_model_of_transformers_agrees_and_int8_is_near(tmp_path):
    model = tiny_model(n_embd=128, n_layer=3)
    stock = to_stock(model)
    export_graph(model, EMPTY, tmp_path / "model.onnx")
    quantize_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    ids = torch.randint(0, 98, (4, 20))
    expected = stock(input_ids=ids).logits
    exact, int8 = (
        OnnxModel(tmp_path / name, model.config)(ids, torch.ones_like(ids)).logits
        for name in ("model.onnx", "int8.onnx")
    )
    torch.testing.assert_close(exact, expected, atol=1e-4, rtol=0)
    errors = (int8 - expected).abs().max()
    assert 0 < errors < 0.2 * expected.abs().max()
    operations = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    # Of the last block, attention has its shortcut: its query is not quantized; the head is.
    assert operations["MatMulInteger"] == 4 * 2 + 3 + 1
    weights = {
        tensor.name: np.prod(tensor.dims)
        for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    assert sum(size > 3 * 128 * 128 for size in weights.values()) == 0  # none but c_attn of the last block
    assert (tmp_path / "int8.onnx").stat().st_size < 0.45 * (tmp_path / "model.onnx").stat().st_size


def test_model_that_the_exporter_refuses_is_named(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(model, "tail", lambda hidden, lengths, depth: hidden if hidden.sum() > 0 else -hidden)
    with pytest.raises(RecipeError, match="GPT2LastTokenClassifier cannot be exported by torch"):
        export_graph(model, EMPTY, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(RecipeError, match=r"needs onnxscript: pip install 'gpt2-classifier-recipe\[onnx\]'"):
        require_onnx()
