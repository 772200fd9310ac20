import numpy as np
import pytest
from sklearn.metrics import f1_score

from recipe.errors import RecipeError
from recipe.evaluation.thresholds import (
    check_two_labels,
    decide,
    is_unsure,
    parse_abstain_below,
    parse_threshold,
    tune_threshold,
)


def macro_f1(labels, probabilities, threshold):
    return f1_score(labels, probabilities >= threshold, average="macro", zero_division=0)


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


def test_the_second_label_is_given_from_the_threshold_on():
    second = np.array([0.2, 0.3, 0.30001, 0.7])
    pairs = np.stack([1 - second, second], axis=1)
    assert decide(pairs).tolist() == [0, 0, 0, 1]
    assert decide(pairs, 0.3).tolist() == [0, 1, 1, 1]
    assert decide(pairs, 0.9).tolist() == [0, 0, 0, 0]
    assert decide(np.empty((0, 2)), 0.3).tolist() == []


def test_the_unsure_are_those_whose_top_probability_is_under_the_bound():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.89, 0.11, 0.0], [0.3, 0.3, 0.4]])
    assert is_unsure(probabilities, 0.9).tolist() == [False, True, True]
    assert is_unsure(probabilities, None).tolist() == [False, False, False]
    assert is_unsure(np.empty((0, 3)), 0.9).tolist() == []


@pytest.mark.parametrize("value", ["0", "1", "-0.5", "nan", "much", "tune", ""])
def test_what_is_no_threshold_is_refused(value):
    with pytest.raises(RecipeError, match=r"decision_threshold is .*: take a number between 0 and 1"):
        parse_threshold(value)


def test_thresholds_as_users_write_them():
    assert parse_threshold("0.3") == parse_threshold(0.3) == 0.3
    assert parse_threshold("tune", tunable=True) == "tune"
    assert parse_threshold(None) is None
    with pytest.raises(RecipeError, match="take tune, or a number between 0 and 1"):
        parse_threshold("tuned", tunable=True)
    assert (parse_abstain_below("1"), parse_abstain_below(None)) == (1, None)
    for value in ("0", "1.1", "nan", "x"):
        with pytest.raises(RecipeError, match="abstain_below is"):
            parse_abstain_below(value)
    check_two_labels(None, ["a", "b", "c"])
    with pytest.raises(RecipeError, match="there are 3 labels: a threshold decides between two"):
        check_two_labels("tune", ["a", "b", "c"])
