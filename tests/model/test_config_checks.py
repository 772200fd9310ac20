"""A config.json or weights that cannot be used are refused in one line."""

import json
import shutil

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from recipe import GPT2LastTokenClassifier, to_stock
from recipe.errors import RecipeError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    to_stock(tiny_model()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_layer": 5}, "the checkpoint lacks 12 GPT-2 weights"),
        ({"n_embd": 64}, r"is \[\d+, 32\] in the checkpoint but \[\d+, 64\] by its config.json"),
        ({"n_positions": 7}, r"wpe.weight is \[64, 32\] in the checkpoint but \[7, 32\] by its config.json"),
        ({"n_layer": 2}, "n_layer 2, but the weights have 4 blocks"),
        ({"id2label": {"0": "a", "2": "c", "1": "a"}}, "id2label does not name each of its 3 labels once"),
        ({"id2label": {"0": "a", "5": "c", "1": "b"}}, "id2label does not name each of its 3 labels once"),
        ({"problem_type": "multi_label_classification"}, "problem_type is 'multi_label_classification', but a text"),
        ({"model_type": "bert"}, "is of type 'bert'"),
    ],
)
def test_odd_configs_are_refused(folder, fields, message):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=message):
        GPT2LastTokenClassifier.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b""])
def test_weights_that_do_not_load_are_refused(folder, content):
    """Such as the pointer that a git checkout has in place of a large file."""
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(RecipeError, match=r"no safetensors weights that load .*git lfs pull"):
        GPT2LastTokenClassifier.from_pretrained(folder)


@torch.no_grad()
def test_a_folder_of_our_own_class_loads_as_that_class_or_not_at_all(tmp_path):
    model = tiny_model(pooling="mean")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    input_ids = torch.arange(12).view(2, 6)
    assert type(loaded) is GPT2LastTokenClassifier
    assert torch.equal(loaded(input_ids=input_ids).logits, model(input_ids=input_ids).logits)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gpt2_last_token_classifier"


def test_masks_that_older_versions_saved_are_no_weights(folder):
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8)}
    weights = load_file(folder / "model.safetensors")
    save_file(weights | mask, folder / "model.safetensors", metadata={"format": "pt"})
    assert GPT2LastTokenClassifier.from_pretrained(folder).num_labels == 3
