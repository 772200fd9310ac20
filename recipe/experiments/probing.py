"""Linear probes (Alain & Bengio, 2016): how well a linear classifier reads the label from the state after each block.

The state at depth d is the last token's, as block d leaves it (depth 0: as the embeddings do): the residual stream, on which
the final norm, `ln_f`, has not been applied at any depth. transformers' `output_hidden_states` gives the same numbers,
except for its last entry, which is after `ln_f`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import GPT2Config

from recipe.data.tokenization import batch_tokens, batches_by_length
from recipe.errors import RecipeError
from recipe.evaluation.intervals import wilson_interval
from recipe.evaluation.plots import BLUE, GREY
from recipe.evaluation.report import TITLES
from recipe.model.classifier import GPT2LastTokenClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_GB = 2.0  # of states in memory: 50,000 texts at GPT-2 small's shape
STEPS = 1000  # of lbfgs at most; standardized features need far fewer


def check_memory(config: GPT2Config, texts: int, max_gb: float = MAX_GB) -> None:
    """Raise RecipeError, before any work, for more texts than the memory is meant to hold the states of."""
    size = (config.n_layer + 1) * config.n_embd * 4
    if texts * size > max_gb * 1e9:
        fit = int(max_gb * 1e9 / size)
        raise RecipeError(
            f"the states of {texts:,} texts take {texts * size / 1e9:.1f} GB, and {max_gb:g} GB are allowed, {fit:,} texts:"
            " pass --max_train_samples (and --max_eval_samples), their sum at most that"
        )


@torch.inference_mode()
def states_by_depth(model: GPT2LastTokenClassifier, sequences: Sequence[Sequence[int]], progress: bool) -> np.ndarray:
    """Run the model once over every text, without ln_f and head.

    Args:
        sequences: token ids of each text, at least one and at most n_positions.

    Returns:
        The state of each text's last token at every depth: float32 [n_layer + 1, N, n_embd], in the order of the texts.
    """
    model, device = model.eval(), model.device
    states = np.empty((model.config.n_layer + 1, len(sequences), model.config.n_embd), dtype=np.float32)
    with tqdm(total=len(sequences), desc="Running the model", unit=" texts", disable=not progress) as bar:
        for indices in batches_by_length([len(ids) for ids in sequences], batch_tokens(device)):
            batch = [torch.as_tensor(sequences[i], dtype=torch.long) for i in indices]
            last = torch.arange(len(batch)), torch.tensor([len(ids) - 1 for ids in batch])
            hidden = model.trunk(torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(device), depth=0)
            states[0, indices] = hidden[last].float().cpu()
            for depth, block in enumerate(model.transformer.h, start=1):
                hidden = block(hidden)
                states[depth, indices] = hidden[last].float().cpu()
            bar.update(len(batch))
    return states


def linear_probe(class_weight: str = "none") -> Pipeline:
    """Return the probe: features standardized by the training texts, and scikit-learn's logistic regression."""
    weight = None if class_weight == "none" else class_weight
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS, class_weight=weight))


def probe_depths(
    train: np.ndarray, labels: np.ndarray, validation: np.ndarray, class_weight: str = "none", progress: bool = False
) -> list[np.ndarray]:
    """Fit a probe to the training states of each depth, and return its label ids of the validation texts.

    Args:
        train, validation: float32 [n_layer + 1, N, n_embd].
        labels: int [N], of the training texts.
    """
    depths = tqdm(range(len(train)), desc="Fitting probes", unit=" depths", disable=not progress)
    return [linear_probe(class_weight).fit(train[depth], labels).predict(validation[depth]) for depth in depths]


