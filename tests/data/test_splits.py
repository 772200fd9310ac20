import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from conftest import SMS, make_texts, needs_sms
from data_helpers import SPLITS, load_frames, split_frame_by_groups, texts_of, write
from sklearn.model_selection import StratifiedGroupKFold

from recipe.arguments import DataArguments
from recipe.data.dataset import load_splits
from recipe.errors import RecipeError


def test_splits_are_stratified_seeded_and_disjoint(tmp_path):
    frame = pd.concat([make_texts(80, ["sport"]), make_texts(20, ["medicine"], seed=1)])
    path = write(tmp_path, frame)
    splits = load_splits(DataArguments(train_file=path))
    assert [len(splits[split]) for split in SPLITS] == [70, 10, 20]
    assert Counter(splits["test"]["label"]) == {1: 16, 0: 4}
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
    assert sum(map(len, splits.values())) == 60
    assert "30 exact duplicates removed, 60 texts left" in caplog.text
    kept = load_splits(DataArguments(train_file=path, remove_duplicates=False))
    assert sum(map(len, kept.values())) == 90
    assert "is it the right --text_column" not in caplog.text
    load_splits(DataArguments(train_file=write(tmp_path, pd.concat([frame] * 3), "b.csv")))
    assert "b.csv: most texts repeat an earlier one: is it the right --text_column?" in caplog.text


def test_a_given_test_file_stays_complete(tmp_path):
    frame = make_texts(60, ["sport", "medicine"])
    test = pd.concat([frame[:10], frame[:2]])
    files = {"train_file": write(tmp_path, frame), "test_file": write(tmp_path, test, "test.csv")}
    splits = load_splits(DataArguments(**files))
    assert splits["test"]["text"][:] == test["text"].tolist()
    assert len(splits["train"]) + len(splits["validation"]) == 50
    with pytest.raises(RecipeError, match="every text is also in another split"):
        load_splits(DataArguments(**{**files, "train_file": files["test_file"]}))


def test_validation_gives_up_what_the_test_holds(tmp_path):
    frame = make_texts(60, ["sport", "medicine"])
    parts = {"train_file": frame, "validation_file": frame[:20], "test_file": frame[10:30]}
    splits = load_splits(DataArguments(**{name: write(tmp_path, part, f"{name}.csv") for name, part in parts.items()}))
    assert splits["test"]["text"][:] == frame["text"][10:30].tolist()
    assert splits["validation"]["text"][:] == frame["text"][:10].tolist()
    assert splits["train"]["text"][:] == frame["text"][30:].tolist()


def test_labels_missing_from_a_split_are_reported(tmp_path, caplog):
    rare = pd.concat([make_texts(100, ["sport"]), make_texts(3, ["medicine"], seed=1)])
    splits = load_splits(DataArguments(train_file=write(tmp_path, rare)))
    assert splits["train"]["label"][:].count(1) > 0
    assert "validation: no text has the label 'medicine'" in caplog.text
    gone = make_texts(4, ["medicine"], seed=1)  # every such text stands in the test file too
    files = {"train_file": write(tmp_path, pd.concat([make_texts(60, ["sport", "technology"]), gone]))}
    load_splits(DataArguments(**files, test_file=write(tmp_path, gone, "test.csv"), split_method="shuffled"))
    assert "train: no text has the label 'medicine'" in caplog.text
    both = pd.concat([make_texts(30, ["sport"]), make_texts(30, ["sport"]).assign(label="medicine")])
    with pytest.raises(RecipeError, match=r"holds a single label \(21 texts are left"):
        load_splits(DataArguments(train_file=write(tmp_path, both)))
    assert "texts that occur with different labels: 30; the first one counts" in caplog.text


def test_undersampling_and_limits(tmp_path):
    path = write(tmp_path, pd.concat([make_texts(80, ["sport"]), make_texts(20, ["medicine"], seed=1)]))
    splits = load_splits(DataArguments(train_file=path, undersample="train"))
    assert Counter(splits["train"]["label"]) == {0: 14, 1: 14}
    assert Counter(splits["test"]["label"]) == {1: 16, 0: 4}
    splits = load_splits(DataArguments(train_file=path, undersample="all"))
    assert Counter(splits["test"]["label"]) == {0: 4, 1: 4}
    limits = {"max_train_samples": 30, "max_eval_samples": 5, "max_predict_samples": 7}
    splits = load_splits(DataArguments(train_file=path, **limits))
    assert [len(part) for part in texts_of(splits)] == [30, 5, 7]


