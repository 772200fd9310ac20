import numpy as np
from conftest import make_texts
from saved_models import LABELS, cut

from recipe.data.dataset import TextSplits
from recipe.experiments.sweep_study import hash_texts, plan_trials


def test_lists_are_combined_and_ranges_divided_evenly():
    count, plan = plan_trials({"learning_rate": [1e-3, 1e-2], "depth": [0, 1, 2]}, None, 0)
    assert count == 6
    assert {(values["learning_rate"], values["depth"]) for values in plan} == {
        (rate, depth) for rate in (1e-3, 1e-2) for depth in (0, 1, 2)
    }
    count, plan = plan_trials({"learning_rate": (1e-4, 1e-2), "depth": [1, 2]}, 12, 0)
    rates = sorted(values["learning_rate"] for values in plan)
    assert (count, len(rates), rates[0], rates[-1]) == (12, 10, 1e-4, 1e-2)
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(100) / 9, rtol=0.02)
    assert rates != [values["learning_rate"] for values in plan]


def test_another_text_or_label_has_another_hash():
    frame = make_texts(40, LABELS)
    one_text, one_label = frame.copy(), frame.copy()
    one_text.loc[0, "text"] += "!"
    one_label.loc[0, "label"] = next(label for label in LABELS if label != frame.loc[0, "label"])
    frames = (frame, frame.copy(), one_text, one_label)
    first, again, *others = (hash_texts(TextSplits(cut(rows, LABELS))) for rows in frames)
    assert first == again
    assert len({first, *others}) == 3