def score(predictions: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return accuracy and its 95 % Wilson interval, of label ids int [N]."""
    right = int((predictions == labels).sum())
    low, high = wilson_interval(right, len(labels))
    return {"accuracy": right / len(labels), "accuracy_low": low, "accuracy_high": high}


@dataclass(frozen=True)
class Advice:
    """The one standard error rule (Breiman et al., 1984): of the depths as good as the best but for its noise, the shallowest."""

    best: int  # the shallowest depth of the highest accuracy
    standard_error: float
    depth: int
    blocks: int  # above the depth, and at least one: how many training has reason to reach
    begin: int  # how many to train first: one where the last block's state is as good, else all of those
    sentence: str


def advise(scores: Sequence[dict[str, float]], texts: int) -> Advice:
    """Say where to start, from the scores of depth 0 to n_layer on so many validation texts.

    The standard error is half of Wilson's interval over 1.96: the usual one, but not 0 where every text is right.
    """
    accuracies = np.array([figures["accuracy"] for figures in scores])
    best, last = int(accuracies.argmax()), len(scores) - 1
    error = (scores[best]["accuracy_high"] - scores[best]["accuracy_low"]) / 2 / 1.96
    within = accuracies >= accuracies[best] - error
    depth = int(within.argmax())
    blocks = max(last - depth, 1)
    begin = 1 if within[last] else blocks
    last_too = f"the last block's {accuracies[last]:.3f} is {'within it too' if within[last] else 'not'}"
    sentence = (
        f"The shallowest depth within one standard error ({error:.3f}, of {texts:,} texts) of the best"
        f" ({accuracies[best]:.3f}, {name_depth(best)}): {name_depth(depth)} ({accuracies[depth]:.3f}). So up to"
        f" --trainable last_blocks:{blocks} may help; {last_too}, so begin with last_blocks:{begin}, and check by training"
        " whether another number is better: a probe of frozen states does not show what training makes of them."
    )
    return Advice(best, error, depth, blocks, begin, sentence)


def name_depth(depth: int) -> str:
    """Return the words for a depth."""
    return f"block {depth}" if depth else "the embeddings"


def probe_table(scores: Sequence[dict[str, float]], baselines: dict[str, dict[str, float]]) -> str:
    """Return the table: a row a depth, and one a baseline."""
    names = ["embeddings", *(f"block {depth} (h.{depth - 1})" for depth in range(1, len(scores)))]
    rows = dict(zip(names, scores, strict=True)) | baselines
    table = pd.DataFrame(
        {
            "accuracy": [f"{row['accuracy']:.3f}" for row in rows.values()],
            "95 % interval": [f"{row['accuracy_low']:.3f} - {row['accuracy_high']:.3f}" for row in rows.values()],
        },
        index=list(rows),
    )
    return table.to_string()


def draw_probes(scores: Sequence[dict[str, float]], tfidf: dict[str, float] | None, advice: Advice) -> "Figure":
    """Draw accuracy by depth with its intervals, the noise of the best depth, and TF-IDF's accuracy beside them."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    figure = Figure(figsize=(6.5, 4), dpi=120, layout="constrained")
    axes, depths = figure.subplots(), np.arange(len(scores))
    accuracy, low, high = (
        np.array([row[name] for row in scores]) for name in ("accuracy", "accuracy_low", "accuracy_high")
    )
    top = accuracy[advice.best]
    axes.axhspan(top - advice.standard_error, top, color=BLUE, alpha=0.12, label="one standard error under the best")
    if tfidf:
        axes.axhline(tfidf["accuracy"], color=GREY, label=TITLES["tfidf"])
        axes.axhspan(tfidf["accuracy_low"], tfidf["accuracy_high"], color=GREY, alpha=0.12)
    axes.errorbar(depths, accuracy, [accuracy - low, high - accuracy], fmt="o-", color=BLUE, capsize=3, label="probe")
    axes.axvline(advice.depth, color="black", linewidth=0.8, linestyle=":", label="shallowest within it")
    axes.set_xticks(depths, labels=["emb.", *map(str, depths[1:])])
    axes.set(xlabel="blocks before the probe", ylabel="accuracy on validation", title="Linear probes, 95 % intervals")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="best")
    return figure