def test_too_few_rows_are_refused(tmp_path):
    rare = pd.concat([make_texts(30, ["sport"]), make_texts(1, ["medicine"], seed=1)])
    with pytest.raises(RecipeError, match=r"label 'medicine' has too few rows to split \(1\): it needs at least 3"):
        load_splits(DataArguments(train_file=write(tmp_path, rare)))
    with pytest.raises(RecipeError, match="too few"):
        load_splits(DataArguments(train_file=write(tmp_path, make_texts(4, ["sport", "medicine"]))))


def grouped(rng, sizes, labels=3):
    """Rows of groups of the given sizes, each group with label shares of its own."""
    rows = [
        {"group": f"g{i}", "label": label, "source": "a.csv"}
        for i, size in enumerate(sizes)
        for label in rng.choice(list("abc")[:labels], size=size, p=rng.dirichlet(np.ones(labels)))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize("seed", range(5))
def test_groups_keep_shares_as_well_as_scikit_learns_folds(seed):
    """Fifths, which StratifiedGroupKFold can make too; ours are to be no worse."""
    rng = np.random.default_rng(seed)
    rows = grouped(rng, rng.geometric(0.08, size=120))
    wanted = rows["label"].value_counts() / 5

    def distance(test):
        return (((test["label"].value_counts() - wanted) ** 2) / wanted).sum()

    made = split_frame_by_groups(rows, {"test": 0.2}, seed)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(rows, rows["label"], rows["group"])
    theirs = [distance(rows.iloc[test]) for _, test in folds]
    assert distance(made["test"]) <= max(np.median(theirs), 0.5)
    assert made["test"].index.is_monotonic_increasing
    assert not set(made["test"]["group"]) & set(made["train"]["group"])
    assert len(made["test"]) + len(made["train"]) == len(rows)


@pytest.mark.parametrize(
    ("sizes", "train"),
    [([900, *[11] * 9], 900), ([1000, 1, 1], 1000), ([5, 5, 5], 5), ([300, 200, 50, 50, 40, 60, 100, 200], 700)],
)
def test_groups_of_odd_sizes(sizes, train):
    rows = grouped(np.random.default_rng(0), sizes, labels=2)
    made = split_frame_by_groups(rows, {"validation": 0.1, "test": 0.2}, 42)
    assert all(len(part) for part in made.values())
    assert len(made["train"]) == pytest.approx(train, rel=0.1)
    assert len(made["test"]) >= len(made["validation"])


def test_a_group_is_in_one_split(tmp_path):
    frame = make_texts(300, ["sport", "medicine", "technology"])
    frame["author"] = [f"author {i * i % 53}" for i in frame.index]
    path = write(tmp_path, frame)
    args = DataArguments(train_file=path, group_column="author")
    splits = load_frames(args)
    parts = [splits[split] for split in SPLITS]
    groups = [set(part["group"]) for part in parts]
    assert sum(map(len, groups)) == frame["author"].nunique()
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert len(part) == pytest.approx(300 * share, abs=6)
        assert part["label"].value_counts().to_numpy() == pytest.approx(np.full(3, 100 * share), abs=6)
        assert part.index.is_monotonic_increasing
    assert texts_of(load_splits(args)) == texts_of(splits)
    args.split_seed = 1
    assert texts_of(load_splits(args)) != texts_of(splits)
    few = write(tmp_path, frame.assign(author=[f"author {i % 2}" for i in frame.index]))
    with pytest.raises(RecipeError, match=r"2 groups are too few for 3 splits \(train, validation, test\)"):
        load_splits(DataArguments(train_file=few, group_column="author"))
    common = frame.assign(author=[f"author {i}" for i in frame.index])
    common.loc[common.index % 3 > 0, "text"] = "Thanks!"
    common["author"] = common["author"].where(common["text"] == "Thanks!", "author 1")
    with pytest.raises(RecipeError, match=r"1 groups are too few .*, since a text that groups share joins them: add"):
        load_splits(DataArguments(train_file=write(tmp_path, common), group_column="author"))
    with pytest.raises(RecipeError, match="shuffled is one shuffle of all rows, which knows no groups"):
        DataArguments(train_file=few, group_column="author", split_method="shuffled")


def timed(tmp_path, times, name="a.jsonl", **fields):
    frame = make_texts(len(times), ["sport", "medicine"])
    lines = [json.dumps({**row, "when": when}) for row, when in zip(frame.to_dict("records"), times, strict=True)]
    (tmp_path / name).write_text("\n".join(lines))
    args = DataArguments(train_file=str(tmp_path / name), split_method="time", time_column="when", **fields)
    return frame["text"], load_frames(args)


@pytest.mark.parametrize("kind", ["whole", "fraction", "words", "dates", "stamps"])
def test_the_earliest_train_and_the_latest_are_the_test(tmp_path, kind):
    order = np.random.default_rng(0).permutation(40)
    dates = pd.Timestamp("2024-02-20", tz="UTC") + pd.to_timedelta(order, unit="D")
    times = {
        "whole": [int(i) for i in order],
        "fraction": [i / 7 for i in order],
        "words": [str(i) for i in order],
        "dates": [f"{day:%Y-%m-%d}" for day in dates],
        "stamps": [day.isoformat() for day in dates],
    }[kind]
    texts, splits = timed(tmp_path, times)
    for part, first, stop in ((splits["train"], 0, 28), (splits["validation"], 28, 32), (splits["test"], 32, 40)):
        assert part["text"].tolist() == texts[(order >= first) & (order < stop)].tolist()  # in the file's order


def test_iso_dates_of_several_forms_and_zones_are_ordered(tmp_path):
    later = [f"2024-01-{day:02d}" for day in range(3, 29)]
    forms = [
        "2024-01-02T00:30:00+09:00",
        "2024-01-01 16:00:00",
        "2024-01-01T15:45Z",
        "20240101T1200",
        "2023",
        "2023-12",
    ]
    texts, splits = timed(tmp_path, [*later, *forms], test_fraction=0.7)
    # 15:30 UTC, 16:00, 15:45, 12:00, then 2023: all before the later ones
    assert set(texts[26:]) <= set(splits["train"]["text"])
    times = splits["train"]["time"].tail(6).tolist()
    by_hand = [
        "2024-01-01 15:30",
        "2024-01-01 16:00",
        "2024-01-01 15:45",
        "2024-01-01 12:00",
        "2023-01-01",
        "2023-12-01",
    ]
    assert times == [pd.Timestamp(when, tz="UTC") for when in by_hand]


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (None, r"row 3 has no time \(--time_column\): fill in the time or drop the row"),
        ("  ", r"row 3 has no time"),
        ("03/04/2024", r"row 3 has a time that cannot be read, such as '03/04/2024': write numbers, or dates as 2024-"),
        ("soon", r"row 3 has .* such as 'soon'"),
        (True, r"row 3 has .* such as 'True'"),
        (1e999, r"row 3 has .* such as 'inf'"),
    ],
)
@pytest.mark.parametrize("others", [[1704067200, 5, 7.5], ["2024-01-01", "2024-02-01", "2023"]])
def test_unreadable_times_are_refused_with_their_row(tmp_path, when, message, others):
    with pytest.raises(RecipeError, match=rf"a\.jsonl: {message}"):
        timed(tmp_path, [*others[:2], when, *others * 10])


