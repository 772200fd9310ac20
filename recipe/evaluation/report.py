"""The report: a classifier measured on texts with labels, as figures, as results files, and as people read it."""

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from scipy.special import softmax
from sklearn.metrics import classification_report, confusion_matrix

from recipe.atomic import open_text, write_json
from recipe.data.run_config import base_model_name
from recipe.data.texts import escape
from recipe.data.tokenization import Coverage
from recipe.errors import printable, shorten
from recipe.evaluation.intervals import PairedComparison, compare_paired, format_p
from recipe.evaluation.metrics import classification_metrics, grade_metrics, label_metrics
from recipe.inference.text_classifier import TextClassifier, decide, is_unsure, text_logits
from recipe.shipped import as_typed

TITLES = {"majority": "majority class", "tfidf": "TF-IDF + logistic regression"}  # baselines, by rising strength
PICTURES = {  # of a run's folder `figures`, which plots.py draws, and their titles in the model card
    "confusion_matrix": "Confusion matrix",
    "reliability": "Reliability",
    "precision_recall": "Precision and recall",
    "length": "Accuracy by length",
    "training": "Training",
}
EXAMPLES = 6  # texts shown after the test
WIDE = 12  # labels: a matrix of more does not fit on a screen
ABSTAIN_BELOW = (0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # levels of the table that it is chosen from
CELL = 10  # characters of a label's name over a column


@dataclass
class Measurement:
    """A model's answers to N texts with labels, and all figures computed from them."""

    label_names: list[str]
    labels: np.ndarray  # int64 [N]
    logits: np.ndarray  # float [W, num_labels], the model's own, a row a window
    text_index: np.ndarray | None = None  # int [W], the text that each window is of; None: each row is a text
    coverage: Coverage | None = None
    threshold: float | None = None  # of the decision between two labels
    temperature: float | None = None  # what the head was divided by, if it was calibrated
    abstain_below: float | None = None
    model_name: str = "GPT-2"  # in tables and sentences
    baselines: dict[str, tuple[dict[str, float], PairedComparison]] = field(default_factory=dict)  # the strongest first

    def __post_init__(self) -> None:
        logits = text_logits(self.logits, self.text_index)
        self.probabilities = softmax(logits, axis=-1)
        self.predictions = decide(self.probabilities, self.threshold)
        self.confusion = confusion_matrix(self.labels, self.predictions, labels=range(len(self.label_names)))
        self.scores: dict[str, float | None]
        self.scores = classification_metrics(logits, self.labels, self.label_names, self.threshold)
        if self.temperature is not None:
            before = classification_metrics(self.uncalibrated_logits, self.labels, self.label_names)
            self.scores |= {f"{name}_uncalibrated": before[name] for name in ("ece", "loss")}
        if self.abstain_below is not None:  # how many texts are answered, and how well (None where none is)
            answered = ~is_unsure(self.probabilities, self.abstain_below)
            scores = label_metrics(self.predictions[answered], self.labels[answered]) if answered.any() else {}
            self.scores |= {"coverage": float(answered.mean()), "answered": int(answered.sum())}
            for name in ("accuracy", "accuracy_low", "accuracy_high"):
                self.scores[f"answered_{name}"] = scores.get(name)

    @property
    def uncalibrated_logits(self) -> np.ndarray:
        return text_logits(self.logits.astype(np.float64) * (self.temperature or 1), self.text_index)

    def add_baselines(self, train: Dataset, texts: list[str], class_weight: str = "none") -> None:
        """Fit the baselines to the training texts (`text`, `label` as ids), and measure them on the same N texts."""
        from recipe.evaluation.baselines import baseline_predictions

        predicted = baseline_predictions(train["text"][:], np.array(train["label"]), texts, class_weight)
        for name, predictions in reversed(predicted.items()):
            comparison = compare_paired(self.predictions == self.labels, predictions == self.labels)
            figures = label_metrics(predictions, self.labels)
            figures |= grade_metrics(predictions, self.labels, self.label_names)
            self.baselines[name] = figures, comparison

    def results(self, prefix: str) -> dict[str, float | None]:
        """Return every figure under a flat name with `prefix_` before it, for a results file."""
        flat = {**self.scores, "samples": len(self.labels), **(self.coverage.figures() if self.coverage else {})}
        for name, (figures, test) in self.baselines.items():
            flat |= {f"{name}_{figure}": value for figure, value in figures.items()}
            flat[f"mcnemar_p_{name}"] = test.p_value
            flat |= {f"gains_over_{name}": test.gains, f"losses_to_{name}": test.losses}
        settings = {"temperature": self.temperature, "decision_threshold": self.threshold}
        chosen = {name: value for name, value in settings.items() if value is not None}
        return {f"{prefix}_{name}": value for name, value in flat.items()} | chosen

    def answers(self, texts: Dataset) -> pd.DataFrame:
        """Return the answers to the N texts: the mistakes, the most confident first, then the rest, the least confident first.

        Columns, escaped as CSV may hold them: `source`, `row` and `text`, as far as `texts` has them; `label`,
        `prediction` and its `probability`; `number`, the text's place among the N, from 1.
        """
        names = np.array(self.label_names, dtype=object)
        probability = self.probabilities[np.arange(len(self.labels)), self.predictions].round(6)
        columns = {name: texts[name][:] for name in ("source", "row", "text") if name in texts.column_names}
        columns |= {"label": names[self.labels], "prediction": names[self.predictions], "probability": probability}
        frame = pd.DataFrame({**columns, "number": np.arange(len(self.labels)) + 1})
        right = self.labels == self.predictions
        frame = frame.iloc[np.lexsort((np.where(right, probability, -probability), right))]
        return frame.map(escape)

    def save_answers(self, path: Path, texts: Dataset) -> None:
        """Write `answers` into a CSV file, completely or not at all."""
        with open_text(path) as file:  # all texts quoted: a lone carriage return would end its row for most readers
            self.answers(texts).to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")

    def report(self, prefix: str) -> dict[str, Any]:
        """Return `results`, the labels, and the confusion matrix: a row a true label, a column a predicted one."""
        matrix = {"label_names": self.label_names, f"{prefix}_confusion_matrix": self.confusion.tolist()}
        return self.results(prefix) | matrix


def measure(
    classifier: TextClassifier, split: Dataset, progress: bool = False, **settings: float | str | None
) -> Measurement:
    """Classify the split's `text` and compare with its `label` (ids); every process of a run calls this.

    Args:
        settings: `temperature`, `abstain_below` and `model_name`, as in Measurement.
    """
    answers = classifier.window_logits(split["text"][:], progress)
    labels, threshold = np.array(split["label"]), classifier.decision_threshold
    return Measurement(classifier.label_names, labels, *answers, threshold=threshold, **settings)


def evaluate_saved(
    model_dir: str | Path,
    test: Dataset,
    train: Dataset | None = None,
    device: str | torch.device | None = None,
    class_weight: str = "none",
    temperature: float | None = None,
    progress: bool = True,
    save_texts: bool = True,
) -> Measurement:
    """Load a saved model, measure it on the test texts, write test_results.json and test_predictions.csv beside it, print.

    Every process of a run calls this; the main one writes and prints.

    Args:
        test: with `text` and `label` (ids), and, where known, `row` and `source`.
        train: the training texts, for the baselines; None leaves them out.
        class_weight: `none` or `balanced`, of the baselines.
        temperature: what the head was divided by, if it was calibrated.
        save_texts: write the texts into test_predictions.csv too.

    Returns:
        The test, in the main process with the baselines: `results("test")` are the figures.
    """
    PartialState().wait_for_everyone()  # until the main process has saved the model
    classifier = TextClassifier.from_pretrained(model_dir, device)
    measured = measure(classifier, test, progress, temperature=temperature, model_name=base_model_name(model_dir))
    if not PartialState().is_main_process:
        return measured
    results, answers = Path(model_dir, "test_results.json"), Path(model_dir, "test_predictions.csv")
    write_json(results, measured.results("test"))  # baselines may take long: nothing is lost in them
    if train is not None:
        measured.add_baselines(train, test["text"][:], class_weight)
        write_json(results, measured.results("test"))
    measured.save_answers(answers, test if save_texts else test.remove_columns("text"))
    print(f"\nTest set, {len(test)} texts, measured on the saved model:")
    print_report(measured)
    print_examples(test, measured)
    print(f"All answers, confident mistakes first: {printable(str(answers))}")
    return measured


def print_report(measured: Measurement) -> None:
    """Print the scores of each label, the model beside its baselines, and the effect of calibration and threshold."""
    names, scores = [*map(shorten, measured.label_names)], measured.scores
    ids = range(len(names))
    labels, predictions = measured.labels, measured.predictions
    print(classification_report(labels, predictions, labels=ids, target_names=names, digits=3, zero_division=0))
    if absent := sorted(set(ids) - set(labels) - set(predictions)):
        shown = ", ".join(repr(names[i]) for i in absent[:WIDE])
        print(f"No text has the label {shown} or was given it: macro F1 below counts the other labels.\n")
    table = comparison_table(measured)
    widths = {name: {"95 % interval": 14, "McNemar's p": 12}.get(name, 9) for name in table}
    lines = table.to_string(col_space=widths).splitlines()
    print(*(line.rstrip() for line in lines), "", sep="\n")
    if found := conclusions(measured):
        print(*found, "", sep="\n")
    if measured.temperature is not None:
        error, loss = (f"{scores[f'{name}_uncalibrated']:.4f} -> {scores[name]:.4f}" for name in ("ece", "loss"))
        print(f"Temperature {measured.temperature:.4g}: calibration error {error}, loss {loss}")
    if measured.threshold is not None:
        at_half = f"accuracy {scores['accuracy_at_0.5']:.4f} and macro F1 {scores['macro_f1_at_0.5']:.4f}"
        print(f"Threshold {measured.threshold:.4g} on the probability of {names[1]!r}: at 0.5, {at_half}")
    if measured.abstain_below is not None:
        answered = f"{scores['answered']} of {len(labels)} texts answered ({scores['coverage']:.1%})"
        if scores["answered"]:
            low, high = scores["answered_accuracy_low"], scores["answered_accuracy_high"]
            answered += f", accuracy on these {scores['answered_accuracy']:.4f} ({low:.3f} - {high:.3f})"
        print(f"Abstaining below {measured.abstain_below:g}: {answered}")
    print(", ".join(f"test_{name} {scores[name]:.4f}" for name in ("accuracy", "macro_f1", "loss", "ece")))


def comparison_table(measured: Measurement) -> pd.DataFrame:
    """Return the figures of the model and its baselines, the strongest first, as text."""
    titles = [measured.model_name, *(TITLES[name] for name in measured.baselines)]
    figures = pd.DataFrame([measured.scores, *(scores for scores, _ in measured.baselines.values())], index=titles)
    columns = {"accuracy": "accuracy", "macro_f1": "macro F1", "mae": "MAE", "quadratic_kappa": "quadratic kappa"}
    figures = figures.reindex(columns=["accuracy_low", "accuracy_high", *columns]).dropna(axis="columns", how="all")
    figures = figures.astype(float).map("{:.3f}".format, na_action="ignore").fillna("")
    intervals = figures["accuracy_low"] + " - " + figures["accuracy_high"]
    table = figures[[name for name in columns if name in figures]].rename(columns=columns)
    table.insert(1, "95 % interval", intervals)
    if measured.baselines:
        table["McNemar's p"] = ["", *(format_p(test.p_value) for _, test in measured.baselines.values())]
    return table


def conclusions(measured: Measurement) -> list[str]:
    """Return how the model compares with its strongest baseline, if it has one, and what may help if it is not better."""
    if not measured.baselines:
        return []
    name, (_, test) = next(iter(measured.baselines.items()))
    if test.gains or test.losses:
        gains, losses = (f"{texts} text{'' if texts == 1 else 's'}" for texts in (test.gains, test.losses))
        p = format_p(test.p_value)
        found = f"is right on {gains} that {TITLES[name]} gets wrong, and wrong on {losses} that it gets right"
        found += f" (McNemar's p {p if p[0] == '<' else f'= {p}'}): {test.verdict}."
    else:
        found = f"and {TITLES[name]} are right on the same texts: no difference."
    advice = as_typed(
        "What may help: training more blocks (scripts/probe.py shows how many to begin with), another learning rate"
        f" (scripts/sweep.py), more texts (scripts/learning_curve.py), a larger GPT-2. Else {TITLES[name]} is cheaper."
    )
    return [f"{measured.model_name} {found}", *([] if test.verdict == "better" else [advice])]


def print_confusion(measured: Measurement) -> None:
    """Print the confusion matrix; of many labels, the most frequent mistakes."""
    names = [*map(shorten, measured.label_names)]
    if len(names) <= WIDE:
        print("\nConfusion matrix (rows: true labels; columns: predicted ones)")
        columns = [shorten(name, CELL) for name in names]
        print(pd.DataFrame(measured.confusion, names, columns).to_string(col_space=[CELL + 1] * len(names)))
        return
    mistakes = most_frequent_mistakes(measured, WIDE)
    print("\nMost frequent mistakes" if mistakes else "\nNo mistakes")
    for true, predicted, texts in mistakes:
        print(f"{texts:>7}  {shorten(true)} taken for {shorten(predicted)}")


def print_coverage(measured: Measurement) -> None:
    """Print how many texts get an answer, and how many of these are right, by what --abstain_below may be."""
    right, rows = measured.predictions == measured.labels, {}
    for level in ABSTAIN_BELOW:
        answered = ~is_unsure(measured.probabilities, level)
        if answered.any():
            rows[f"{level:g}"] = {"answered": answered.mean(), "accuracy": right[answered].mean()}
    print("\nBy --abstain_below: share of texts that get a label, and accuracy on these")
    print(pd.DataFrame.from_dict(rows, orient="index").map("{:.3f}".format).to_string())


def most_frequent_mistakes(measured: Measurement, count: int) -> list[tuple[str, str, int]]:
    """Return true label, predicted label and number of texts of the most frequent confusions."""
    pairs, names = zip(measured.labels, measured.predictions, strict=True), measured.label_names
    mistakes = Counter((true, predicted) for true, predicted in pairs if true != predicted).most_common(count)
    return [(names[true], names[predicted], texts) for (true, predicted), texts in mistakes]


def print_examples(test: Dataset, measured: Measurement) -> None:
    """Print a few texts, as many of each label as fit, with mistakes marked."""
    names = [*map(shorten, measured.label_names)]
    print("\nPredictions on some of its texts:")
    rows = pd.DataFrame({"text": test["text"][:], "label": measured.labels, "prediction": measured.predictions})
    shown = rows.groupby("label").head(max(1, EXAMPLES // len(names))).head(EXAMPLES)
    for text, label, prediction in shown.itertuples(index=False):
        mark = "" if label == prediction else f"  <- is {names[label]}"
        print(f"  {names[prediction]:<12} {shorten(text)}{mark}")
