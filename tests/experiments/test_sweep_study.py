import copy

import numpy as np
import torch
from conftest import make_texts, tiny_model
from saved_models import LABELS, cut

from recipe.data.dataset import TextSplits
from recipe.experiments.sweep_study import hash_content, plan_trials


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


def test_the_content_is_texts_labels_and_weights():
    frame, model = make_texts(40, LABELS), tiny_model()
    one_text, one_label = frame.copy(), frame.copy()
    one_text.loc[0, "text"] += "!"
    one_label.loc[0, "label"] = next(label for label in LABELS if label != frame.loc[0, "label"])
    hashed, *others = (hash_content(TextSplits(cut(rows, LABELS)), model) for rows in (frame, one_text, one_label))
    assert hashed == hash_content(TextSplits(cut(frame.copy(), LABELS)), copy.deepcopy(model))
    for other in others:
        assert [name for name in hashed if hashed[name] != other[name]] == ["hash of texts and labels"]
    with torch.no_grad():
        model.transformer.h[0].ln_1.bias[0] += 1
    other = hash_content(TextSplits(cut(frame, LABELS)), model)
    assert [name for name in hashed if hashed[name] != other[name]] == ["hash of the base model"]