def test_the_earliest_of_copies_stays(tmp_path):
    frame = make_texts(40, ["sport", "medicine"]).assign(when=range(40))
    copies = frame[30:].assign(when=range(-10, 0))
    path = write(tmp_path, pd.concat([frame, copies]))
    splits = load_splits(DataArguments(train_file=path, split_method="time", time_column="when"))
    assert set(frame["text"][30:]) <= set(splits["train"]["text"])
    assert splits["test"]["text"][:] == frame["text"][22:30].tolist()


def test_groups_in_time_are_given_up_by_the_earlier_split(tmp_path):
    frame = make_texts(100, ["sport", "medicine"]).assign(when=range(100), author=[i // 9 for i in range(100)])
    args = DataArguments(
        train_file=write(tmp_path, frame), split_method="time", time_column="when", group_column="author"
    )
    splits = load_splits(args)
    assert splits["test"]["text"][:] == frame["text"][80:].tolist()
    assert splits["validation"]["text"][:] == frame["text"][70:72].tolist()  # author 8 wrote 72 to 80
    assert splits["train"]["text"][:] == frame["text"][:63].tolist()  # author 7 wrote 63 to 71
    assert splits.summary["group_rows_dropped"] == {"train": 7, "validation": 8}


def test_a_given_test_file_needs_no_time(tmp_path):
    """Only training rows are divided by it."""
    frame = make_texts(40, ["sport", "medicine"])
    test = write(tmp_path, make_texts(10, ["sport", "medicine"], seed=1), "test.csv")
    path = write(tmp_path, frame.assign(when=range(40)))
    splits = load_splits(DataArguments(train_file=path, test_file=test, split_method="time", time_column="when"))
    assert splits.summary["texts"] == {"train": 36, "validation": 4, "test": 10}


def test_time_needs_its_column():
    for fields in ({"split_method": "time"}, {"time_column": "when"}):
        with pytest.raises(RecipeError, match="split_method time and time_column go together"):
            DataArguments(train_file="a.csv", **fields)


@needs_sms
def test_the_book_protocol_as_published():
    """Sizes and rows as pandas gives them, by the protocol's own few lines."""
    args = DataArguments(
        train_file=str(SMS), column_names=["label", "text"], csv_quoting="minimal", remove_duplicates=False,
        undersample="all", split_method="shuffled", split_seed=123,
    )  # fmt: skip
    splits = load_splits(args)
    assert [len(splits[split]) for split in SPLITS] == [1045, 149, 300]
    frame = pd.read_csv(SMS, sep="\t", header=None, names=["label", "text"])
    spam = frame[frame.label == "spam"]
    ham = frame[frame.label == "ham"].sample(len(spam), random_state=123)
    assert (len(spam), len(ham)) == (747, 747)
    shuffled = pd.concat([ham, spam]).sample(frac=1, random_state=123)
    for part, rows in (
        (splits["train"], slice(1045)),
        (splits["validation"], slice(1045, 1194)),
        (splits["test"], slice(1194, None)),
    ):
        assert part["text"][:] == shuffled["text"][rows].str.strip().tolist()
        assert [splits.label_names[i] for i in part["label"]] == shuffled["label"][rows].tolist()


def test_rare_labels_stay_in_training_or_go_as_asked(tmp_path):
    frame = make_texts(40, ["sport", "medicine"])
    frame = pd.concat([frame, pd.DataFrame({"text": ["p", "q", "r"], "label": ["rare", "rare", "single"]})])
    path = write(tmp_path, frame)
    with pytest.raises(
        RecipeError, match=r"2 labels have too few rows to split, 'rare' \(2\), 'single' \(1\): they need"
    ):
        load_splits(DataArguments(train_file=path))
    kept = load_splits(DataArguments(train_file=path, rare_labels="keep"))
    assert {"p", "q", "r"} <= set(kept["train"]["text"])
    assert kept.label_names == ["medicine", "rare", "single", "sport"]
    dropped = load_splits(DataArguments(train_file=path, rare_labels="drop"))
    assert dropped.label_names == ["medicine", "sport"]
    assert dropped.summary["rare_dropped"] == {"train": 3}
    assert (
        dropped["test"]["text"][:]
        == load_splits(DataArguments(train_file=write(tmp_path, frame[:40])))["test"]["text"][:]
    )


def test_nearly_as_many_labels_as_rows_point_to_the_column_and_the_delimiter(tmp_path):
    frame = pd.DataFrame({"text": [f"t {i}" for i in range(20)], "label": [f"x {i}" for i in range(20)]})
    with pytest.raises(RecipeError, match="is it the right --label_column, and the right --delimiter"):
        load_splits(DataArguments(train_file=write(tmp_path, frame)))


def test_a_column_split_of_the_training_file_is_used(tmp_path, caplog):
    frame = make_texts(30, ["sport", "medicine"]).assign(split=["train", "Valid", "test"] * 10)
    splits = load_splits(DataArguments(train_file=write(tmp_path, frame)))
    for split, name in (("train", "train"), ("validation", "Valid"), ("test", "test")):
        assert splits[split]["text"][:] == frame["text"][frame["split"] == name].tolist()
    named = frame.assign(split=["oos_train", "oos_val", "test"] * 10)  # as those of CLINC150's JSON
    assert [len(x) for x in load_splits(DataArguments(train_file=write(tmp_path, named))).values()] == [10, 10, 10]
    unused = frame.assign(split="a")
    assert len(load_splits(DataArguments(train_file=write(tmp_path, unused, "b.csv")))["train"]) == 21
    assert "the column split is not used: it does not say" in caplog.text
    both = DataArguments(
        train_file=write(tmp_path, frame), test_file=write(tmp_path, make_texts(6, ["sport"], 9), "t.csv")
    )
    assert len(load_splits(both)["test"]) == 6
    assert "not used, since validation or test files are given" in caplog.text
