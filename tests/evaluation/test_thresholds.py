import numpy as np
import pytest
from conftest import tiny_model
from scipy.special import softmax
from sklearn.metrics import f1_score

from recipe.errors import RecipeError, parse_probability
from recipe.evaluation.calibration import calibrate_head, tune_threshold
from recipe.inference.text_classifier import check_two_labels, decide, is_unsure


def macro_f1(labels, probabilities, threshold):
    return f1_score(labels, probabilities >= threshold, average="macro", zero_division=0)


def test_a_threshold_between_neighbouring_floats_is_still_one():
    nearly_one = np.nextafter(1, 0)
    assert tune_threshold(np.array([nearly_one, 1.0, 0.2]), np.array([0, 1, 0])) < 1


@pytest.mark.parametrize("seed", range(20))
def test_the_tuned_threshold_is_the_best_of_all(seed):
    """Against every division that a threshold can give, scored by scikit-learn; few distinct values, so many ties."""
    rng = np.random.default_rng(seed)
    count = rng.integers(2, 60)
    labels = rng.random(count) < 0.2
    labels[:2] = [True, False]
    probabilities = np.clip(np.round(0.25 * labels + rng.random(count) * 0.7, 2 if seed % 2 else 1), 0, 1)
    chosen = tune_threshold(probabilities, labels.astype(int))
    every = [*(np.unique(probabilities) - 1e-9), *(np.unique(probabilities) + 1e-9), 0.5]
    best = max(macro_f1(labels, probabilities, threshold) for threshold in every)
    assert macro_f1(labels, probabilities, chosen) == pytest.approx(best)
    assert 0 < chosen < 1
    if macro_f1(labels, probabilities, 0.5) == pytest.approx(best):
        assert chosen == 0.5


def test_ties_go_to_the_one_nearest_one_half():
    assert tune_threshold(np.array([0.1, 0.9]), np.array([0, 1])) == 0.5
    assert tune_threshold(np.array([0.1, 0.2, 0.3]), np.array([0, 0, 1])) == pytest.approx(0.25)
    assert tune_threshold(np.array([0.8, 0.9, 0.98]), np.array([0, 0, 1])) == pytest.approx(0.94)
    # One text wrong on either side of the middle one: 0.25 and 0.7 are as good, and 0.7 is nearer.
    labels, probabilities = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.8])
    assert macro_f1(labels, probabilities, 0.25) == macro_f1(labels, probabilities, 0.7)
    assert tune_threshold(probabilities, labels) == pytest.approx(0.7)
    assert tune_threshold(np.array([0.2, 0.4, 0.6, 0.9]), labels) == pytest.approx(0.3)  # the mirror image


@pytest.mark.parametrize("probabilities", [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
def test_certain_probabilities_still_give_a_threshold(probabilities):
    assert 0 < tune_threshold(np.array(probabilities), np.array([0, 1])) < 1


def test_the_unsure_are_those_whose_top_probability_is_under_the_bound():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.89, 0.11, 0.0], [0.3, 0.3, 0.4]])
    assert is_unsure(probabilities, 0.9).tolist() == [False, True, True]
    assert is_unsure(np.empty((0, 3)), 0.9).tolist() == []


@pytest.mark.parametrize("value", ["0", "1", "-0.5", "nan", "much", "tune", "", None])
def test_other_values_than_probabilities_are_refused(value):
    with pytest.raises(RecipeError, match=r"decision_threshold is .*: take a number between 0 and 1"):
        parse_probability("decision_threshold", value)


def test_one_is_a_bound_but_no_threshold():
    assert parse_probability("decision_threshold", "0.3") == 0.3
    assert parse_probability("abstain_below", "1", one_allowed=True) == 1
    for value in ("0", "1.1", "nan", "x"):
        with pytest.raises(RecipeError, match=r"abstain_below is .*: take a number above 0, up to 1"):
            parse_probability("abstain_below", value, one_allowed=True)


def test_a_threshold_decides_between_two_labels():
    check_two_labels(0.3, ["a", "b"])
    with pytest.raises(RecipeError, match="there are 3 labels: a threshold decides between two"):
        check_two_labels("tune", ["a", "b", "c"])


@pytest.mark.parametrize("threshold", [0.08, 0.5, 0.93])
def test_a_threshold_moves_along_with_a_temperature(threshold):
    rng, model = np.random.default_rng(0), tiny_model(num_labels=2, decision_threshold=threshold)
    logits = rng.normal(size=(1000, 2)) * 3
    temperature = calibrate_head(model, logits, rng.integers(0, 2, 1000))
    assert temperature > 2
    moved = model.config.decision_threshold
    before, after = softmax(logits, axis=1), softmax(logits / temperature, axis=1)
    np.testing.assert_array_equal(decide(before, threshold), decide(after, moved))
    assert (moved == threshold) == (threshold == 0.5)
