"""Whose head a loaded model has: the checkpoint's where it fits the labels, else a fresh one, and a log line tells."""

import pytest
import torch
from conftest import tiny_model
from transformers import GPT2ForSequenceClassification

from recipe.errors import RecipeError
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import to_stock
from recipe.model.freezing import freeze_except
from recipe.model.loading import head_labels, load_config

LABELS = ["technology", "sport", "medicine"]


def by_id(labels):
    return dict(enumerate(labels))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A stock classifier for LABELS."""
    folder = tmp_path_factory.mktemp("saved")
    stock = to_stock(tiny_model())
    stock.config.id2label, stock.config.label2id = by_id(LABELS), {name: i for i, name in enumerate(LABELS)}
    stock.save_pretrained(folder)
    return folder


def test_head_for_the_same_labels_is_kept(saved):
    assert head_labels(load_config(str(saved))) == LABELS
    stock = GPT2ForSequenceClassification.from_pretrained(saved)
    for keywords in ({"id2label": by_id(LABELS)}, {"id2label": by_id(LABELS), "ignore_mismatched_sizes": True}):
        model = GPT2LastTokenClassifier.from_pretrained(saved, **keywords)
        assert torch.equal(model.score.weight, stock.score.weight)
        assert model.config.id2label == by_id(LABELS)
        assert model.head_description == f"{saved}'s head is kept, with its 3 labels (technology, sport, medicine)"


@pytest.mark.parametrize("labels", [["games", "medicine", "technology"], ["games", "art"], LABELS[::-1]])
def test_head_for_other_labels_is_refused_or_replaced(saved, labels):
    """Also where there are as many, so that the old weights would fit, and where only their order differs."""
    message = (
        f"head is for the labels technology, sport, medicine, the data has {', '.join(labels)}: pass --ignore_mism"
    )
    with pytest.raises(RecipeError, match=message):
        GPT2LastTokenClassifier.from_pretrained(saved, id2label=by_id(labels))
    model = GPT2LastTokenClassifier.from_pretrained(saved, id2label=by_id(labels), ignore_mismatched_sizes=True)
    names = ", ".join(labels)
    old_head = f"in place of {saved}'s (technology, sport, medicine)"
    assert model.head_description == f"fresh head for {len(labels)} labels ({names}) {old_head}"
    stock = GPT2ForSequenceClassification.from_pretrained(saved)
    old, new = stock.score.weight.detach(), model.score.weight.detach()
    assert torch.nn.functional.cosine_similarity(new[:, None], old[None], dim=-1).abs().max() < 0.6
    assert new.std() == pytest.approx(0.02, rel=0.4)
    assert torch.equal(model.score.bias, torch.zeros(len(labels)))
    assert torch.equal(model.transformer.h[3].mlp.c_fc.weight, stock.transformer.h[3].mlp.c_fc.weight)


def test_head_without_names_is_taken_for_the_datas_labels(saved, tmp_path):
    """One of the right size is kept; of another size it is refused, or replaced."""
    stock = GPT2ForSequenceClassification.from_pretrained(saved)
    stock.config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    stock.save_pretrained(tmp_path)
    model = GPT2LastTokenClassifier.from_pretrained(tmp_path, id2label=by_id(["a", "b", "c"]))
    assert torch.equal(model.score.weight, stock.score.weight)
    with pytest.raises(RecipeError, match=r"its head has 3 labels but 2 are needed: .*pass ignore_mismatched_sizes"):
        GPT2LastTokenClassifier.from_pretrained(tmp_path, id2label=by_id(["a", "b"]))
    two = GPT2LastTokenClassifier.from_pretrained(tmp_path, id2label=by_id(["a", "b"]), ignore_mismatched_sizes=True)
    assert two.score.weight.shape == (2, 32)


def test_pooling_and_dropout_are_the_callers_or_the_checkpoints(tmp_path):
    tiny_model(pooling="mean").save_pretrained(tmp_path)
    assert GPT2LastTokenClassifier.from_pretrained(tmp_path).pooling == "mean"
    model = GPT2LastTokenClassifier.from_pretrained(tmp_path, pooling="last", dropout=0.1)
    assert (model.pooling, model.config.resid_pdrop, model.config.attn_pdrop) == ("last", 0.1, 0.1)


def test_random_head_that_stays_random_is_warned_about(saved, tmp_path, caplog):
    tiny_model().transformer.save_pretrained(tmp_path)
    freeze_except(GPT2LastTokenClassifier.from_pretrained(saved), ["transformer.h.3.*"])
    assert "the head is fresh" not in caplog.text
    freeze_except(GPT2LastTokenClassifier.from_pretrained(tmp_path), ["transformer.h.3.*", "score.*"])
    assert "the head is fresh" not in caplog.text
    freeze_except(GPT2LastTokenClassifier.from_pretrained(tmp_path), ["transformer.h.3.*"])
    assert "the head is fresh, so random, and stays so" in caplog.text
