"""scripts/evaluate_model.py, and predict.py's thresholds and abstaining."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NANO, assert_one_line, make_texts
from datasets import DatasetDict
from safetensors.torch import load_file
from saved_models import three_label_run, to_dataset
from transformers import AutoTokenizer, GPT2ForSequenceClassification, pipeline

from recipe.data.dataset import save_splits
from recipe.inference.text_classifier import TextClassifier

EVALUATE, PREDICT = ["python", "scripts/evaluate_model.py"], ["python", "scripts/predict.py"]
LABELS = ["sport", "medicine", "technology"]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def test_file(tmp_path):
    make_texts(60, LABELS, seed=7).to_csv(tmp_path / "test.csv", index=False)
    return tmp_path / "test.csv"


def test_file_with_labels(trained, test_file, tmp_path, run_here):
    """Against pipeline() on the same texts."""
    output = tmp_path / "figures.json"
    result = run_here([*EVALUATE, "--model_dir", trained, "--test_file", test_file, "--output_file", output])
    assert result.returncode == 0, result.stderr
    figures = read(output)
    frame = pd.read_csv(test_file)
    answers = [answer["label"] for answer in pipeline("text-classification", str(trained))(frame["text"].tolist())]
    assert figures["test_accuracy"] == pytest.approx((frame["label"] == answers).mean())
    assert figures["label_names"] == sorted(LABELS)
    crossed = pd.crosstab(frame["label"], pd.Series(answers)).reindex(index=sorted(LABELS), columns=sorted(LABELS))
    assert figures["test_confusion_matrix"] == crossed.fillna(0).to_numpy(dtype=int).tolist()
    assert figures["test_tfidf_accuracy"] > 0.9
    for part in ("test.csv, 60 texts:", "95 % interval", "right on", "Confusion matrix", "test_accuracy"):
        assert part in result.stdout


@pytest.fixture
def run_well(run_here):
    """As `run_here`, for a script that ends well."""

    def run_script(*command):
        result = run_here(command)
        assert result.returncode == 0, result.stderr
        return result

    return run_script


def test_own_test_split_gives_the_runs_figures(trained, tmp_path, run_well):
    output = tmp_path / "figures.json"
    printed = run_well(*EVALUATE, "--model_dir", trained, "--output_file", output)
    assert "Test split of the run, 60 texts:" in printed.stdout
    figures = read(output)
    for name, value in read(trained / "test_results.json").items():
        assert figures[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_a_runs_answers_are_written_again(trained, tmp_path, run_well):
    """The same file as the run's own, and that of its training file: each text has its file and row."""
    run_well(*EVALUATE, "--model_dir", trained, "--predictions_file", tmp_path / "answers.csv", "--no_baselines")
    own, again = (pd.read_csv(path) for path in (trained / "test_predictions.csv", tmp_path / "answers.csv"))
    pd.testing.assert_frame_equal(
        own.sort_values("number", ignore_index=True), again.sort_values("number", ignore_index=True)
    )
    data = trained.parent / "trained.csv"
    assert set(own["source"]) == {str(data)}
    assert pd.read_csv(data).loc[own["row"] - 2, "text"].tolist() == own["text"].tolist()
    assert (own["label"] == own["prediction"]).mean() == read(trained / "test_results.json")["test_accuracy"]


def test_baselines_follow_the_runs_class_weight(tmp_path, run_well):
    """Two of three `bad day` have the common label: balanced weights go by the rare one."""
    rows = [("good day", "sport")] * 6 + [("bad day", "sport")] * 2 + [("bad day", "medicine")]
    split = to_dataset(pd.DataFrame(rows * 10, columns=["text", "label"]), sorted(LABELS))
    predicted = {}
    for weight in ("none", "balanced"):
        folder = shutil.copytree(three_label_run(), tmp_path / weight)
        save_splits(DatasetDict(dict.fromkeys(("train", "validation", "test"), split)), folder)
        (folder / "run_config.yaml").write_text(f"class_weight: {weight}\n")
        run_well(*EVALUATE, "--model_dir", folder, "--output_file", tmp_path / f"{weight}.json")
        predicted[weight] = read(tmp_path / f"{weight}.json")["test_tfidf_accuracy"]
    assert predicted == {"none": pytest.approx(8 / 9), "balanced": pytest.approx(7 / 9)}


