"""scripts/export_onnx.py, and what its folder answers without torch and transformers."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line, make_texts
from saved_models import LABELS, three_label_run
from transformers import AutoTokenizer

from recipe.inference.onnx_export import ODD_TEXTS

EXPORT, PREDICT = ["python", "scripts/export_onnx.py"], ["python", "scripts/predict.py"]
README = (ROOT / "scripts" / "README.md").read_text()
EXPORT_AS_IT_IS, EXPORT_INT8 = (line.split() for line in re.findall("^python scripts/export_onnx.py .*$", README, re.M))
SNIPPET = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
ALONE = '\nimport sys\nassert not {"torch", "transformers", "recipe"} & sys.modules.keys()\n'


def classify(folder, texts=None):
    """The README's snippet as it stands, or with other texts, in a Python without the recipe on its path."""
    code = SNIPPET if texts is None else re.sub(r"texts = \[.*\]\n", lambda _: f"texts = {texts!r}\n", SNIPPET)
    result = subprocess.run([sys.executable, "-c", code + ALONE], cwd=folder, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout.replace("'", '"'))


def predicted(run_here, texts):
    result = run_here([*PREDICT, "--model_dir", three_label_run(), "--text", *texts])
    return [json.loads(line)["label"] for line in result.stdout.splitlines()]


def check_that_transformers_load(run, folder, texts):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    saved, config = (json.loads((path / "config.json").read_text()) for path in (run, folder))
    assert config == saved
    assert config["id2label"] == {"0": "medicine", "1": "sport", "2": "technology"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(texts)["input_ids"] == AutoTokenizer.from_pretrained(run)(texts)["input_ids"]
    assert tokenizer.pad_token_id == 8191


@pytest.fixture
def checkout(tmp_path):
    """A folder where the README's commands run."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    shutil.copytree(three_label_run(), tmp_path / "runs" / "quickstart")
    return tmp_path


def test_snippet_gives_the_labels_of_predict(checkout, tmp_path, run_here):
    result = run_here(EXPORT_AS_IT_IS, cwd=checkout)
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()
    assert printed[0] == "Exporting ..."
    checked = r"Checked on 62 texts, padded left, right and not: logits differ by \d\.\de-0[5-9] at most"
    assert re.fullmatch(checked, printed[1])
    saved = r"Saved to runs/quickstart_onnx: model.onnx, 6.\d MB, the tokenizer, config.json"
    assert re.fullmatch(saved, printed[2])
    assert len(printed) == 3
    # no word of the exporter's
    assert all("Checking" in line for line in result.stderr.split("\n") if line.strip()), result.stderr
    texts = [*make_texts(40, LABELS, seed=9)["text"], *ODD_TEXTS[:4], "naïve 🎉 مرحبا", "word " * 3000]
    assert classify(tmp_path, texts) == predicted(run_here, texts)
    assert classify(tmp_path, ["", ""]) == predicted(run_here, ["", ""])
    assert len(classify(tmp_path)) == 3
    check_that_transformers_load(three_label_run(), tmp_path / "runs" / "quickstart_onnx", texts)


@pytest.mark.slow
def test_int8_prints_its_cost(checkout, tmp_path, run_here):
    result = run_here(EXPORT_INT8, cwd=checkout)
    assert result.returncode == 0, result.stderr
    assert "Test split of the run, 60 texts:" in result.stdout
    sizes = {}
    for name in ("float32", "int8"):
        row = re.search(rf"{name} +(\d\.\d+)  (\d\.\d+) - (\d\.\d+) +(\d+\.\d) MB\n", result.stdout)
        accuracy, low, high, sizes[name] = map(float, row.groups())
        assert low <= accuracy <= high
        assert accuracy > 0.9
    assert sizes["int8"] < 0.3 * sizes["float32"]
    folder = (checkout / "runs" / "quickstart_int8").rename(checkout / "runs" / "quickstart_onnx")  # the snippet's
    assert (folder / "model.onnx").stat().st_size == pytest.approx(sizes["int8"] * 1e6, rel=0.02)
    assert re.search(r"int8 changes the label of \d+ of 60 texts\n", result.stdout)
    assert len(list(folder.iterdir())) == 4
    texts = make_texts(20, LABELS, seed=9)["text"].tolist()
    same = [a == b for a, b in zip(classify(tmp_path, texts), predicted(run_here, texts), strict=True)]
    assert sum(same) >= 19


def test_mistakes_are_one_line(tmp_path, run_here):
    folder, new = three_label_run(), tmp_path / "new"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    alone = shutil.copytree(folder, tmp_path / "alone", ignore=shutil.ignore_patterns("splits"))
    for model, output, words, message in [
        (tmp_path / "nowhere", new, [], "does not exist"),
        (folder, tmp_path / "full", [], "is not empty"),
        (folder, tmp_path / "full" / "a", [], "is not empty"),
        (folder, folder / "onnx", [], "lies in the model's own folder"),
        (folder, new, ["--quantize", "int4"], "invalid choice: 'int4'"),
        (alone, new, ["--quantize", "int8"], "no test texts to measure on"),
        (ROOT / "recipe" / "assets" / "gpt2-nano", new, [], "no classification head"),
    ]:
        assert_one_line(run_here([*EXPORT, "--model_dir", model, "--output_dir", output, *words]), message)
    assert not new.exists()
