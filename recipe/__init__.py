"""A recipe for turning GPT-2 into a text classifier: a frozen trunk, a trainable tail, a stock checkpoint.

README.md lists the packages; scripts/train.py puts them together.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and their modules, imported when first used: `import recipe` costs nothing.
MODULES = {
    "DataArguments": "arguments",
    "load_splits": "data.dataset",
    "load_tokenizer": "data.tokenization",
    "tokenize": "data.tokenization",
    "GPT2LastTokenClassifier": "model.classifier",
    "freeze_except": "model.freezing",
    "last_blocks": "model.freezing",
    "to_stock": "model.export",
    "RecipeTrainer": "training.trainer",
    "compute_metrics": "evaluation.metrics",
    "evaluate_saved": "evaluation.report",
    "TextClassifier": "inference.text_classifier",
    "RecipeError": "errors",
    # What scripts/train.py calls beside them.
    "FeatureCollator": "training.features",
    "RunFolder": "training.run_folder",
    "TextSplits": "data.dataset",
    "cache_features": "training.features",
    "callbacks_for": "training.callbacks",
    "check_login": "hub.publish",
    "check_repo_id": "hub.publish",
    "choose_windows": "data.windows",
    "head_labels": "model.loading",
    "keep_columns": "data.run_config",
    "load_config": "model.loading",
    "freeze": "training.steps",
    "load_model": "training.steps",
    "make_trainer": "training.steps",
    "once_a_machine": "distributed",
    "publish": "hub.publish",
    "remember_windows": "data.windows",
    "save_run_figures": "evaluation.plots",
    "summary_table": "data.dataset",
    "tokenize_texts": "data.windows",
    "warn_about_trained_texts": "data.trained_on",
    "warn_unless_stock": "model.export",
    "write_model_card": "hub.model_card",
}
__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"recipe.{MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
