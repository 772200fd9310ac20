"""Label errors: known flips found in synthetic probabilities, a joint count made by hand, files that cannot be used."""

import json

import numpy as np
import pandas as pd
import pytest

from recipe.errors import RecipeError
from recipe.experiments.label_errors import find_label_errors, read_predictions

NAMES = ["a", "b", "c"]


def predictions_of(labels, probabilities):
    frame = pd.DataFrame({"row": range(2, len(labels) + 2), "text": "t", "label": [NAMES[i] for i in labels]})
    return frame, pd.DataFrame(probabilities, columns=NAMES[: probabilities.shape[1]])


def test_known_flips_are_found():
    """600 texts of three labels, whose true label has a probability of 0.6 to 0.95; 30 of their labels are flipped."""
    rng = np.random.default_rng(0)
    true, top = rng.integers(0, 3, 600), rng.uniform(0.6, 0.95, 600)
    probabilities = np.empty((600, 3))
    for place, share in enumerate([top, (1 - top) / 4, (1 - top) * 3 / 4]):
        probabilities[np.arange(600), (true + place) % 3] = share
    labels, flipped = true.copy(), rng.choice(600, 30, replace=False)
    labels[flipped] = (true[flipped] + rng.integers(1, 3, 30)) % 3
    found = find_label_errors(*predictions_of(labels, probabilities))
    positions = found["row"].to_numpy() - 2
    assert set(positions) <= set(flipped)
    assert len(found) >= 20
    assert found["likelier_label"].tolist() == [NAMES[i] for i in true[positions]]
    assert found["probability_of_label"].is_monotonic_increasing
    assert np.allclose(found["probability_of_label"], probabilities[positions, labels[positions]])
    assert np.allclose(found["probability_of_likelier_label"], top[positions])


def test_count_is_that_of_the_joint_made_by_hand():
    """Thresholds are the mean probability of a label's own texts: a 0.7, b 0.8. Over them: 9 a as a, 1 a as b; 10 b as b.

    Calibrated to the 11 texts of a and the 10 of b, the joint holds 1.1 texts of a that are b: one suspect, and not the
    second text, which is likelier b too, but not over b's threshold.
    """
    of_a = [0.8] * 9 + [0.1, 0.4]
    probability_of_a = np.array([*of_a, *[0.2] * 10])
    assert np.isclose(np.mean(of_a), 0.7)
    probabilities = np.stack([probability_of_a, 1 - probability_of_a], axis=1)
    found = find_label_errors(*predictions_of([0] * 11 + [1] * 10, probabilities))
    assert found["row"].tolist() == [9 + 2]
    assert found[["label", "likelier_label"]].to_numpy().tolist() == [["a", "b"]]


def test_right_labels_give_nothing():
    found = find_label_errors(*predictions_of([0, 0, 1, 1], np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7]])))
    assert found.empty


def test_labels_without_texts_do_no_harm():
    probabilities = np.array([[0.85, 0.1, 0.05], [0.1, 0.85, 0.05]] * 50)
    labels = [0, 1] * 50
    labels[7] = 0
    assert find_label_errors(*predictions_of(labels, probabilities))["row"].tolist() == [7 + 2]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_predictions_are_read(tmp_path):
    row = {"text": "t", "label": "1", "probability_1": 0.25, "probability_x y": 0.75, "predicted_label": "x y"}
    found, probabilities = read_predictions(write(tmp_path / "a.jsonl", [row, {**row, "label": 1}]))
    assert probabilities.to_dict("list") == {"1": [0.25, 0.25], "x y": [0.75, 0.75]}
    assert found.to_dict("list") == {"row": [1, 2], "text": ["t", "t"], "label": ["1", "1"]}
    more = {"row": 17, "source": "train.csv", "input_label": "x y"}
    found, _ = read_predictions(write(tmp_path / "b.jsonl", [row | more | {"fold": 1}]), "input_label")
    assert found.to_dict("records") == [{"row": 17, "source": "train.csv", "text": "t", "label": "x y"}]
    del row["predicted_label"]  # as predict.py writes a file with columns of these names
    found, _ = read_predictions(write(tmp_path / "c.jsonl", [row | more]), "input_label")
    assert found.to_dict("records") == [{"row": 1, "text": "t", "label": "x y"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "z"}, "row 1 has a label without a column probability_LABEL: known are a, b"),
        ({"label": None}, "row 1 has no label"),
        ({"probability_a": "many"}, "row 1 has probabilities that are not numbers"),
        ({"probability_a": None}, "row 1 has probabilities that are not numbers"),
        ({"probability_a": 0.5}, "with the sum 1"),
        ({"probability_a": -0.5, "probability_b": 1.5}, "numbers from 0 up"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, change, message):
    row = {"text": "t", "label": "a", "probability_a": 0.25, "probability_b": 0.75, "predicted_label": "b"}
    with pytest.raises(RecipeError, match=message):
        read_predictions(write(tmp_path / "a.jsonl", [row | change]))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="has no columns probability_LABEL"):
        read_predictions(write(tmp_path / "a.jsonl", [{"text": "t", "label": "a"}]))
    row = {"text": "t", "label": "a", "probability_a": 0.25, "probability_b": 0.75}
    with pytest.raises(RecipeError, match="has no column predicted_label"):
        read_predictions(write(tmp_path / "a.jsonl", [row]))
    with pytest.raises(RecipeError, match="no column 'mine'"):
        read_predictions(write(tmp_path / "a.jsonl", [row]), "mine")
