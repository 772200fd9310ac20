"""A model's answers to labelled texts, and everything that is counted from them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from recipe.data.windows import Coverage, average_windows
from recipe.evaluation.baselines import baseline_predictions
from recipe.evaluation.intervals import PairedComparison, compare_paired
from recipe.evaluation.metrics import accuracy_interval, classification_metrics, headline
from recipe.evaluation.thresholds import decide, is_unsure


@dataclass
class BaselineResult:
    """What a baseline makes of the texts that the model was measured on."""

    figures: dict[str, float]  # accuracy, accuracy_low, accuracy_high, macro_f1
    comparison: PairedComparison


@dataclass
class Measurement:
    """A model's answers to N labelled texts, and everything that is counted from them."""

    label_names: list[str]
    labels: np.ndarray  # int64 [N]
    logits: np.ndarray  # float [W, num_labels], as the model gives them, a row a window
    owners: np.ndarray | None = None  # int [W], the text that each window is of; None: each row is a text
    threshold: float | None = None  # of the decision between two labels
    temperature: float | None = None  # what was folded into the model's head, if it was calibrated
    abstain_below: float | None = None
    coverage: Coverage | None = None
    baselines: dict[str, BaselineResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        logits = average_windows(self.logits, self.owners)
        self.probabilities = softmax(logits, axis=-1)
        self.predictions = decide(self.probabilities, self.threshold)
        self.scores = classification_metrics(logits, self.labels, self.label_names, self.threshold)
        if self.temperature is not None:
            before = classification_metrics(self.uncalibrated_logits, self.labels, self.label_names)
            self.scores |= {f"{name}_uncalibrated": before[name] for name in ("ece", "loss")}
        if self.abstain_below is not None:
            self.scores |= self.answered_scores()

    @property
    def uncalibrated_logits(self) -> np.ndarray:
        return average_windows(self.logits.astype(np.float64) * (self.temperature or 1), self.owners)

    def answered_scores(self) -> dict[str, float | None]:
        """How many texts are answered when the unsure ones are not, and how well (None where none is)."""
        answered = ~is_unsure(self.probabilities, self.abstain_below)
        names = ("accuracy", "accuracy_low", "accuracy_high")
        scores: dict[str, float | None] = dict.fromkeys(names)
        if answered.any():
            pair = self.predictions[answered], self.labels[answered]
            scores = {**headline(*pair), **accuracy_interval(*pair)}
        coverage = {"coverage": float(answered.mean()), "answered": int(answered.sum())}
        return {**coverage, **{f"answered_{name}": scores[name] for name in names}}

    def add_baselines(self, train: pd.DataFrame, texts: list[str], class_weight: str) -> None:
        """Fits them to the training texts (`text`, `label` as ids) and has them label the same N texts."""
        for name, predictions in baseline_predictions(train, texts, class_weight).items():
            figures = {**headline(predictions, self.labels), **accuracy_interval(predictions, self.labels)}
            comparison = compare_paired(self.predictions == self.labels, predictions == self.labels)
            self.baselines[name] = BaselineResult(figures, comparison)

    def results(self, prefix: str) -> dict[str, float | None]:
        """Every figure under a flat name with `prefix_` before it, as a results file holds them."""
        flat = {**self.scores, "samples": len(self.labels), **(self.coverage.figures() if self.coverage else {})}
        for name, baseline in self.baselines.items():
            flat |= {f"{name}_{figure}": value for figure, value in baseline.figures.items()}
            flat[f"mcnemar_p_{name}"] = baseline.comparison.p_value
            flat[f"gains_over_{name}"] = baseline.comparison.gains
            flat[f"losses_to_{name}"] = baseline.comparison.losses
        settings = {"temperature": self.temperature, "decision_threshold": self.threshold}
        settings = {name: value for name, value in settings.items() if value is not None}
        return {**{f"{prefix}_{name}": value for name, value in flat.items()}, **settings}

    def report(self, prefix: str) -> dict[str, Any]:
        """`results`, the names of the labels, and the confusion matrix: a row a true label, a column a predicted one."""
        matrix = confusion_matrix(self.labels, self.predictions, labels=range(len(self.label_names))).tolist()
        return {**self.results(prefix), "label_names": self.label_names, f"{prefix}_confusion_matrix": matrix}
