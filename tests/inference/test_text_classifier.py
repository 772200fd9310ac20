import random

import numpy as np
import pytest
import torch
from conftest import NANO, make_texts, tiny_folder, tiny_model, train_on
from saved_models import LABELS, three_label_run
from transformers import AutoTokenizer, GPT2ForSequenceClassification, pipeline

from recipe.data.tokenization import batches_by_length
from recipe.data.windows import Windows, remember_windows
from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier, decide


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


def test_pipeline_agrees_on_100_messages():
    classifier = TextClassifier.from_pretrained(three_label_run())
    odd = ["", "<|endoftext|>", "ends in <|endoftext|>", "🎉", "مرحبا", "nul \0 byte", "word " * 2000]
    texts = make_texts(94, LABELS, seed=5)["text"].tolist() + odd[1:]
    labels, probabilities = classifier.predict(texts)
    outputs = pipeline("text-classification", str(three_label_run()), top_k=None)(texts, truncation=True)
    assert len(outputs) == len(labels) == 100
    for output, label, row in zip(outputs, labels, probabilities, strict=True):
        scores = {score["label"]: score["score"] for score in output}
        assert output[0]["label"] == label
        np.testing.assert_allclose(row, [scores[name] for name in classifier.label_names], atol=1e-4)
    assert len(classifier.predict(odd)[0]) == len(odd)  # the pipeline cannot take an empty text; we can
    assert classifier.predict([])[1].shape == (0, 3)


def test_coverage_counts_the_tokens_that_are_read():
    classifier = TextClassifier.from_pretrained(three_label_run())
    tokens = [len(classifier.tokenizer(text)["input_ids"]) for text in ("a few words", "word " * 2000)]
    coverage = classifier.window_logits(["a few words", "word " * 2000])[2]
    assert (coverage.tokens, coverage.tokens_seen, coverage.texts_cut) == (sum(tokens), tokens[0] + 512, 1)


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


def nano_shaped(**config):
    """A random model that reads gpt2-nano's tokens, and its tokenizer."""
    special = {"bos_token_id": 8191, "eos_token_id": 8191, "pad_token_id": 8191}
    return tiny_model(vocab_size=8192, **special, **config), AutoTokenizer.from_pretrained(NANO)


def test_a_model_of_our_own_class(tmp_path):
    model, tokenizer = nano_shaped(pooling="mean")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classifier = TextClassifier.from_pretrained(tmp_path)
    ids = classifier.encode(["a few words here"])[0]
    with torch.no_grad():
        np.testing.assert_allclose(classifier.logits(["a few words here"]), model(torch.tensor(ids)).logits, atol=1e-5)


def test_windows_are_averaged_in_the_order_of_the_texts():
    """Against each window classified alone; 0 turns off the windows that the model's config remembers."""
    model, tokenizer = nano_shaped()
    texts = ["word " * 40, "a few words", "", "other words " * 20]
    remember_windows(model.config, Windows(12, 4))
    classifier = TextClassifier(model, tokenizer, "cpu")
    logits, text_index, _ = classifier.window_logits(texts)
    expected = []
    for ids in classifier.encode(texts)[0]:
        rows = [ids[start : start + 12] for start in range(0, max(1, len(ids) - 4), 8)]
        with torch.no_grad():
            expected.append(torch.cat([model(torch.tensor([row])).logits for row in rows]).softmax(-1).mean(0))
    np.testing.assert_allclose(classifier.predict(texts)[1], torch.stack(expected), atol=1e-5)
    assert len(logits) == len(text_index) > len(texts)
    assert sorted(set(text_index)) == [0, 1, 2, 3]
    assert TextClassifier(model, tokenizer, "cpu", window=0).window_logits(texts)[1] is None
    with pytest.raises(RecipeError, match="window is 65, but the model has 64 positions"):
        TextClassifier(model, tokenizer, "cpu", window=65)


