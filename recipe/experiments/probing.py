"""Linear probes (Alain & Bengio, 2016): how well a linear classifier reads the label from the state after each block.

The state at depth d is the last token's, as block d leaves it (depth 0: as the embeddings do): the residual stream, on which
the final norm, `ln_f`, has not been applied at any depth. transformers' `output_hidden_states` gives the same numbers,
except for its last entry, which is after `ln_f`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import GPT2Config

from recipe.data.tokenization import batch_tokens, batches_by_length
from recipe.errors import RecipeError
from recipe.evaluation.plots import BLUE, GREY, new_figure, write_figure
from recipe.evaluation.report import TITLES
from recipe.model.classifier import GPT2LastTokenClassifier

MAX_GB = 2.0  # of states in memory: 50,000 texts at GPT-2 small's shape
STEPS = 1000  # of lbfgs at most; standardized features need far fewer


def check_memory(config: GPT2Config, texts: int) -> None:
    """Raise RecipeError, before any work, for more texts than the memory is meant to hold the states of."""
    size = (config.n_layer + 1) * config.n_embd * 4
    most = int(MAX_GB * 1e9 / size)
    if texts > most:
        problem = f"the states of {texts:,} texts take more than {MAX_GB:g} GB of memory"
        raise RecipeError(f"{problem}: pass --max_train_samples (and --max_eval_samples), together at most {most:,}")


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


def probe_depths(
    train: np.ndarray, labels: np.ndarray, validation: np.ndarray, class_weight: str = "none", progress: bool = False
) -> list[np.ndarray]:
    """Fit a logistic regression to the training states of each depth, standardized, and return its label ids of validation.

    Args:
        train, validation: float32 [n_layer + 1, N, n_embd].
        labels: int [N], of the training texts.
    """
    weight = None if class_weight == "none" else class_weight
    predicted = []
    for depth in tqdm(range(len(train)), desc="Fitting probes", unit=" depths", disable=not progress):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS, class_weight=weight))
        predicted.append(probe.fit(train[depth], labels).predict(validation[depth]))
    return predicted


def advise(scores: Sequence[Mapping[str, float]], texts: int) -> dict[str, Any]:
    """Say where to start, by the scores (label_metrics) of depth 0 to n_layer on so many validation texts.

    By the one standard error rule (Breiman et al., 1984): of the depths as good as the best but for its noise, the shallowest.
    The standard error is half of Wilson's interval over 1.96: the usual one, but not 0 where every text is right.

    Returns:
        `best_depth`, its `standard_error`, `shallowest_depth` within it; `at_most` so many blocks, those above that depth, have
        reason to train; `begin_with` one where the last block's state is as good, else with all of those; and the `advice`.
    """
    accuracies = np.array([figures["accuracy"] for figures in scores])
    best, last = int(accuracies.argmax()), len(scores) - 1
    error = (scores[best]["accuracy_high"] - scores[best]["accuracy_low"]) / 2 / 1.96
    within = accuracies >= accuracies[best] - error
    depth = int(within.argmax())
    blocks = max(last - depth, 1)
    begin = 1 if within[last] else blocks
    names = ["the embeddings", *(f"block {block}" for block in range(1, len(scores)))]
    advice = (
        f"The shallowest depth within one standard error ({error:.3f}, of {texts:,} texts) of the best"
        f" ({accuracies[best]:.3f}, {names[best]}): {names[depth]} ({accuracies[depth]:.3f}). So up to"
        f" --trainable last_blocks:{blocks} may help; the last block's {accuracies[last]:.3f} is"
        f" {'within it too' if within[last] else 'not'}, so begin with last_blocks:{begin}, and check by training"
        " whether another number is better: a probe of frozen states does not show what training makes of them."
    )
    found = {"best_depth": best, "standard_error": error, "shallowest_depth": depth}
    return {**found, "at_most": f"last_blocks:{blocks}", "begin_with": f"last_blocks:{begin}", "advice": advice}


def probe_table(scores: Sequence[Mapping[str, float]], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table: a row a depth, and one a baseline."""
    names = ["embeddings", *(f"block {depth} (h.{depth - 1})" for depth in range(1, len(scores)))]
    table = pd.DataFrame([*scores, *baselines.values()], [*names, *(TITLES[name] for name in baselines)])
    titles = {"accuracy": "accuracy", "accuracy_low": "95 % from", "accuracy_high": "to"}
    return table[[*titles]].rename(columns=titles).to_string(float_format="{:.3f}".format)


def draw_probes(
    path: Path, scores: Sequence[Mapping[str, float]], tfidf: Mapping[str, float] | None, advice: Mapping[str, Any]
) -> None:
    """Draw accuracy by depth with its intervals, the noise of the best depth, and TF-IDF's accuracy beside them."""
    figure = new_figure(6.5, 4)
    axes, depths = figure.subplots(), np.arange(len(scores))
    table = pd.DataFrame(scores)
    accuracy, low, high = table["accuracy"], table["accuracy_low"], table["accuracy_high"]
    top = accuracy[advice["best_depth"]]
    axes.axhspan(top - advice["standard_error"], top, color=BLUE, alpha=0.12, label="one standard error under the best")
    if tfidf:
        axes.axhline(tfidf["accuracy"], color=GREY, label=TITLES["tfidf"])
        axes.axhspan(tfidf["accuracy_low"], tfidf["accuracy_high"], color=GREY, alpha=0.12)
    axes.errorbar(depths, accuracy, [accuracy - low, high - accuracy], fmt="o-", color=BLUE, capsize=3, label="probe")
    shallowest = advice["shallowest_depth"]
    axes.axvline(shallowest, color="black", linewidth=0.8, linestyle=":", label="shallowest within it")
    axes.set_xticks(depths, labels=["emb.", *map(str, depths[1:])])
    axes.set(xlabel="blocks before the probe", ylabel="accuracy on validation", title="Linear probes, 95 % intervals")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    write_figure(figure, path)
