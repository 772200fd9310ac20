import warnings

import numpy as np
import pytest

from recipe.experiments.power_law import PowerLaw, extrapolate, fit_power_law

SIZES = np.array([50, 100, 250, 500, 1000])


@pytest.mark.parametrize("law", [PowerLaw(2, 0.5, 0), PowerLaw(0.8, 0.3, 0.05), PowerLaw(5, 0.9, 0.02)])
def test_law_of_exact_points_is_recovered(law):
    fitted = fit_power_law(SIZES, law(SIZES), 1000)
    np.testing.assert_allclose([fitted.a, fitted.b, fitted.c], [law.a, law.b, law.c], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(fitted(2000), law(2000), rtol=1e-4)


def test_law_is_found_through_the_noise_of_a_test():
    law, rng = PowerLaw(1.5, 0.5, 0.02), np.random.default_rng(0)
    guesses = []
    for _ in range(20):
        sizes = np.repeat(SIZES, 3)
        guesses.append(float(fit_power_law(sizes, rng.binomial(2000, law(sizes)) / 2000, 2000)(2000)))
    assert abs(np.mean(guesses) - law(2000)) < 0.003
    assert np.std(guesses) < 0.01


@pytest.mark.parametrize("errors", [[0.1] * 5, [0.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], [1.0] * 5, [0.2, 0, 0, 0, 0]])
def test_odd_errors_give_a_law_without_a_negative_parameter(errors):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        law = fit_power_law(SIZES, errors, 100)
    assert min(law.a, law.b, law.c) >= 0
    assert 0 <= law(2000) <= max(errors) + 1e-3


def points_of(law, seed, sizes=SIZES):
    return [{"texts": int(n), "seed": seed, "error": float(law(n))} for n in sizes]


def test_interval_is_of_the_seeds():
    """Of two seeds, three draws differ: the outer ones are each seed alone."""
    laws = PowerLaw(2, 0.5, 0), PowerLaw(3, 0.5, 0.01)
    points = [point for seed, law in enumerate(laws) for point in points_of(law, seed)]
    guess = extrapolate(points, 1000)
    assert guess["texts"] == 2000
    assert guess["accuracy_low"] == pytest.approx(1 - laws[1](2000), abs=1e-4)
    assert guess["accuracy_high"] == pytest.approx(1 - laws[0](2000), abs=1e-4)
    assert guess["accuracy_low"] < guess["accuracy"] < guess["accuracy_high"]


def test_misfit_is_the_largest_gap_to_a_mean():
    law = PowerLaw(2, 0.5, 0)
    assert extrapolate(points_of(law, 0), 1000)["misfit"] < 1e-4
    flat = [
        {"texts": n, "seed": seed, "error": e} for seed in (0, 1) for n, e in [(50, 0.12), (100, 0.12), (1000, 0.04)]
    ]
    guess = extrapolate(flat, 1000)
    fitted = PowerLaw(guess["a"], guess["b"], guess["c"])
    assert guess["misfit"] == pytest.approx(max(abs(fitted(n) - e) for n, e in [(50, 0.12), (100, 0.12), (1000, 0.04)]))
    assert guess["misfit"] > 0.01
    assert guess["measured"] == pytest.approx(0.96)


def test_one_seed_has_no_interval_and_two_sizes_no_law():
    law = PowerLaw(2, 0.5, 0)
    assert set(extrapolate(points_of(law, 0), 1000)) == {"a", "b", "c", "texts", "accuracy", "measured", "misfit"}
    assert extrapolate(points_of(law, 0, SIZES[:2]) * 2, 1000) is None
    assert extrapolate([], 1000) is None
