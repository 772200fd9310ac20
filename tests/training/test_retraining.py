"""Training that goes on from a folder that a run saved: where it starts, what it keeps, and what it gives up."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAST, NANO, fields_of, make_texts
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GPT2ForSequenceClassification

from recipe.config import parse_arguments
from recipe.data.windows import Windows
from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier
from recipe.training.preparing import prepare_run
from recipe.training.run import train

LABELS = ["sport", "medicine", "technology"]
TEXTS = make_texts(30, LABELS, seed=7)["text"].tolist()
STILL = ["--learning_rate", "0"]


def run_from(model, data, output_dir, *fields):
    return train(*parse_arguments([*fields_of(model, data, output_dir), *FAST, *fields]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("retraining")


@pytest.fixture(scope="module")
def data(folder):
    make_texts(90, LABELS).to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


@pytest.fixture(scope="module")
def new_data(folder):
    """Texts of two of the labels."""
    make_texts(60, LABELS[:2], seed=3).to_csv(folder / "new.csv", index=False)
    return folder / "new.csv"


@pytest.fixture(scope="module")
def other_data(folder):
    """As many labels, of which one is new."""
    make_texts(60, LABELS, seed=3).replace("sport", "games").to_csv(folder / "other.csv", index=False)
    return folder / "other.csv"


@pytest.fixture(scope="module")
def saved(folder, data):
    run_from(NANO, data, folder / "saved", "--feature_cache", "on", "--feature_cache_dir", str(folder / "cache"))
    return folder / "saved"


@torch.no_grad()
def logits_by_transformers(model_dir):
    """Of the stock model, and unpadded."""
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    ids = TextClassifier.from_pretrained(model_dir).encode(TEXTS)
    return torch.cat([model(torch.tensor([row])).logits for row in ids]).numpy()


@pytest.mark.parametrize("cache", ["on", "off"])
def test_it_starts_where_the_first_run_ended(saved, new_data, tmp_path, cache):
    """With the learning rate 0 every logit is the saved model's; the bias that was folded away is not lost."""
    before = logits_by_transformers(saved)
    fields = ["--feature_cache", cache, "--feature_cache_dir", str(tmp_path / "cache"), "--max_steps", "2"]
    run_from(saved, new_data, tmp_path / "still", *fields, *STILL)
    np.testing.assert_allclose(logits_by_transformers(tmp_path / "still"), before, atol=1e-6)
    assert TextClassifier.from_pretrained(tmp_path / "still").label_names == sorted(LABELS)
    assert abs(before).max() > 0.1
    run_from(saved, new_data, tmp_path / "moved", *fields)
    assert abs(logits_by_transformers(tmp_path / "moved") - before).max() > 0.01


def test_pooling_truncation_and_windows_go_on(data, tmp_path):
    fields = ["--pooling", "mean", "--truncation_side", "left", "--window", "12", "--window_overlap", "2"]
    run_from(NANO, data, tmp_path / "mean", *fields, "--max_length", "30", "--max_steps", "4")
    before = TextClassifier.from_pretrained(tmp_path / "mean").predict(TEXTS)[1]
    run_from(tmp_path / "mean", data, tmp_path / "again", "--max_steps", "2", *STILL)
    again = TextClassifier.from_pretrained(tmp_path / "again")
    assert (again.model.pooling, again.tokenizer.truncation_side) == ("mean", "left")
    assert again.windows == Windows(12, 2, 30)
    np.testing.assert_allclose(again.predict(TEXTS)[1], before, atol=1e-6)
    argv = fields_of(tmp_path / "mean", data, tmp_path / "x")
    assert prepare_run(*parse_arguments([*argv, "--window", "20"])).windows == Windows(20, 5, 30)
    run = prepare_run(*parse_arguments([*argv, "--window", "0", "--pooling", "last"]))
    assert (run.windows, run.model.pooling, run.model.config.window) == (None, "last", None)


def test_fewer_labels_keep_the_whole_head(saved, new_data, tmp_path, caplog):
    caplog.set_level("INFO")
    argv = fields_of(saved, new_data, tmp_path / "x")
    for fields in ([], ["--ignore_mismatched_sizes", "true"]):
        run = prepare_run(*parse_arguments([*argv, *fields]))
        assert run.splits.label_names == sorted(LABELS)
        assert set(run.splits.train["label"]) == {0, 1}
        assert torch.equal(run.model.score.weight, load_file(saved / "model.safetensors")["score.weight"])
        assert "train: no text has the label 'technology'" in caplog.text
        assert "head is kept whole, with its 3 labels (medicine, sport, technology)" in caplog.text
        assert ("it fits, so ignore_mismatched_sizes replaces nothing" in caplog.text) == bool(fields)
        assert "fresh head" not in caplog.text


