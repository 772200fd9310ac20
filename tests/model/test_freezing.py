import pytest
import torch
from conftest import tiny_model
from transformers import GPT2Config

from recipe import GPT2LastTokenClassifier, freeze_except, last_blocks
from recipe.errors import RecipeError
from recipe.model.freezing import trainable_patterns


def test_counts_at_gpt2_small_shape():
    with torch.device("meta"):
        model = GPT2LastTokenClassifier(GPT2Config(num_labels=2))
    report = freeze_except(model, last_blocks(model.config, 1))
    assert (report.trainable, report.total) == (7_090_946, 124_441_346)


@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_last_blocks_train(k):
    model = tiny_model()
    freeze_except(model, last_blocks(model.config, k))
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    prefixes = (*(f"transformer.h.{i}." for i in range(4 - k, 4)), "transformer.ln_f.", "score.")
    assert trains == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_block_1_is_not_block_11():
    model = tiny_model(n_layer=12)
    freeze_except(model, ["transformer.h.1.*"])
    assert {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"1"}


def test_a_new_filter_replaces_the_old_one():
    model = tiny_model()
    freeze_except(model, ["*"])
    report = freeze_except(model, ["score.*"])
    assert report.trainable == sum(p.numel() for p in model.score.parameters())


def test_names_stand_for_globs():
    config = GPT2Config(n_layer=6)
    assert trainable_patterns(config, ["all"]) == ["*"]
    assert trainable_patterns(config, ["head"]) == ["score.*"]
    assert trainable_patterns(config, ["last_blocks:2"]) == last_blocks(config, 2)
    assert trainable_patterns(config, ["transformer.h.5.*", "head"]) == ["transformer.h.5.*", "score.*"]
    with pytest.raises(RecipeError, match="last_blocks:K"):
        trainable_patterns(config, ["last_blocks:two"])
    with pytest.raises(ValueError, match="0 to 6"):
        last_blocks(config, 7)


def test_a_pattern_that_matches_nothing_names_the_blocks():
    model = tiny_model()
    before = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=r"h\.4\.\*.*transformer\.h\.0 to transformer\.h\.3"):
        freeze_except(model, ["score.*", "transformer.h.4.*"])
    with pytest.raises(ValueError, match="no pattern"):
        freeze_except(model, [])
    assert [p.requires_grad for p in model.parameters()] == before


def test_report_prints_every_module_and_the_totals():
    model = tiny_model()
    report = freeze_except(model, ["transformer.h.3.mlp.*", "score.*"])
    lines = {line.split()[0]: line for line in str(report).splitlines()}
    assert lines["transformer.h.2"].endswith("  frozen")
    assert lines["transformer.h.3"].endswith("partly trainable")
    assert lines["score"].endswith("  trainable")
    assert f"{sum(p.numel() for p in model.parameters()):,}" in lines["total"]
    assert f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}" in lines["trainable"]
