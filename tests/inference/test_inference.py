import random

import numpy as np
import pytest
import torch
from conftest import NANO, make_texts, tiny_model
from transformers import AutoTokenizer, GPT2ForSequenceClassification, pipeline

from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier, batches_by_length


def test_batches_hold_every_text_once_and_keep_the_bound():
    rng = random.Random(0)
    lengths = [rng.choice([1, 3, 10, 200]) for _ in range(500)]
    batches = list(batches_by_length(lengths, 128))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 128
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert list(batches_by_length([], 128)) == []


def test_pipeline_says_the_same_of_300_messages(trained):
    classifier = TextClassifier.from_pretrained(trained)
    odd = ["", "<|endoftext|>", "ends in <|endoftext|>", "🎉", "مرحبا", "nul \0 byte", "word " * 2000]
    texts = make_texts(294, ["sport", "medicine", "technology"], seed=5)["text"].tolist() + odd[1:]
    labels, probabilities = classifier.predict(texts)
    outputs = pipeline("text-classification", str(trained), top_k=None)(texts, truncation=True)
    assert len(outputs) == len(labels) == 300
    for output, label, row in zip(outputs, labels, probabilities, strict=True):
        scores = {score["label"]: score["score"] for score in output}
        assert output[0]["label"] == label
        np.testing.assert_allclose(row, [scores[name] for name in classifier.label_names], atol=1e-4)
    assert len(classifier.predict(odd)[0]) == len(odd)  # the pipeline cannot take an empty text; we can
    assert classifier.predict([])[1].shape == (0, 3)


def test_a_model_that_someone_else_trained(tmp_path):
    """No pad token, no names for its labels, no settings of ours beside its tokenizer."""
    torch.manual_seed(0)
    stock = GPT2ForSequenceClassification.from_pretrained(NANO, num_labels=4, dtype=torch.float32).eval()
    stock.config.pad_token_id = None
    stock.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(NANO, split_special_tokens=False)
    tokenizer.save_pretrained(tmp_path)
    texts = make_texts(20, ["sport"])["text"].tolist()
    classifier = TextClassifier.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = torch.cat([stock(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    np.testing.assert_allclose(classifier.logits(texts), expected, atol=1e-4)
    assert classifier.label_names == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]


def test_a_model_of_our_own_class(tmp_path):
    model = tiny_model(pooling="mean", vocab_size=8192, eos_token_id=8191, pad_token_id=8191)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(NANO).save_pretrained(tmp_path)
    classifier = TextClassifier.from_pretrained(tmp_path)
    ids = classifier.encode(["a few words here"])
    with torch.no_grad():
        np.testing.assert_allclose(classifier.logits(["a few words here"]), model(torch.tensor(ids)).logits, atol=1e-5)


def test_a_backbone_alone_is_refused():
    with pytest.raises(RecipeError, match="has no classification head"):
        TextClassifier.from_pretrained(NANO)