def test_calibrating_into_a_new_folder(trained, test_file, tmp_path, run_well):
    """On texts of which every fourth has a wrong label: the model is far too sure of them."""
    frame = make_texts(60, LABELS, seed=8)
    frame.loc[::4, "label"] = np.roll(frame["label"], 1)[::4]
    frame.to_csv(tmp_path / "validation.csv", index=False)
    files = ["--validation_file", tmp_path / "validation.csv", "--test_file", tmp_path / "validation.csv"]
    new, output = tmp_path / "new", tmp_path / "figures.json"
    printed = run_well(
        *EVALUATE, "--model_dir", trained, *files, "--calibrate", "--output_dir", new, "--output_file", output
    )
    figures = read(output)
    assert figures["temperature"] > 1.2
    assert figures["test_loss"] < figures["test_loss_uncalibrated"]
    assert figures["test_ece"] < figures["test_ece_uncalibrated"]
    assert f"calibration error {figures['test_ece_uncalibrated']:.4f} -> {figures['test_ece']:.4f}" in printed.stdout
    old_weights, weights = (load_file(folder / "model.safetensors") for folder in (trained, new))
    torch.testing.assert_close(weights["score.weight"] * figures["temperature"], old_weights["score.weight"])
    assert read(new / "config.json")["architectures"] == ["GPT2ForSequenceClassification"]
    splits = [sorted(path.name for path in (folder / "splits").iterdir()) for folder in (trained, new)]
    assert splits[0] == splits[1]
    old, calibrated = (
        TextClassifier.from_pretrained(folder).predict(frame["text"].tolist()) for folder in (trained, new)
    )
    assert old[0] == calibrated[0]
    assert calibrated[1].max(axis=1).mean() < old[1].max(axis=1).mean()
    run_well(*EVALUATE, "--model_dir", new, *files[2:], "--output_file", output, "--overwrite_output_file")
    assert read(output)["test_loss"] == pytest.approx(figures["test_loss"], rel=1e-4, abs=1e-5)


def test_baselines_of_a_file_and_none_without_one(trained, test_file, tmp_path, run_well, caplog):
    texts = pd.read_csv(test_file)
    pd.concat([make_texts(50, LABELS, seed=3), texts[:10]]).to_csv(tmp_path / "train.csv", index=False)
    files = ["--test_file", test_file, "--train_file", tmp_path / "train.csv"]
    output = ["--output_file", tmp_path / "a.json"]
    run_well(*EVALUATE, "--model_dir", trained, *files, *output)
    assert "train.csv: 10 texts that the test holds are left out" in caplog.text
    assert "test_tfidf_accuracy" in read(tmp_path / "a.json")
    for path in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / path).write_bytes((trained / path).read_bytes())
    run_well(*EVALUATE, "--model_dir", tmp_path / "bare", *files[:2], *output, "--overwrite_output_file")
    assert "no baselines: " in caplog.text
    assert "or give --train_file FILE" in caplog.text
    assert "test_majority_accuracy" not in read(tmp_path / "a.json")


def test_texts_that_were_trained_on_are_warned_about(trained, tmp_path, run_well, caplog):
    make_texts(300, LABELS).to_csv(tmp_path / "all.csv", index=False)  # what `trained` was made of
    run_well(*EVALUATE, "--model_dir", trained, "--test_file", tmp_path / "all.csv")
    assert "210 of the 300 test texts were trained on" in caplog.text


