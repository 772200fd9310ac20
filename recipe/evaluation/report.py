"""Figures as people read them: a few aligned lines."""

import numpy as np
import pandas as pd
from sklearn.metrics import classification_report, confusion_matrix

from recipe.errors import shorten
from recipe.evaluation.baselines import TITLES
from recipe.evaluation.intervals import PairedComparison
from recipe.evaluation.measurement import Measurement

EXAMPLES = 6  # texts shown after the test
WIDE = 12  # labels: a matrix of more does not fit on a screen
CELL = 10  # characters of a label's name over a column


def print_report(measured: Measurement) -> None:
    """Each label's scores, the model beside its baselines, and what calibration, threshold and abstaining did."""
    ids, names = range(len(measured.label_names)), measured.label_names
    labels, predictions = measured.labels, measured.predictions
    print(classification_report(labels, predictions, labels=ids, target_names=names, digits=3, zero_division=0))
    absent = sorted(set(ids) - set(labels) - set(predictions))
    if absent:
        shown = ", ".join(repr(names[i]) for i in absent[:WIDE])
        print(f"No text is or was said to be {shown}: macro F1 below counts the other labels.\n")
    print_table(measured)
    scores = measured.scores
    if measured.temperature is not None:
        print(
            f"Temperature {measured.temperature:.4g}: calibration error {scores['ece_uncalibrated']:.4f} -> {scores['ece']:.4f},"
            f" loss {scores['loss_uncalibrated']:.4f} -> {scores['loss']:.4f}"
        )
    if measured.threshold is not None:
        print(
            f"Threshold {measured.threshold:.4g} on the probability of {names[1]!r}: at 0.5,"
            f" accuracy {scores['accuracy_at_0.5']:.4f} and macro F1 {scores['macro_f1_at_0.5']:.4f}"
        )
    if measured.abstain_below is not None:
        print_answered(measured)
    print(", ".join(f"test_{name} {scores[name]:.4f}" for name in ("accuracy", "macro_f1", "loss", "ece")))


def print_table(measured: Measurement) -> None:
    rows = {"GPT-2": (measured.scores, "")}
    for name in reversed([name for name in TITLES if name in measured.baselines]):
        baseline = measured.baselines[name]
        rows[TITLES[name]] = baseline.figures, p_value(baseline.comparison)
    width = max(map(len, rows))
    p_title = "McNemar's p" if measured.baselines else ""
    print(f"{'':<{width}}  accuracy  95 % interval   macro F1  {p_title}".rstrip())
    for title, (figures, p) in rows.items():
        low, high = figures["accuracy_low"], figures["accuracy_high"]
        interval = f"{low:.3f} - {high:.3f}"
        print(f"{title:<{width}}  {figures['accuracy']:8.3f}  {interval}  {figures['macro_f1']:8.3f}  {p:>11}".rstrip())
    if measured.baselines:
        strongest = [name for name in TITLES if name in measured.baselines][-1]
        print(f"\n{verdict(measured.baselines[strongest].comparison, TITLES[strongest])}")
    print()


def p_value(comparison: PairedComparison) -> str:
    return "< 0.0001" if comparison.p_value < 1e-4 else f"{comparison.p_value:.4f}"


def verdict(comparison: PairedComparison, title: str) -> str:
    p = p_value(comparison)
    return (
        f"GPT-2 is right on {count(comparison.gains)} that {title} gets wrong, and wrong on {count(comparison.losses)} that it gets"
        f" right (p {p if p.startswith('<') else '= ' + p}): {comparison.verdict}"
    )


def count(texts: int) -> str:
    return f"{texts} text" if texts == 1 else f"{texts} texts"


def print_answered(measured: Measurement) -> None:
    scores = measured.scores
    share = f"Abstaining below {measured.abstain_below:g}: {scores['answered']} of {len(measured.labels)} texts"
    share += f" answered ({scores['coverage']:.1%})"
    if scores["answered"]:
        low, high = scores["answered_accuracy_low"], scores["answered_accuracy_high"]
        share += f", accuracy on these {scores['answered_accuracy']:.4f} ({low:.3f} - {high:.3f})"
    print(share)


def print_confusion(measured: Measurement) -> None:
    """The confusion matrix; of many labels, the most frequent mistakes."""
    names = measured.label_names
    matrix = confusion_matrix(measured.labels, measured.predictions, labels=range(len(names)))
    if len(names) <= WIDE:
        width = max(map(len, names))
        print(f"\nConfusion matrix (rows: what a text is; columns: what the model says)\n{'':<{width}}", end="")
        print("".join(f"{shorten(name, CELL):>{CELL + 2}}" for name in names))
        for name, row in zip(names, matrix, strict=True):
            print(f"{name:<{width}}" + "".join(f"{count:>{CELL + 2}}" for count in row))
        return
    np.fill_diagonal(matrix, 0)
    worst = np.argsort(matrix, axis=None)[::-1][:WIDE]
    pairs = [divmod(int(i), len(names)) for i in worst if matrix.flat[i]]
    print("\nMost frequent mistakes" if pairs else "\nNo mistakes")
    for true, predicted in pairs:
        print(f"{matrix[true, predicted]:>7}  {names[true]} taken for {names[predicted]}")


def print_examples(test: pd.DataFrame, measured: Measurement) -> None:
    """As many of each label as there is room for, mistakes among them shown as such."""
    names = measured.label_names
    print("\nSome of its texts:")
    frame = test.assign(prediction=measured.predictions)
    shown = frame.groupby("label").head(max(1, EXAMPLES // len(names))).head(EXAMPLES)
    for text, label, prediction in shown[["text", "label", "prediction"]].itertuples(index=False):
        mark = "" if label == prediction else f"  <- is {names[label]}"
        print(f"  {names[prediction]:<12} {shorten(text)}{mark}")
