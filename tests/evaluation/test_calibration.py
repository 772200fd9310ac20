import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from torch import nn

from recipe import freeze_except, last_blocks
from recipe.data.windows import average_windows
from recipe.errors import RecipeError
from recipe.evaluation.calibration import calibrate_head, check_calibration, fit_temperature, fold_temperature
from recipe.evaluation.intervals import calibration_error, reliability
from recipe.evaluation.metrics import cross_entropy
from recipe.model.adapters import add_adapters


def honest_logits(texts=4000, num_labels=3, seed=0):
    """Logits, and labels drawn with just the probabilities that they give: the best temperature is near 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(texts, num_labels)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, np.array([rng.choice(num_labels, p=row) for row in probabilities])


class ItsInput(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose scores are what it is given."""

    def __init__(self, num_labels=3):
        self.num_labels = num_labels

    def fit(self, logits, labels):
        self.classes_ = np.arange(self.num_labels)
        return self

    def decision_function(self, logits):
        return logits

    def predict(self, logits):
        return logits.argmax(axis=1)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_a_known_factor_comes_back(scale):
    logits, labels = honest_logits()
    own, remark = fit_temperature(logits, labels)
    assert own == pytest.approx(1, abs=0.1)
    assert remark == ""
    assert fit_temperature(logits * scale, labels)[0] == pytest.approx(own * scale, rel=1e-5)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_it_is_scikit_learns_temperature(scale):
    logits, labels = honest_logits(600)
    logits = logits * scale
    theirs = CalibratedClassifierCV(FrozenEstimator(ItsInput().fit(logits, labels)), method="temperature")
    probabilities = theirs.fit(logits, labels).predict_proba(logits)
    scaled = logits / fit_temperature(logits, labels)[0]
    np.testing.assert_allclose(np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True), probabilities, atol=1e-5)


def test_overconfidence_is_corrected():
    logits, labels = honest_logits()
    confident, cooled = logits * 3, logits * 3 / fit_temperature(logits * 3, labels)[0]
    softmax = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (confident, cooled)]
    before, after = (calibration_error(reliability(p, labels)) for p in softmax)
    assert before > 0.1
    assert after < 0.03
    assert cross_entropy(cooled, labels) < cross_entropy(confident, labels)


def test_it_never_runs_away():
    logits, labels = honest_logits()
    right = logits.argmax(axis=1)
    faultless = fit_temperature(logits, right)
    assert faultless[0] == 1
    assert faultless[1] == "all 4000 texts are right, so it is kept from falling below 1"
    wrong = fit_temperature(logits, (right + 1) % 3)
    assert wrong[0] == 10
    assert "the best one lies outside 0.1 ... 10" in wrong[1]
    few = fit_temperature(logits[:49] * 0.2, labels[:49])  # which would want a temperature of about 0.2
    assert few[0] == 1
    assert few[1] == "49 texts are few, so it is kept from falling below 1"
    assert fit_temperature(logits[:200] * 0.2, labels[:200])[0] < 0.5
    assert fit_temperature(np.array([[2.0, 0.0]]), np.array([0]))[0] == 1
    assert fit_temperature(np.array([[2.0, 0.0]]), np.array([1]))[0] == 10


def head_of(*layers):
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(8, 3)],
        [nn.Linear(8, 3, bias=False)],
        [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)],  # of a head of two layers only the last may change
        [nn.LayerNorm(8), nn.Linear(8, 3)],
    ],
)
def test_folding_divides_every_logit_and_leaves_the_labels(layers):
    torch.manual_seed(0)
    score, hidden = head_of(*layers), torch.randn(500, 8)
    before = score(hidden).detach()
    fold_temperature(score, 2.7)
    torch.testing.assert_close(score(hidden), before / 2.7)
    assert torch.equal(score(hidden).argmax(dim=1), before.argmax(dim=1))
    assert not torch.allclose(score(hidden).softmax(dim=1), before.softmax(dim=1), atol=0.01)


class OwnHead(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden).tanh()


@pytest.mark.parametrize("layers", [[nn.Linear(32, 3), nn.Tanh()], [OwnHead(32, 3)], [nn.Identity()]])
def test_a_head_that_cannot_be_divided_is_refused_and_stays(layers):
    model = tiny_model()
    model.score = head_of(*layers)
    before = [parameter.clone() for parameter in model.parameters()]
    message = f"calibrate: the head is a {type(model.score).__name__}, .* leave out --calibrate"
    for call in (lambda: check_calibration(model), lambda: calibrate_head(model, *honest_logits(60))):
        with pytest.raises(RecipeError, match=message):
            call()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_of_a_model_with_adapters_the_trained_head_is_divided():
    model, ids = tiny_model(), torch.arange(12).view(2, 6)
    freeze_except(model, last_blocks(model.config, 1))
    wrapped, _ = add_adapters(model, 4, 16)
    check_calibration(wrapped)
    before = wrapped.eval()(input_ids=ids).logits.detach()
    fold_temperature(wrapped.score, 2.7)
    torch.testing.assert_close(wrapped.merge_and_unload()(input_ids=ids).logits, before / 2.7, atol=1e-5, rtol=1e-4)


def test_windows_are_cooled_before_they_are_averaged():
    """The best temperature of a grid, by hand: softmax of each window, mean of each text's, log of the label's."""
    rng = np.random.default_rng(0)
    text_index = np.repeat(np.arange(400), rng.integers(1, 5, 400))
    logits, labels = rng.normal(size=(len(text_index), 3)) * 3, rng.integers(0, 3, 400)
    logits[np.arange(len(text_index)), labels[text_index]] += 2

    def loss(temperature):
        probabilities = pd.DataFrame(softmax(logits / temperature, axis=-1)).groupby(text_index).mean().to_numpy()
        return -np.log(probabilities[np.arange(400), labels]).mean()

    grid = np.exp(np.linspace(np.log(0.2), np.log(9), 2000))
    best = grid[np.argmin([loss(temperature) for temperature in grid])]
    found = fit_temperature(logits, labels, text_index)[0]
    assert found == pytest.approx(best, rel=3e-3)
    assert found != pytest.approx(fit_temperature(average_windows(logits, text_index), labels)[0], rel=0.02)
