"""Results that outlast an interruption, and only for what they depend on."""

import numpy as np
import pytest

from recipe.experiments.runs import Results, unfinished


def measured(path, *depends_on, cases=("a", "b"), stop_at=None):
    """What each case gives, and the cases that were measured."""
    results, calls = Results(path, *depends_on), []

    def measure(name):
        if name == stop_at:
            raise KeyboardInterrupt
        calls.append(name)
        return {"logits": np.float32([0.1, 1 / 3]).tolist(), "name": name}

    found = [results.of({"name": name}, lambda name=name: measure(name)) for name in cases]
    return found, calls


def test_a_second_run_measures_what_is_missing(tmp_path):
    path = unfinished(tmp_path / "x.csv")
    with pytest.raises(KeyboardInterrupt):
        measured(path, {"seed": 1}, stop_at="b")
    found, calls = measured(path, {"seed": 1})
    assert calls == ["b"]
    assert np.array_equal(np.float32(found[0]["logits"]), np.float32([0.1, 1 / 3]))  # to the last bit
    assert measured(path, {"seed": 1}) == (found, [])
    assert measured(path, {"seed": 2})[1] == ["a", "b"]
    assert measured(path, {"seed": 1}, ["text"])[1] == ["a", "b"]
    Results(path).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [lambda text: text[:-7], lambda text: text + "\n[]\n{}\nnull", lambda text: ""])
def test_a_line_that_a_kill_has_cut_is_measured_again(tmp_path, left):
    measured(tmp_path / "x", 1)
    (tmp_path / "x").write_text(left((tmp_path / "x").read_text()))
    measured(tmp_path / "x", 1)
    assert measured(tmp_path / "x", 1)[1] == []
