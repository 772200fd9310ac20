"""Steps of scripts/train.py that keep a run's books: validation's figures, and the files of the saved run."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from scipy.special import softmax
from transformers.trainer_utils import TrainOutput

from recipe.atomic import write_json
from recipe.data.trained_on import save_trained_on
from recipe.evaluation.calibration import TUNE, calibrate_head, tune_threshold
from recipe.evaluation.report import Measurement
from recipe.inference.text_classifier import set_threshold, text_logits
from recipe.model.freezing import FreezeReport

if TYPE_CHECKING:
    from recipe.training.run_folder import RunFolder
    from recipe.training.trainer import RecipeTrainer

logger = logging.getLogger(__name__)


def validate(
    trainer: "RecipeTrainer", texts: datasets.Dataset, rows: datasets.Dataset, coverage: Any
) -> tuple[dict[str, Any], float | None]:
    """Return the best model's figures on the validation texts, and the temperature that its head was divided by, if any.

    Where asked for, validation also decides a temperature and a threshold, which become part of the model.

    Every process of a run calls this.

    Args:
        rows: of the texts, tokenized: a row a text, or (with `text_index`) a window.
        coverage: how much of the texts the rows hold.
    """
    args, model, labels = trainer.args, trainer.unwrapped, np.array(texts["label"])
    logits = trainer.predict(rows).predictions
    index = np.array(rows["text_index"]) if "text_index" in rows.column_names else None
    if (old := getattr(model.config, "decision_threshold", None)) is not None:
        logger.warning("the decision threshold of %.4g was tuned to the model before this training: not kept", old)
    model.config.decision_threshold = None
    temperature = calibrate_head(model, logits, labels, index) if args.calibrate else None
    logits = logits / (temperature or 1)
    threshold = args.decision_threshold
    if threshold == TUNE:
        threshold = tune_threshold(softmax(text_logits(logits, index), axis=-1)[:, 1], labels)
    set_threshold(model.config, threshold)
    names, threshold = list(model.config.id2label.values()), model.config.decision_threshold
    if threshold is not None:
        logger.info(
            "Decision threshold: the label %r is predicted where its probability is at least %.4g;"
            " predict.py and evaluate_model.py follow it, pipeline() does not know it and takes 0.5",
            names[1], threshold,
        )  # fmt: skip
    measured = Measurement(names, labels, logits, index, coverage, threshold, temperature)
    return measured.results("eval"), temperature


def save_run(
    run: "RunFolder",
    trainer: "RecipeTrainer",
    splits: datasets.DatasetDict,
    base_model: str,
    trained: TrainOutput,
    report: FreezeReport,
    coverage: Any,
    validation: dict[str, Any],
) -> None:
    """Save the model, the splits, the training texts' hashes, and the figures of training and validation."""
    trainer.save_model()
    run.save(splits)
    counts = {"trainable_parameters": report.trainable, "total_parameters": report.total}
    counts |= {f"train_{name}": value for name, value in coverage.figures().items()}
    counts |= {"train_resumed": True} if run.checkpoint else {}  # then train_runtime is of the rest alone
    trainer.save_metrics("train", {**trained.metrics, "train_samples": len(splits["train"]), **counts}, combined=False)
    if trainer.is_world_process_zero():
        save_trained_on(run.path, splits["train"]["text"], base_model)
        write_json(Path(run.path, "eval_results.json"), validation)
    trainer.save_state()