def test_picture_and_abstaining(trained, test_file, tmp_path, run_well):
    pytest.importorskip("matplotlib")
    fields = ["--plot_file", tmp_path / "x.png", "--abstain_below", "0.9", "--output_file", tmp_path / "x.json"]
    printed = run_well(*EVALUATE, "--model_dir", trained, "--test_file", test_file, *fields)
    figures = read(tmp_path / "x.json")
    probabilities = TextClassifier.from_pretrained(trained).predict(pd.read_csv(test_file)["text"].tolist())[1]
    assert figures["test_answered"] == (probabilities.max(axis=1) >= 0.9).sum()
    assert f"{figures['test_answered']} of 60 texts answered" in printed.stdout
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory):
    """A model of two labels, not trained: it mostly gives `spam` a probability of 0.1 to 0.4."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    names = {"id2label": {0: "ham", 1: "spam"}, "label2id": {"ham": 0, "spam": 1}}
    model = GPT2ForSequenceClassification.from_pretrained(NANO, num_labels=2, dtype=torch.float32, **names)
    model.config.decision_threshold = 0.25
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(NANO).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("override", [None, 0.3])
def test_predict_and_evaluate_follow_the_threshold(two_labels, tmp_path, run_well, override):
    frame = make_texts(60, ["sport", "medicine"]).assign(label=["ham", "spam"] * 30)
    frame.to_csv(tmp_path / "in.csv", index=False)
    given = [] if override is None else ["--decision_threshold", override]
    output = tmp_path / "out.jsonl"
    run_well(*PREDICT, "--model_dir", two_labels, "--input_file", tmp_path / "in.csv", "--output_file", output, *given)
    rows = pd.read_json(output, lines=True)
    expected = np.where(rows["probability_spam"] >= (override or 0.25), "spam", "ham")
    assert rows["label"].tolist() == expected.tolist()
    argmax = np.where(rows["probability_spam"] > 0.5, "spam", "ham")
    assert (expected != argmax).any()
    figures = tmp_path / "figures.json"
    printed = run_well(
        *EVALUATE, "--model_dir", two_labels, "--test_file", tmp_path / "in.csv", "--output_file", figures, *given
    )
    assert read(figures)["decision_threshold"] == (override or 0.25)
    assert read(figures)["test_accuracy"] == pytest.approx((expected == frame["label"]).mean())
    assert read(figures)["test_accuracy_at_0.5"] == pytest.approx((argmax == frame["label"]).mean())
    assert "on the probability of 'spam'" in printed.stdout


def test_predict_abstains(two_labels, tmp_path, run_well):
    make_texts(40, ["sport", "medicine"])[["text"]].to_csv(tmp_path / "in.csv", index=False)
    command = [*PREDICT, "--model_dir", two_labels, "--input_file", tmp_path / "in.csv"]
    run_well(*command, "--output_file", tmp_path / "all.csv")
    everything = pd.read_csv(tmp_path / "all.csv")
    top = everything.filter(like="probability_").max(axis=1)
    bound = float(top.median())
    printed = run_well(*command, "--output_file", tmp_path / "sure.csv", "--abstain_below", bound)
    sure = pd.read_csv(tmp_path / "sure.csv", keep_default_na=False)
    assert sure["label"].tolist() == [
        label if p >= bound else "" for label, p in zip(everything["label"], top, strict=True)
    ]
    assert f"{(top < bound).sum()} of 40 texts got no label" in printed.stderr
    printed = run_well(*command, "--abstain_below", "1")
    assert [json.loads(line)["label"] for line in printed.stdout.splitlines()] == [None] * 40
    assert "40 of 40 texts got no label" in printed.stderr


BAD = {
    "folder": (["--model_dir", "{}/nowhere"], "does not exist"),
    "file": (["--test_file", "{}/nowhere.csv"], "nowhere.csv: cannot be read"),
    "label": (
        ["--test_file", "{}/odd.csv"],
        "odd.csv: rows 2, 4 (2 in all) have a label that the model does not know, such",
    ),
    "threshold": (["--test_file", "{}/test.csv", "--decision_threshold", "0.3"], "there are 3 labels"),
    "number": (["--test_file", "{}/test.csv", "--decision_threshold", "tune"], "take a number between 0 and 1"),
    "abstain": (["--test_file", "{}/test.csv", "--abstain_below", "90"], "take a number above 0, up to 1"),
    "ending": (
        ["--test_file", "{}/test.csv", "--output_file", "{}/x.csv"],
        "output_file {}/x.csv: unknown ending '.csv'",
    ),
    "exists": (["--output_file", "{trained}/test_results.json"], "test_results.json exists: give another one, or pass"),
    "answers": (
        ["--predictions_file", "{trained}/test_predictions.csv"],
        "test_predictions.csv exists: give another one",
    ),
    "own answers": (
        ["--predictions_file", "{trained}/test_predictions.csv", "--overwrite_output_file"],
        "test_predictions.csv: is a file of the model's folder",
    ),
    "plot": (["--test_file", "{}/test.csv", "--plot_file", "{}/x.jpeg"], "plot_file {}/x.jpeg: unknown ending '.jpeg'"),
    "in place": (["--calibrate", "--output_dir", "{trained}"], "is not empty: give a new folder"),
    "nothing": (["--test_file", "{}/test.csv", "--output_dir", "{}/new"], "pass --calibrate too, or leave it out"),
    "train": (["--test_file", "{}/test.csv", "--train_file", "{}/nowhere.csv"], "nowhere.csv: cannot be read"),
    "all test": (["--test_file", "{}/test.csv", "--train_file", "{}/test.csv"], "every text is also a test text"),
    "no run": (["--model_dir", "{}/bare"], "no test texts: {}/bare/splits"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, trained, test_file, tmp_path, run_here):
    fields, message = BAD[case]
    (tmp_path / "odd.csv").write_text("text,label\na,cooking\nb,sport\nc,cooking\n")
    (tmp_path / "bare").mkdir()
    for path in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / path).symlink_to(trained / path)
    before = {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *trained.rglob("*"))}
    fields = [field.format(tmp_path, trained=trained) for field in fields]
    model = [] if "--model_dir" in fields else ["--model_dir", trained]
    assert_one_line(run_here([*EVALUATE, *model, *fields]), message.format(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *trained.rglob("*"))} == before


def test_predict_refuses_too(trained, run_here):
    command = [*PREDICT, "--model_dir", trained, "--text", "x"]
    assert_one_line(
        run_here([*command, "--decision_threshold", "0.3"]), "there are 3 labels: a threshold decides between two"
    )
    assert_one_line(run_here([*command, "--abstain_below", "2"]), "abstain_below is '2'")
