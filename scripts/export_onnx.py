"""Export a saved model to ONNX: a folder that onnxruntime and tokenizers classify with, without torch or transformers.

    python scripts/export_onnx.py --model_dir runs/quickstart --output_dir runs/quickstart_onnx

In 8 bits: a quarter of the size and faster, at a cost that is measured on the run's own test split:
    python scripts/export_onnx.py --model_dir runs/quickstart --output_dir runs/quickstart_int8 --quantize int8

Needs the extra `onnx`: pip install -e '.[onnx]'.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.errors import OneLineParser, RecipeError, printable, run_script
from recipe.inference.options import check_output_dir

if TYPE_CHECKING:
    from datasets import Dataset

    from recipe.inference.text_classifier import TextClassifier


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument(
        "--model_dir", required=True, help="A folder that a run saved, or any GPT2ForSequenceClassification."
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="A new or empty folder.")
    parser.add_argument("--quantize", choices=("int8",), help="Round the weights to 8 bits.")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_output_dir(args.output_dir, args.model_dir)
    # Imported here, since --help and wrong options need none of it.
    from recipe.data.dataset import SPLITS_FOLDER
    from recipe.inference.onnx_export import MODEL_FILE, export_folder, require_onnx
    from recipe.inference.text_classifier import TextClassifier
    from recipe.model.loading import load_config

    require_onnx()
    load_config(args.model_dir)  # which refuses a folder that is not there
    test = None
    if args.quantize or (Path(args.model_dir) / SPLITS_FOLDER).is_dir():
        test = load_test(args.model_dir)
    classifier = TextClassifier.from_pretrained(args.model_dir, "cpu")
    if args.quantize and test.features["label"].names != classifier.label_names:
        raise RecipeError(f"{args.model_dir}/{SPLITS_FOLDER}: has other labels than the model: leave --quantize out")

    def measure(float_path: Path, int8_path: Path) -> None:
        print_cost(classifier, test, float_path, int8_path)

    texts = None if test is None else test["text"][:]
    export_folder(args.model_dir, classifier, texts, args.output_dir, bool(args.quantize), measure)
    files = [path for path in sorted(args.output_dir.iterdir()) if path.name.startswith(MODEL_FILE)]
    sizes = " and ".join(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB," for path in files)
    print(f"Saved to {printable(str(args.output_dir))}: {sizes} the tokenizer, config.json")


def load_test(model_dir: str) -> "Dataset":
    """Return the run's own test split, to check the export on and to measure what quantizing costs."""
    from recipe.data.dataset import load_saved_splits

    try:
        return load_saved_splits(model_dir)["test"]
    except RecipeError as error:
        raise RecipeError(f"no test texts to measure on: {error}") from error


def print_cost(classifier: "TextClassifier", test: "Dataset", float_path: Path, int8_path: Path) -> None:
    """Classify the test split with both models, and print accuracies, labels that changed, and sizes."""
    import numpy as np

    from recipe.evaluation.intervals import wilson_interval
    from recipe.inference.onnx_export import OnnxModel
    from recipe.inference.text_classifier import TextClassifier

    true = np.array(classifier.label_names)[test["label"][:]]
    predicted = {}
    print(f"Test split of the run, {len(test)} texts:\n         accuracy  95 % interval        size")
    for name, path in (("float32", float_path), ("int8", int8_path)):
        exported = TextClassifier(OnnxModel(path, classifier.model.config), classifier.tokenizer, "cpu")
        predicted[name] = np.array(exported.predict(test["text"][:], progress=True)[0])
        right = int((predicted[name] == true).sum())
        low, high = wilson_interval(right, len(test))
        size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e6
        print(f"{name:<7}  {right / len(test):>8.3f}  {low:.3f} - {high:.3f}  {size:>8.1f} MB")
    print(f"int8 changes the label of {(predicted['float32'] != predicted['int8']).sum()} of {len(test)} texts")


if __name__ == "__main__":
    run_script(main)
