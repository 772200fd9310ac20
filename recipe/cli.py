"""The command `gpt2-classifier`: the scripts by name, wherever the package is installed."""

import sys

from recipe import __version__
from recipe.errors import RecipeError, run_script
from recipe.shipped import COMMAND, find_script

COMMANDS = {
    "train": ("train", "fine-tune GPT-2 on texts and labels"),
    "evaluate": ("evaluate_model", "measure a saved model, calibrate it, draw its figures"),
    "experiments": ("experiments", "compare changes of a recipe, row by row, over seeds"),
    "cross-validate": ("cross_validate", "measure a recipe on all texts, by folds"),
    "find-label-errors": ("find_label_errors", "find texts that are probably mislabelled"),
    "predict": ("predict", "classify texts"),
    "demo": ("demo", "try a saved model out in the browser"),
    "sweep": ("sweep", "search for learning rate, depth and dropout"),
    "publish": ("publish", "upload a run to the Hugging Face Hub"),
    "export-onnx": ("export_onnx", "write a model for onnxruntime"),
    "probe": ("probe", "find the depth at which the label can be read"),
    "learning-curve": ("learning_curve", "measure how accuracy grows with the texts"),
    "inspect": ("inspect_model", "print a model, what trains, and the tokens of a text"),
    "convert-weights": ("convert_weights", "convert weights of OpenAI, PyTorch, nanoGPT or the book"),
    "feature-cache": ("feature_cache", "list and clear the cached features"),
    "fetch-sample": ("fetch_sample", "fetch the SMS sample"),
}
USAGE = "\n".join(
    [
        "usage: gpt2-classifier COMMAND [--help] [options]",
        "       gpt2-classifier --version",
        "",
        *(f"    {name:<18}{about}" for name, (_, about) in COMMANDS.items()),
    ]
)


def run_command() -> None:
    """Run the script of the first word, with the others as its command line."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        return print(USAGE)
    if name == "--version":
        return print(__version__)
    name = name.replace("_", "-").removesuffix("-model")  # the scripts' own names
    if name not in COMMANDS:
        raise RecipeError(f"{name!r} is no command: take one of {', '.join(COMMANDS)}")
    sys.argv = [f"{COMMAND} {name}", *words]
    script = find_script(COMMANDS[name][0])
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), {"__name__": "__main__", "__file__": str(script)})


def main() -> None:
    run_script(run_command)
