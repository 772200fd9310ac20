import pandas as pd
import pytest
from conftest import SMS, make_texts, needs_sms

from recipe.arguments import DataArguments
from recipe.data import load_splits
from recipe.errors import RecipeError


def write(tmp_path, frame, name="a.csv"):
    path = tmp_path / name
    frame.to_csv(path, index=False)
    return str(path)


def texts_of(splits):
    return [set(frame["text"]) for frame in (splits.train, splits.validation, splits.test)]


def test_splits_are_stratified_seeded_and_disjoint(tmp_path):
    frame = pd.concat([make_texts(80, ["sport"]), make_texts(20, ["medicine"], seed=1)])
    path = write(tmp_path, frame)
    splits = load_splits(DataArguments(train_file=path))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [70, 10, 20]
    assert splits.test["label"].value_counts().to_dict() == {1: 16, 0: 4}
    train, validation, test = texts_of(splits)
    assert train | validation | test == set(frame["text"])
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    assert texts_of(load_splits(DataArguments(train_file=path))) == [train, validation, test]
    assert texts_of(load_splits(DataArguments(train_file=path, split_seed=1)))[2] != test
    sizes = DataArguments(train_file=path, validation_fraction=0.25, test_fraction=0.5)
    assert [len(part) for part in texts_of(load_splits(sizes))] == [25, 25, 50]


def test_copies_stay_out_of_other_splits(tmp_path, caplog):
    frame = make_texts(60, ["sport", "medicine"])
    path = write(tmp_path, pd.concat([frame, frame[:30]]))
    caplog.set_level("INFO", logger="recipe")
    splits = load_splits(DataArguments(train_file=path))
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 60
    assert "30 exact duplicates removed, 60 texts left" in caplog.text
    kept = load_splits(DataArguments(train_file=path, remove_duplicates=False))
    assert sum(len(part) for part in (kept.train, kept.validation, kept.test)) == 90


def test_a_given_test_file_stays_whole(tmp_path):
    frame = make_texts(60, ["sport", "medicine"])
    test = pd.concat([frame[:10], frame[:2]])
    files = {"train_file": write(tmp_path, frame), "test_file": write(tmp_path, test, "test.csv")}
    splits = load_splits(DataArguments(**files))
    assert splits.test["text"].tolist() == test["text"].tolist()
    assert len(splits.train) + len(splits.validation) == 50
    with pytest.raises(RecipeError, match="every text also stands in another split"):
        load_splits(DataArguments(**{**files, "train_file": files["test_file"]}))


def test_validation_gives_up_what_the_test_holds(tmp_path):
    frame = make_texts(60, ["sport", "medicine"])
    parts = {"train_file": frame, "validation_file": frame[:20], "test_file": frame[10:30]}
    splits = load_splits(DataArguments(**{name: write(tmp_path, part, f"{name}.csv") for name, part in parts.items()}))
    assert splits.test["text"].tolist() == frame["text"][10:30].tolist()
    assert splits.validation["text"].tolist() == frame["text"][:10].tolist()
    assert splits.train["text"].tolist() == frame["text"][30:].tolist()


def test_labels_that_a_split_lacks_are_said(tmp_path, caplog):
    rare = pd.concat([make_texts(100, ["sport"]), make_texts(3, ["medicine"], seed=1)])
    splits = load_splits(DataArguments(train_file=write(tmp_path, rare)))
    assert splits.train["label"].nunique() == 2
    assert "validation: no text has the label 'medicine'" in caplog.text
    gone = make_texts(4, ["medicine"], seed=1)  # every such text stands in the test file too
    files = {"train_file": write(tmp_path, pd.concat([make_texts(60, ["sport", "technology"]), gone]))}
    load_splits(DataArguments(**files, test_file=write(tmp_path, gone, "test.csv"), split_method="shuffled"))
    assert "train: no text has the label 'medicine'" in caplog.text
    both = pd.concat([make_texts(30, ["sport"]), make_texts(30, ["sport"]).assign(label="medicine")])
    with pytest.raises(RecipeError, match=r"holds a single label \(21 texts are left"):
        load_splits(DataArguments(train_file=write(tmp_path, both)))
    assert "30 texts stand there with different labels; the first one counts" in caplog.text


def test_undersampling_and_limits(tmp_path):
    path = write(tmp_path, pd.concat([make_texts(80, ["sport"]), make_texts(20, ["medicine"], seed=1)]))
    splits = load_splits(DataArguments(train_file=path, undersample="train"))
    assert splits.train["label"].value_counts().to_dict() == {0: 14, 1: 14}
    assert splits.test["label"].value_counts().to_dict() == {1: 16, 0: 4}
    splits = load_splits(DataArguments(train_file=path, undersample="all"))
    assert splits.test["label"].value_counts().to_dict() == {0: 4, 1: 4}
    limits = {"max_train_samples": 30, "max_eval_samples": 5, "max_predict_samples": 7}
    splits = load_splits(DataArguments(train_file=path, **limits))
    assert [len(part) for part in texts_of(splits)] == [30, 5, 7]


def test_too_few_rows_are_said(tmp_path):
    rare = pd.concat([make_texts(30, ["sport"]), make_texts(1, ["medicine"], seed=1)])
    with pytest.raises(RecipeError, match=r"label 'medicine' has too few rows to split \(1\): it needs at least 3"):
        load_splits(DataArguments(train_file=write(tmp_path, rare)))
    with pytest.raises(RecipeError, match="too few"):
        load_splits(DataArguments(train_file=write(tmp_path, make_texts(4, ["sport", "medicine"]))))


@needs_sms
def test_the_book_protocol_as_published():
    """Sizes and rows as pandas gives them, by the protocol's own few lines."""
    args = DataArguments(
        train_file=str(SMS), column_names=["label", "text"], csv_quoting="minimal", remove_duplicates=False,
        undersample="all", split_method="shuffled", split_seed=123,
    )  # fmt: skip
    splits = load_splits(args)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1045, 149, 300]
    frame = pd.read_csv(SMS, sep="\t", header=None, names=["label", "text"])
    spam = frame[frame.label == "spam"]
    ham = frame[frame.label == "ham"].sample(len(spam), random_state=123)
    assert (len(spam), len(ham)) == (747, 747)
    shuffled = pd.concat([ham, spam]).sample(frac=1, random_state=123)
    for part, rows in (
        (splits.train, slice(1045)),
        (splits.validation, slice(1045, 1194)),
        (splits.test, slice(1194, None)),
    ):
        assert part["text"].tolist() == shuffled["text"][rows].tolist()
        assert [splits.label_names[i] for i in part["label"]] == shuffled["label"][rows].tolist()
