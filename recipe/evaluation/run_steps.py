"""Steps of scripts/train.py that keep a run's books: validation's figures, and the files of the saved run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from transformers.trainer_utils import TrainOutput

from recipe.atomic import write_json
from recipe.data.trained_on import save_trained_on
from recipe.evaluation.calibration import fit_to_validation
from recipe.evaluation.report import validation_results
from recipe.model.freezing import FreezeReport

if TYPE_CHECKING:
    from recipe.training.run_folder import RunFolder
    from recipe.training.trainer import RecipeTrainer


def validate(
    trainer: "RecipeTrainer", texts: datasets.Dataset, rows: datasets.Dataset, coverage: Any
) -> tuple[dict[str, Any], float | None]:
    """Return the best model's figures on the validation texts, and the temperature that its head was divided by, if any.

    Where asked for, validation also decides a temperature and a threshold, which become part of the model.

    Args:
        rows: of the texts, tokenized: a row a text, or (with `text_index`) a window.
        coverage: how much of the texts the rows hold.
    """
    args, labels = trainer.args, texts["label"][:]
    logits = trainer.predict(rows).predictions
    index = np.asarray(rows["text_index"][:]) if "text_index" in rows.column_names else None
    model = trainer.unwrapped
    temperature = fit_to_validation(model, logits, labels, index, args.calibrate, args.decision_threshold)
    return validation_results(model, logits, labels, index, coverage, temperature), temperature


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