def test_one_label_alone_is_refused_as_ever(saved, tmp_path):
    make_texts(30, ["sport"]).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(RecipeError, match="all rows have the label 'sport': a classifier needs two labels"):
        prepare_run(*parse_arguments(fields_of(saved, tmp_path / "one.csv", tmp_path / "x")))


@pytest.mark.parametrize("labels", [["games", "medicine", "technology"], ["games", "art"]])
def test_other_labels_drop_the_old_head(saved, tmp_path, labels, caplog):
    """Also where there are as many, so that the old weights would fit."""
    caplog.set_level("INFO")
    rows = make_texts(60, LABELS[: len(labels)], seed=3)
    rows["label"] = rows["label"].map(dict(zip(LABELS, labels, strict=False)))
    rows.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(RecipeError, match="head is for the labels medicine, sport, technology, the data has"):
        run_from(saved, tmp_path / "other.csv", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    run_from(
        saved, tmp_path / "other.csv", tmp_path / "x", "--ignore_mismatched_sizes", "true", "--max_steps", "2", *STILL
    )
    names = ", ".join(sorted(labels))
    assert (
        f"fresh head for {len(labels)} labels ({names}) in place of {saved}'s (medicine, sport, technology)"
        in caplog.text
    )
    old, new = (load_file(path / "model.safetensors") for path in (saved, tmp_path / "x"))
    model = GPT2ForSequenceClassification.from_pretrained(tmp_path / "x")
    assert list(model.config.id2label.values()) == sorted(labels)
    likeness = torch.nn.functional.cosine_similarity(new["score.weight"][:, None], old["score.weight"][None], dim=-1)
    assert likeness.abs().max() < 0.5
    assert new["score.weight"].std() == pytest.approx(0.02, rel=0.2)
    assert torch.equal(old["transformer.h.11.mlp.c_fc.weight"], new["transformer.h.11.mlp.c_fc.weight"])


def test_a_fresh_head_is_said(data, tmp_path, caplog):
    caplog.set_level("INFO")
    prepare_run(*parse_arguments(fields_of(NANO, data, tmp_path / "x")))
    assert "fresh head for 3 labels (medicine, sport, technology)" in caplog.text
    assert "in place of" not in caplog.text


def test_a_head_without_names_for_its_labels(saved, data, new_data, tmp_path, caplog):
    """One of the right size is taken to be for the data's labels; of another size it is refused, or replaced and said."""
    caplog.set_level("INFO")
    model = GPT2ForSequenceClassification.from_pretrained(saved)
    model.config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    model.save_pretrained(tmp_path / "unnamed")
    TextClassifier.from_pretrained(saved).tokenizer.save_pretrained(tmp_path / "unnamed")
    run = prepare_run(*parse_arguments(fields_of(tmp_path / "unnamed", data, tmp_path / "x")))
    assert torch.equal(run.model.score.weight, model.score.weight)
    argv = fields_of(tmp_path / "unnamed", new_data, tmp_path / "x")
    with pytest.raises(RecipeError, match="its head has 3 labels but 2 are needed: pass ignore_mismatched_sizes"):
        prepare_run(*parse_arguments(argv))
    prepare_run(*parse_arguments([*argv, "--ignore_mismatched_sizes", "true"]))
    assert "fresh head for 2 labels (medicine, sport) in place of" in caplog.text


def test_a_checkpoint_of_the_tail_is_refused_with_the_folder_to_give(saved, data, other_data, tmp_path):
    (checkpoint,) = saved.glob("checkpoint-*")
    for texts in (data, other_data):
        for fields in ([], ["--ignore_mismatched_sizes", "true"]):
            with pytest.raises(
                RecipeError, match=f"holds the trained tail alone.*: give the run's output_dir, {saved}$"
            ):
                prepare_run(*parse_arguments([*fields_of(checkpoint, texts, tmp_path / "x"), *fields]))


def test_a_checkpoint_of_the_whole_model_will_do(data, tmp_path):
    run_from(NANO, data, tmp_path / "whole", "--feature_cache", "off", "--max_steps", "2")
    (checkpoint,) = (tmp_path / "whole").glob("checkpoint-*")
    run = prepare_run(*parse_arguments(fields_of(checkpoint, data, tmp_path / "x")))
    assert torch.equal(run.model.score.bias, load_file(checkpoint / "model.safetensors")["score.bias"])
    frame = pd.DataFrame({"text": TEXTS})
    np.testing.assert_allclose(
        TextClassifier(run.model, run.tokenizer).logits(frame["text"]),
        TextClassifier.from_pretrained(tmp_path / "whole").logits(frame["text"]),
        atol=1e-4,
    )
