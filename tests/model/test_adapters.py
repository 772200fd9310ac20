"""LoRA adapters in place of the matrices that the filter names: counts by closed form, the same model once merged."""

import sys

import pytest
import torch
from conftest import tiny_model
from transformers.pytorch_utils import Conv1D

from recipe.errors import RecipeError
from recipe.model.adapters import add_adapters
from recipe.model.freezing import freeze_except, last_blocks


def adapted(patterns, r=4, alpha=16):
    model = tiny_model()
    freeze_except(model, patterns)
    return model, *add_adapters(model, r, alpha)


def test_adapters_and_the_head_train_and_nothing_else():
    before = tiny_model()
    matrices = [m.weight for name, m in before.named_modules() if isinstance(m, Conv1D) and ".h.3." in f".{name}."]
    head = sum(parameter.numel() for parameter in before.score.parameters())
    by_closed_form = sum(4 * (rows + columns) for rows, columns in (matrix.shape for matrix in matrices)) + head
    model, wrapped, report = adapted(last_blocks(before.config, 1))
    assert len(matrices) == 4
    assert report.trainable == by_closed_form == wrapped.get_nb_trainable_parameters()[0]
    assert report.total == sum(parameter.numel() for parameter in before.parameters()) + by_closed_form - head
    assert [name for name, (_, trainable) in report.modules.items() if trainable] == ["transformer.h.3", "score"]
    assert model.split_depth == 3


def test_adapters_start_as_the_model_and_merge_into_it():
    model, wrapped, _ = adapted(["*"])
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = tiny_model().eval()(input_ids=ids).logits
        torch.testing.assert_close(wrapped.eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-4)
        weight = model.transformer.h[0].mlp.c_fc
        (a,), (b,) = weight.lora_A.values(), weight.lora_B.values()
        torch.nn.init.normal_(b.weight)
        change = 16 / 4 * (b.weight @ a.weight).T
        start = weight.base_layer.weight.clone()
        logits = wrapped(input_ids=ids).logits
        merged = wrapped.merge_and_unload()
        torch.testing.assert_close(merged.transformer.h[0].mlp.c_fc.weight, start + change)
        torch.testing.assert_close(merged(input_ids=ids).logits, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("patterns", [["score.*"], ["transformer.ln_f.*", "score.*"], ["transformer.h.3.ln_1.*"]])
def test_a_filter_without_matrices_is_refused(patterns):
    with pytest.raises(RecipeError, match="lora_r: trainable names no block's matrices to adapt: give last_blocks"):
        adapted(patterns)


def test_a_filter_without_the_head_is_refused():
    with pytest.raises(RecipeError, match=r"lora_r: trainable leaves the head out.*add 'score"):
        adapted(["transformer.h.3.*"])


def test_without_peft_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"lora_r needs peft.*gpt2-classifier-recipe\[lora\]"):
        adapted(["*"])
