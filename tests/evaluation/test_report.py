import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from recipe.data.run_config import base_model_name
from recipe.evaluation.report import Measurement, print_confusion, print_coverage, print_report

# Three texts right, the second one wrong; top probabilities 0.88, 0.73, 0.95, 0.62.
LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.5, 0.0]], dtype=np.float32)
LABELS = np.array([0, 0, 1, 0])
TRAIN = Dataset.from_dict(
    {"text": ["see you later", "see you soon", "win cash now", "cash prize"], "label": [0, 0, 1, 1]}
)
TEXTS = ["see you", "you", "cash", "win"]


def measurement(**kwargs):
    return Measurement(["ham", "spam"], LABELS, LOGITS, **kwargs)


def test_baselines_stand_beside_the_model():
    measured = measurement()
    measured.add_baselines(TRAIN, TEXTS, "none")
    results = measured.results("test")
    assert results["test_accuracy"] == 0.75
    assert results["test_majority_accuracy"] == 0.75  # ham, by scikit-learn's rule for a tie
    assert results["test_majority_macro_f1"] == pytest.approx(3 / 7)  # F1 of ham 6/7, of spam 0
    # TF-IDF knows `you` and `cash`, and takes `win` for spam: right on all that the model has wrong, wrong on the last.
    assert (results["test_tfidf_accuracy"], results["test_mcnemar_p_tfidf"]) == (0.75, 1)
    assert (results["test_gains_over_tfidf"], results["test_losses_to_tfidf"]) == (1, 1)
    assert 0 < results["test_tfidf_accuracy_low"] < 0.75 < results["test_tfidf_accuracy_high"] < 1
    assert results["test_samples"] == 4
    assert "temperature" not in results
    assert "decision_threshold" not in results


def test_before_and_after_a_temperature():
    """The logits are those after it, so those before are the logits times it."""
    results = measurement(temperature=2.0).results("test")
    before = Measurement(["ham", "spam"], LABELS, LOGITS * 2).results("test")
    assert results["test_ece_uncalibrated"] == pytest.approx(before["test_ece"])
    assert results["test_loss_uncalibrated"] == pytest.approx(before["test_loss"])
    assert results["test_loss"] == measurement().results("test")["test_loss"]
    assert results["temperature"] == 2


def test_abstaining():
    results = measurement(abstain_below=0.8).results("test")
    assert (results["test_answered"], results["test_coverage"], results["test_answered_accuracy"]) == (2, 0.5, 1)
    assert results["test_accuracy"] == 0.75
    none = measurement(abstain_below=0.99).results("test")
    assert (none["test_answered"], none["test_coverage"], none["test_answered_accuracy"]) == (0, 0, None)


def test_the_report_shows_every_part(capsys):
    measured = measurement(threshold=0.9, temperature=2.0, abstain_below=0.8)
    measured.add_baselines(TRAIN, TEXTS, "none")
    print_report(measured)
    print_confusion(measured)
    out = capsys.readouterr().out
    for line in (
        "GPT-2                            1.000  0.510 - 1.000     1.000",
        "GPT-2 is right on 1 text that TF-IDF + logistic regression gets wrong, and wrong on 0 texts that it gets right"
        " (McNemar's p = 1.0000): no clear difference",
        "What may help: training more blocks (scripts/probe.py shows how many",
        "Threshold 0.9 on the probability of 'spam': at 0.5, accuracy 0.7500 and macro F1 0.7333",
        "Abstaining below 0.8: 2 of 4 texts answered (50.0%), accuracy on these 1.0000 (0.342 - 1.000)",
        "ham            3           0",
    ):
        assert line in out
    assert "Temperature 2: calibration error" in out
    assert len({line.index("0.") for line in out.splitlines() if line.startswith(("TF-IDF", "majority"))}) == 1


