"""Labels and token ids that a model cannot read: refused in all rows before training."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset, DatasetDict
from transformers import GPT2Config

from recipe import GPT2LastTokenClassifier
from recipe.errors import RecipeError
from recipe.training.features import CHECKED_AT_ONCE as ROWS
from recipe.training.features import check_rows_for_model

IDS = torch.tensor([[1, 2, 3], [4, 5, 99]])


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_other_problem_types_are_refused(tmp_path, problem_type):
    message = f"problem_type is '{problem_type}', but a text is given one label here: leave it out"
    with pytest.raises(RecipeError, match=message):
        tiny_model(problem_type=problem_type)
    tiny_model().transformer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=message):
        GPT2LastTokenClassifier.from_pretrained(tmp_path, problem_type=problem_type)
    config = GPT2Config.from_pretrained(tmp_path, problem_type=problem_type)
    with pytest.raises(RecipeError, match=message):
        GPT2LastTokenClassifier.from_pretrained(tmp_path, config=config)
    assert tiny_model(problem_type="single_label_classification")(IDS, labels=torch.tensor([0, 2])).loss > 0


@pytest.mark.launch
def test_a_compiled_model_takes_what_the_model_takes():
    model = tiny_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    labels = torch.tensor([0, 2])
    torch.testing.assert_close(compiled(IDS, labels=labels).loss, model(IDS, labels=labels).loss, atol=1e-5, rtol=1e-4)


def rows(**columns):
    return Dataset.from_dict({"input_ids": [[1, 2], [3], [4, 99]], "labels": [0, 1, 2], "text": list("abc"), **columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": [0, 1, 3]}, "validation, row 2: has the label id 3, and the model's are 0 to 2: load it with the"),
        ({"labels": [0, -100, 1]}, "validation, row 1: has the label id -100,"),
        ({"labels": [0, None, 1]}, "validation, row 1: has the label id None,"),
        ({"labels": [0.0, 1.0, 2.0]}, "validation: labels has values of the type double: give a label id, an integer"),
        ({"labels": [[1, 0], [0, 1], [1, 1]]}, "validation: labels has values of the type list<"),
        ({"labels": ["a", "b", "c"]}, "validation: labels has values of the type string"),
        ({"input_ids": [[1], [], [2]]}, "validation, row 1: has no token: give an empty text one"),
        ({"input_ids": [[1], None, [2]]}, "validation, row 1: has no token"),
        (
            {"input_ids": [[1], [2, 3], [0, 100]]},
            "validation, row 2: has the token id 100, and the model's are 0 to 99",
        ),
        ({"input_ids": [[1], [2, -1], [0, 100]]}, "validation, row 1: has the token id -1,"),
        ({"input_ids": [[0.5], [1.0], [2.0]]}, "validation: input_ids has values of the type double: give a token id"),
    ],
)
def test_rows_that_a_model_cannot_read_are_named(columns, message):
    config = tiny_model().config
    check_rows_for_model(rows(), config)
    with pytest.raises(RecipeError, match=message):
        check_rows_for_model(rows(**columns), config, "validation")


def test_the_row_is_counted_over_batches_in_the_order_that_is_trained_on(tmp_path):
    """Of a saved Dataset too, and of one whose rows are picked out of another's."""
    count = 2 * ROWS + 100
    labels, ids = np.zeros(count, dtype=int), [[1] * (1 + i % 3) for i in range(count)]
    labels[2 * ROWS + 7], ids[ROWS + 3] = 9, [1, 100]
    wrong_label = Dataset.from_dict({"input_ids": [[1]] * count, "labels": labels})
    wrong_token = Dataset.from_dict({"input_ids": ids, "labels": [0] * count})
    DatasetDict({"a": wrong_label, "b": wrong_token}).save_to_disk(tmp_path)
    saved, config = DatasetDict.load_from_disk(tmp_path), tiny_model().config
    with pytest.raises(RecipeError, match=f"row {2 * ROWS + 7}: has the label id 9"):
        check_rows_for_model(saved["a"], config)
    for skipped in (0, 2):
        with pytest.raises(RecipeError, match=f"row {ROWS + 3 - skipped}: has the token id 100"):
            check_rows_for_model(saved["b"].select(range(skipped, count)), config)
    check_rows_for_model(saved["b"].remove_columns(["labels", "input_ids"]), config)
    check_rows_for_model(saved["b"].select([]), config)
    check_rows_for_model(saved["b"].select([5, 3, 1]).with_format("torch"), config)
