import numpy as np
import pytest
import torch
from conftest import tiny_model
from sklearn.linear_model import LogisticRegression
from transformers import GPT2Config, GPT2Model

from recipe.errors import RecipeError
from recipe.evaluation.metrics import label_metrics
from recipe.experiments import probing as module
from recipe.experiments.probing import advise, check_memory, draw_probes, probe_depths, probe_table, states_by_depth

LENGTHS = [1, 2, 64, 17, 17, 5, 40, 3] * 9  # more than one batch


def sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 100, length).tolist() for length in LENGTHS]


def test_states_are_those_of_transformers():
    ours, texts = tiny_model().train(), sequences()
    stock = GPT2Model(GPT2Config(**{**ours.config.to_dict(), "model_type": "gpt2"})).eval()
    stock.load_state_dict(ours.transformer.state_dict())
    states = states_by_depth(ours, texts, progress=False)
    assert states.shape == (5, len(texts), 32)
    assert states.dtype == np.float32
    for i, ids in enumerate(texts):
        width = 64 - len(ids)
        padded, mask = torch.tensor([ids + [99] * width]), torch.tensor([[1] * len(ids) + [0] * width])
        with torch.no_grad():
            hidden = stock(padded, attention_mask=mask, output_hidden_states=True).hidden_states
            normed = stock.ln_f(torch.from_numpy(states[-1, i]))  # transformers' last one is after ln_f
        for depth in range(4):
            np.testing.assert_allclose(states[depth, i], hidden[depth][0, len(ids) - 1], atol=2e-5)
        np.testing.assert_allclose(normed, hidden[-1][0, len(ids) - 1], atol=2e-5)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_probe_is_scikit_learn_on_standardized_features(class_weight):
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 200, p=[0.7, 0.2, 0.1])
    scales = np.array([1, 100, 0.01, 1, 1])  # which only standardizing evens out
    train = (rng.normal(size=(2, 200, 5)) + np.eye(3, 5)[labels] * [[[1]], [[2]]]) * scales
    validation = rng.normal(size=(2, 80, 5)) * scales
    probed = probe_depths(train, labels, validation, class_weight)
    weight = None if class_weight == "none" else "balanced"
    for depth in range(2):
        mean, deviation = train[depth].mean(axis=0), train[depth].std(axis=0)
        by_hand = LogisticRegression(class_weight=weight, max_iter=1000).fit((train[depth] - mean) / deviation, labels)
        np.testing.assert_array_equal(probed[depth], by_hand.predict((validation[depth] - mean) / deviation))


def scores_of(*right, texts=100):
    return [label_metrics((np.arange(texts) < count).astype(int), np.ones(texts, dtype=int)) for count in right]


@pytest.mark.parametrize(
    ("right", "best", "depth", "blocks", "begin", "words"),
    [
        (
            [50, 80, 86, 90, 88],
            3,
            3,
            1,
            1,
            "0.880 is within it too, so begin with last_blocks:1,",
        ),  # the error of 90 % of 100 is 0.03
        ([50, 80, 87, 90, 80], 3, 2, 2, 2, "0.800 is not, so begin with last_blocks:2,"),
        ([50, 60, 70, 80, 90], 4, 4, 1, 1, "block 4)"),  # at least one
        ([90, 60, 70, 80, 90], 0, 0, 4, 1, "(0.900, the embeddings): the embeddings (0.900)"),
        ([98, 99, 100, 100, 100], 2, 2, 2, 1, "(0.009, of 100 texts)"),  # no error at all by the usual formula
    ],
)
def test_advice_is_the_one_standard_error_rule(right, best, depth, blocks, begin, words):
    scores = scores_of(*right)
    advice = advise(scores, 100)
    assert (advice["best_depth"], advice["shallowest_depth"]) == (best, depth)
    assert (advice["at_most"], advice["begin_with"]) == (f"last_blocks:{blocks}", f"last_blocks:{begin}")
    assert f"--trainable last_blocks:{blocks} may help" in advice["advice"]
    assert words in advice["advice"]


def test_standard_error_is_the_binomial_one_where_texts_are_many():
    advice = advise(scores_of(5000, 9000, texts=10_000), 10_000)
    assert advice["standard_error"] == pytest.approx((0.9 * 0.1 / 10_000) ** 0.5, rel=1e-3)


def test_more_texts_than_fit_are_refused():
    small = GPT2Config()  # GPT-2 small: 13 depths of 768 numbers of 4 bytes
    check_memory(small, 50_000)
    with pytest.raises(RecipeError, match=r"60,000 texts take more than 2 GB .* --max_train_samples .* at most 50,080"):
        check_memory(small, 60_000)


def test_table_and_picture_hold_every_depth(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    scores = scores_of(50, 80, 86, 90, 88)
    (tfidf,) = scores_of(85)
    lines = probe_table(scores, {"tfidf": tfidf}).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "embeddings",
        *(f"block {i} (h.{i - 1})" for i in (1, 2, 3, 4)),
        "TF-IDF + logistic regression",
    ]
    assert lines[4].split() == ["block", "3", "(h.2)", "0.900", "0.826", "0.945"]
    figures = []
    monkeypatch.setattr(module, "write_figure", lambda figure, path: figures.append(figure))
    for beside in (tfidf, None):
        draw_probes(tmp_path / "x.png", scores, beside, advise(scores, 100))
        (axes,) = figures[-1].axes
        line = next(line for line in axes.lines if len(line.get_ydata()) == 5)
        np.testing.assert_allclose(line.get_ydata().astype(float), [0.5, 0.8, 0.86, 0.9, 0.88])
        titles = [text.get_text() for text in axes.get_legend().get_texts()]
        assert ("TF-IDF + logistic regression" in titles) == (beside is not None)
