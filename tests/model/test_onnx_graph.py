"""The exported graph against transformers' own model and ours, in onnxruntime."""

import importlib.util
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from conftest import tiny_model

from recipe import to_stock
from recipe.errors import RecipeError
from recipe.model.onnx_graph import OnnxModel, export_graph, quantize_int8, require_onnx

EMPTY = 99
pytestmark = pytest.mark.launch


@pytest.fixture(scope="module", params=["last", "mean", "first"])
def exported(request, tmp_path_factory):
    """A random model, the path of its graph, and the graph."""
    model = tiny_model(pooling=request.param)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_graph(model, EMPTY, path)
    return model, path, OnnxModel(path, model.config)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 7), (5, 33), (1, 64), (4, 64)])
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
