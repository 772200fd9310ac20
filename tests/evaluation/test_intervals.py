import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from recipe.evaluation.intervals import calibration_error, compare_paired, reliability, wilson_interval


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 40), (40, 40), (291, 300), (7, 13)])
def test_the_interval_is_wilsons_closed_form(right, total):
    z, share = 1.959963984540054, right / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    assert wilson_interval(right, total) == pytest.approx((center - half, center + half), abs=1e-12)
    assert 0 <= wilson_interval(right, total)[0] <= share <= wilson_interval(right, total)[1] <= 1


def right(gains, losses, both=10, neither=3):
    """Which texts a model and a baseline have right."""
    pairs = [(True, False)] * gains + [(False, True)] * losses + [(True, True)] * both + [(False, False)] * neither
    model, baseline = zip(*pairs, strict=True)
    return np.array(model), np.array(baseline)


@pytest.mark.parametrize(("gains", "losses"), [(0, 0), (1, 0), (0, 6), (3, 3), (18, 4), (5, 14)])
def test_mcnemars_p_is_the_tosses_of_a_coin(gains, losses):
    tosses, tail = gains + losses, min(gains, losses)
    expected = min(1, 2 * sum(math.comb(tosses, k) for k in range(tail + 1)) / 2**tosses)
    comparison = compare_paired(*right(gains, losses))
    assert (comparison.gains, comparison.losses) == (gains, losses)
    assert comparison.p_value == pytest.approx(expected)


def test_verdicts():
    assert compare_paired(*right(18, 4)).verdict == "better"
    assert compare_paired(*right(4, 18)).verdict == "worse"
    assert compare_paired(*right(3, 3)).verdict == "no clear difference"
    assert compare_paired(*right(0, 0)).verdict == "no clear difference"
    assert compare_paired(*right(5, 0)).verdict == "no clear difference"  # p = 0.0625: 5 of 5 tosses may be luck
    assert compare_paired(*right(6, 0)).verdict == "better"


def test_the_bins_are_scikit_learns():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6] * 4, size=2000)
    probabilities[0] = [0.4, 0.3, 0.2, 0.1]  # on an edge between two bins, 6 / 15
    labels = rng.integers(0, 4, size=2000)
    curve = reliability(probabilities, labels)
    hit = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(hit, probabilities.max(axis=1), n_bins=15)
    np.testing.assert_allclose(curve.accuracy, accuracy)
    np.testing.assert_allclose(curve.confidence, confidence)
    assert curve["texts"].sum() == 2000


def test_the_calibration_error_by_hand():
    """Two texts in the bin of 0.9, one right; one in that of 0.6, right: 2/3 |0.5 - 0.9| + 1/3 |1 - 0.6|."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    labels = np.array([0, 0, 1])
    assert calibration_error(reliability(probabilities, labels)) == pytest.approx(0.4)


@pytest.mark.parametrize(("labels", "error"), [([0], 0.0), ([1], 1.0)])
def test_one_text_and_certainty(labels, error):
    assert calibration_error(reliability(np.array([[1.0, 0.0]]), np.array(labels))) == error