def test_a_threshold_is_kept_in_the_models_config():
    model, tokenizer = nano_shaped(num_labels=2)
    classifier = TextClassifier(model, tokenizer, "cpu")
    texts = make_texts(40, ["sport"])["text"].tolist()
    second = classifier.predict(texts)[1][:, 1]
    classifier.set_threshold(float(np.median(second)))
    assert model.config.decision_threshold == classifier.decision_threshold == np.median(second)
    expected = ["LABEL_1" if p >= np.median(second) else "LABEL_0" for p in second]
    assert TextClassifier(model, tokenizer, "cpu").predict(texts)[0] == expected
    classifier.set_threshold(None)
    assert TextClassifier(model, tokenizer, "cpu").decision_threshold is None
    model.config.decision_threshold = 7
    with pytest.raises(RecipeError, match="decision_threshold is 7: take a number between 0 and 1"):
        TextClassifier(model, tokenizer, "cpu")
    model.config.decision_threshold = 0.3
    model.config.num_labels = 3
    with pytest.raises(RecipeError, match="there are 3 labels: a threshold decides between two"):
        TextClassifier(model, tokenizer, "cpu")


def test_the_second_label_is_predicted_from_the_threshold_on():
    second = np.array([0.2, 0.3, 0.30001, 0.7])
    pairs = np.stack([1 - second, second], axis=1)
    assert decide(pairs).tolist() == [0, 0, 0, 1]
    assert decide(pairs, 0.3).tolist() == [0, 1, 1, 1]
    assert decide(pairs, 0.9).tolist() == [0, 0, 0, 0]
    assert decide(np.empty((0, 2)), 0.3).tolist() == []


def test_a_backbone_alone_is_refused():
    with pytest.raises(RecipeError, match="has no classification head"):
        TextClassifier.from_pretrained(NANO)


def test_an_unknown_device_is_refused():
    with pytest.raises(RecipeError, match="device 'gpu7' cannot be used here"):
        TextClassifier.from_pretrained(three_label_run(), "gpu7")


def test_a_folder_in_place_of_a_model_is_refused_with_the_way_to_load_it():
    with pytest.raises(RecipeError, match=r"TextClassifier\.from_pretrained\(FOLDER\) loads both"):
        TextClassifier(str(NANO))


def test_a_text_that_is_no_list_is_refused():
    """Its letters would be the texts."""
    with pytest.raises(RecipeError, match="takes a list of texts, and was given the text 'hello'"):
        TextClassifier.from_pretrained(three_label_run()).predict("hello")


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory):
    """A run on two columns of texts."""
    folder = tmp_path_factory.mktemp("pairs")
    frame = make_texts(40, LABELS).assign(title=lambda f: "about " + f["text"].str[:9])
    frame.to_csv(folder / "a.csv", index=False)
    train_on(tiny_folder(), folder / "a.csv", folder / "run", "--text_column", "title", "text", "--max_length", "24")
    return folder / "run"


def test_parts_joined_text_and_pipeline_give_the_same_probabilities(pairs_run):
    classifier = TextClassifier.from_pretrained(pairs_run)
    pairs = [("about it", "a text"), (" spaces ", "at the ends \n"), ("long " * 60, "short"), ("short", "long " * 60)]
    probabilities = classifier.predict(pairs)[1]
    joined = classifier.predict(["about it\na text", "spaces\nat the ends"])[1]
    np.testing.assert_allclose(joined, probabilities[:2], atol=1e-6)
    classify = pipeline("text-classification", str(pairs_run), top_k=None, truncation=True)
    for pair, row in zip(pairs, probabilities, strict=True):
        scores = {score["label"]: score["score"] for score in classify({"text": pair[0], "text_pair": pair[1]})}
        np.testing.assert_allclose(row, [scores[name] for name in classifier.label_names], atol=1e-4)
    with pytest.raises(RecipeError, match="was given a table: give a column"):
        classifier.predict(make_texts(2, LABELS))
    with pytest.raises(RecipeError, match="this model reads texts of one part"):
        TextClassifier.from_pretrained(three_label_run()).predict(pairs)


def test_white_space_at_the_ends_moves_no_answer(pairs_run):
    classifier = TextClassifier.from_pretrained(three_label_run())
    texts = ["the match was won", " the match was won", "the match was won \n"]
    logits = classifier.logits(texts)
    assert (logits == logits[0]).all()
    scores = pipeline("text-classification", str(three_label_run()))(texts)
    assert len({score["score"] for score in scores}) == 1
