"""What the scripts of experiments share: options that they refuse, and files that they keep."""

import json
import shutil

import pytest
from conftest import ROOT, assert_one_line, fields_of, tiny_folder

from recipe.config import parse_arguments
from recipe.experiments.options import REFUSED
from recipe.experiments.runs import load_texts

SCRIPTS = ["cross_validate", "learning_curve", "probe"]


@pytest.fixture
def model(tmp_path):
    """A copy of the tiny model with a named head, whose labels are in an order of its own."""
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    names = ["technology", "sport", "medicine"]
    head = {"architectures": ["GPT2ForSequenceClassification"], "id2label": dict(enumerate(names))}
    (folder / "config.json").write_text(json.dumps(config | head | {"label2id": {x: i for i, x in enumerate(names)}}))
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_refused_options_and_files_that_are_kept(script, tmp_path, texts_file, model, run_here):
    ending = ".csv" if script == "cross_validate" else ".json"
    command = ["python", ROOT / "scripts" / f"{script}.py", *fields_of(model, texts_file, tmp_path)[:4]]
    values = {
        "window": "32",
        "early_stopping_patience": "2",
        "decision_threshold": "tune",
        "resume_from_checkpoint": "here",
    }
    for name in REFUSED:
        result = run_here([*command, "--output_file", tmp_path / f"x{ending}", f"--{name}", values.get(name, "true")])
        assert_one_line(result, f"{name} is for train.py: experiments ")
    misspelled = [*command, "--output_file", tmp_path / f"x{ending}", "--plot_fil", "x"]
    assert_one_line(run_here(misspelled), "unknown field 'plot_fil': did you mean 'plot_file'?")
    before = (model / "config.json").read_bytes()
    option = "--figures_file" if script == "cross_validate" else "--output_file"
    given = ["--output_file", tmp_path / f"x{ending}", option, model / "config.json", "--overwrite_output_file"]
    assert_one_line(run_here([*command, *given]), "config.json: is a file of the model's folder")
    assert (model / "config.json").read_bytes() == before


def test_label_ids_are_those_of_the_models_head(tmp_path, texts_file, model):
    splits = load_texts(parse_arguments(fields_of(model, texts_file, tmp_path)), "train", "validation")
    assert [*splits] == ["train", "validation"]
    assert splits["train"].features["label"].names == ["technology", "sport", "medicine"]
