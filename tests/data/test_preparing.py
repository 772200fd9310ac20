import pytest
import torch
from conftest import NANO, fields_of, make_texts, run_training, tiny_model
from transformers import AutoTokenizer, GPT2ForSequenceClassification

from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.training.preparing import prepare_run


def save_classifier(folder, labels):
    model = tiny_model(num_labels=len(labels), vocab_size=8192, eos_token_id=8191, pad_token_id=8191)
    stock = GPT2ForSequenceClassification(model.config)
    stock.config.id2label, stock.config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    stock.save_pretrained(folder)
    AutoTokenizer.from_pretrained(NANO).save_pretrained(folder)
    return stock


def test_a_classifier_trained_further_keeps_its_head_and_label_order(three_labels, tmp_path):
    labels = ["technology", "sport", "medicine"]
    stock = save_classifier(tmp_path / "old", labels)
    argv = fields_of(tmp_path / "old", three_labels, tmp_path / "x")
    run = prepare_run(*parse_arguments(argv))
    assert run.splits.label_names == labels
    assert torch.equal(run.model.score.weight, stock.score.weight)
    other = tmp_path / "other.csv"
    make_texts(60, ["sport", "medicine", "technology"]).replace("sport", "games").to_csv(other, index=False)
    argv[3] = str(other)
    with pytest.raises(RecipeError, match="head is for the labels technology, sport, medicine, the data has games"):
        prepare_run(*parse_arguments(argv))
    fresh = prepare_run(*parse_arguments([*argv, "--ignore_mismatched_sizes", "true"]))
    assert not torch.equal(fresh.model.score.weight, stock.score.weight)
    assert fresh.model.config.id2label == {0: "games", 1: "medicine", 2: "technology"}


def test_pooling_is_the_checkpoints_unless_asked(three_labels, tmp_path):
    run_training(
        three_labels, tmp_path / "old", "--pooling", "mean", "--trainable", "head", "--truncation_side", "left"
    )
    argv = fields_of(tmp_path / "old", three_labels, tmp_path / "x")
    run = prepare_run(*parse_arguments(argv))
    assert (run.model.pooling, run.tokenizer.truncation_side) == ("mean", "left")
    assert prepare_run(*parse_arguments([*argv, "--pooling", "last"])).model.pooling == "last"


def test_a_random_head_that_stays_so_is_said(three_labels, tmp_path, caplog):
    argv = fields_of(NANO, three_labels, tmp_path / "x")
    prepare_run(*parse_arguments([*argv, "--trainable", "transformer.h.11.*"]))
    assert "the head is fresh, so random, and stays so" in caplog.text
    with pytest.raises(RecipeError, match="dataloader_drop_last drops every batch: 84 training texts"):
        prepare_run(*parse_arguments([*argv, "--dataloader_drop_last", "true", "--per_device_train_batch_size", "100"]))
