"""scripts/cross_validate.py, run through the shell on a small file."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import NANO, assert_one_line, make_texts, run, tiny_folder
from sklearn.metrics import accuracy_score, f1_score, log_loss

SCRIPT = ["python", "scripts/cross_validate.py"]
LABELS = ["medicine", "sport", "technology"]


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """A folder with data.csv and what a cross-validation of it wrote."""
    folder = tmp_path_factory.mktemp("validated")
    frame = make_texts(150, LABELS)
    frame.loc[0, "text"] = "=1+1 goal\x1b[31m"
    frame.assign(author=[f"author {i % 23}" for i in range(150)]).to_csv(folder / "data.csv", index=False)
    fields = ["--model_name_or_path", NANO, "--train_file", folder / "data.csv", "--group_column", "author"]
    fields += ["--learning_rate", "1e-3", "--num_train_epochs", "2", "--max_length", "64"]
    result = run(
        *SCRIPT, "--output_file", folder / "out.csv", "--plot_file", folder / "folds.png", "--folds", "3", *fields
    )
    assert result.returncode == 0, result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


def test_every_text_has_its_probabilities(validated):
    out, data = pd.read_csv(validated / "out.csv"), pd.read_csv(validated / "data.csv")
    columns = ["text", "label", *(f"probability_{label}" for label in LABELS), "predicted_label", "fold", "row"]
    assert list(out.columns) == columns
    assert out["text"][0] == "'=1+1 goal\x1b[31m"
    assert out["text"][1:].tolist() == data["text"][1:].tolist()
    assert out["label"].tolist() == data["label"].tolist()
    assert out["row"].tolist() == list(range(2, 152))
    assert (out.groupby(data["author"])["fold"].nunique() == 1).all()
    probabilities = out[columns[2:5]].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert [LABELS[i] for i in probabilities.argmax(axis=1)] == out["predicted_label"].tolist()
    assert sorted(path.name for path in validated.iterdir()) == [
        "data.csv",
        "folds.png",
        "out.csv",
        "out.json",
        "stdout.txt",
    ]


def test_figures_follow_from_the_file(validated):
    out, figures = pd.read_csv(validated / "out.csv"), json.loads((validated / "out.json").read_text())
    pooled = {
        "accuracy": accuracy_score(out["label"], out["predicted_label"]),
        "macro_f1": f1_score(out["label"], out["predicted_label"], average="macro"),
        "loss": log_loss(out["label"], out[[f"probability_{label}" for label in LABELS]]),
    }
    assert figures["gpt2"]["pooled"] == pytest.approx(pooled, rel=1e-5)
    assert pooled["accuracy"] > 0.6  # of three labels as frequent
    right = out["label"] == out["predicted_label"]
    by_fold = right.groupby(out["fold"]).mean().tolist()
    assert [fold["accuracy"] for fold in figures["gpt2"]["folds"]] == pytest.approx(by_fold)
    test = figures["tfidf"]["mcnemar"]
    gained = (pooled["accuracy"] - figures["tfidf"]["pooled"]["accuracy"]) * 150
    assert test["gains"] - test["losses"] == pytest.approx(gained)
    printed = (validated / "stdout.txt").read_text()
    assert f"{pooled['accuracy']:.4f}" in next(x for x in printed.splitlines() if x.startswith("accuracy, gpt2-nano"))
    assert test["verdict"] in printed


@pytest.mark.parametrize("step", ["out_of_fold_baselines", "draw_folds"])
def test_an_interrupted_command_goes_on(validated, tmp_path, run_here, monkeypatch, step):
    trained = []

    def predict(runner, train, test):
        trained.append(train)
        return np.eye(3)[runner.tokenized["train"][test[1]]["labels"]]

    monkeypatch.setattr("recipe.experiments.runs.Runner.train_to_the_end", predict)
    data = validated / "data.csv"
    command = [*SCRIPT, "--model_name_or_path", tiny_folder(), "--train_file", data, "--folds", "2"]
    command += ["--output_file", tmp_path / "out.csv", "--plot_file", tmp_path / "folds.png"]
    with monkeypatch.context() as patch:
        patch.setattr(f"recipe.experiments.folds.{step}", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run_here(command).returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv.unfinished"]
    result = run_here(command)
    assert (result.returncode, len(trained)) == (0, 2), result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folds.png", "out.csv", "out.json"]


def test_outputs_that_exist_are_refused_before_any_work(validated, run_here):
    fields = ["--model_name_or_path", NANO, "--train_file", validated / "data.csv"]
    assert_one_line(run_here([*SCRIPT, "--output_file", validated / "out.csv", *fields]), "out.csv exists")
    result = run_here([*SCRIPT, "--output_file", validated / "out.jsonl", *fields])
    assert_one_line(result, "figures_file")
    result = run_here([*SCRIPT, "--output_file", validated / "new.csv", "--folds", "1", *fields])
    assert_one_line(result, "argument --folds: 1 is no whole number from 2 up")
    result = run_here([*SCRIPT, "--output_file", validated / "new.csv", "--fold", "3", *fields])
    assert_one_line(result, "unknown field 'fold'")