def test_answers_begin_with_confident_mistakes(tmp_path):
    """Against pandas' own sort, on texts that a spreadsheet or a reader of CSV would spoil."""
    rng, names = np.random.default_rng(0), ["=SUM(A1)", "b", "NA"]
    labels, logits = rng.integers(0, 3, 60), rng.normal(size=(60, 3)).astype(np.float32)
    texts = ["=1+1", "a\rb", 'say "no",\nthen go', "", "NA"] * 12
    places = {"source": ["a.csv"] * 30 + ["b.csv"] * 30, "row": [*range(2, 32)] * 2}
    measured = Measurement(names, labels, logits)
    measured.save_answers(tmp_path / "x.csv", Dataset.from_dict({"text": texts, "label": labels, **places}))
    answers = pd.read_csv(tmp_path / "x.csv", keep_default_na=False)
    assert [*answers] == ["source", "row", "text", "label", "prediction", "probability", "number"]
    right = answers["label"] == answers["prediction"]
    wrong_ones, right_ones = answers[~right], answers[right]
    assert len(wrong_ones) > 10 < len(right_ones)
    sorted_ones = wrong_ones.sort_values("probability", ascending=False), right_ones.sort_values("probability")
    pd.testing.assert_frame_equal(answers, pd.concat(sorted_ones))
    by_place = answers.sort_values("number")
    shown = [text.replace("=1", "'=1") for text in texts]
    assert by_place["text"].tolist() == shown
    assert (by_place["source"].tolist(), by_place["row"].tolist()) == (places["source"], places["row"])
    assert by_place["label"].tolist() == [("'=SUM(A1)", "b", "NA")[label] for label in labels]
    expected = softmax(logits, axis=1)
    assert by_place["prediction"].tolist() == [("'=SUM(A1)", "b", "NA")[label] for label in expected.argmax(1)]
    assert by_place["probability"].to_numpy() == pytest.approx(expected.max(1), abs=1e-6)
    assert "source" not in measured.answers(Dataset.from_dict({"text": texts}))  # of texts without a file
    without = measured.answers(Dataset.from_dict(places))  # --save_texts false
    assert [*without] == [name for name in answers if name != "text"]
    assert without["row"].tolist() == answers["row"].tolist()


def test_without_words_the_model_is_compared_with_the_majority(capsys):
    measured = measurement()
    measured.add_baselines(Dataset.from_dict({"text": [""] * 4, "label": TRAIN["label"]}), TEXTS, "none")
    print_report(measured)
    assert "that majority class gets wrong" in capsys.readouterr().out
    assert "test_tfidf_accuracy" not in measured.results("test")


def test_of_many_labels_the_worst_mistakes_are_shown(capsys):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 20, 400), rng.normal(size=(400, 20)).astype(np.float32)
    logits[np.arange(400), labels] += 2
    logits[labels == 3] = np.eye(20)[7]  # all of 3 are taken for 7
    measured = Measurement([f"label {i}" for i in range(20)], labels, logits)
    print_confusion(measured)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Most frequent mistakes"
    assert lines[2].split(maxsplit=1) == [str((labels == 3).sum()), "label 3 taken for label 7"]
    assert len(lines) == 14
    report = measured.report("test")
    np.testing.assert_array_equal(report["test_confusion_matrix"], confusion_matrix(labels, logits.argmax(1)))
    assert report["label_names"][3] == "label 3"


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("recipe/assets/gpt2-nano", "gpt2-nano"),
        ("PRIVATE", "this model"),
        (None, "this model"),
    ],
)
def test_the_model_is_called_by_the_name_that_others_know(tmp_path, monkeypatch, base, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").mkdir()
    base = str(tmp_path / "secret") if base == "PRIVATE" else base
    (tmp_path / "run_config.yaml").write_text("{}" if base is None else f"model_name_or_path: {base}")
    assert base_model_name(tmp_path) == name


def test_accuracy_by_how_many_texts_are_answered(capsys):
    """Top probabilities 0.88, 0.73 (wrong), 0.95, 0.62."""
    print_coverage(measurement())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    table = {level: [float(answered), float(accuracy)] for level, answered, accuracy in lines}
    all_texts = {level: [1, 0.75] for level in ("0", "0.5", "0.6")}
    assert table == {**all_texts, "0.7": [0.75, 0.667], "0.8": [0.5, 1], "0.9": [0.25, 1], "0.95": [0.25, 1]}
