"""Every command of the README, run as it stands; only the size of a training is cut, and the hub's GPT-2 is nano."""

import re
import shlex
import shutil
import subprocess

import pytest
from conftest import NANO, ROOT, make_texts, run
from transformers import pipeline

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
(PYTHON,) = re.findall(r"```python\n(.*?)```", README, re.S)
SMALL = [
    "--num_train_epochs",
    "1",
    "--max_train_samples",
    "64",
    "--max_eval_samples",
    "20",
    "--max_predict_samples",
    "20",
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, trained):
    """A copy of what the commands name, with the user's own files beside it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipe", "scripts", "accelerate_configs"):
        shutil.copytree(ROOT / name, folder / name)
    frame = make_texts(200, ["sport", "medicine"])
    frame.to_csv(folder / "my.csv", index=False)
    frame[["text"]].to_csv(folder / "messages.csv", index=False)
    make_texts(60, ["sport", "medicine"], seed=1).to_csv(folder / "new.csv", index=False)
    threads = make_texts(200, ["sport", "medicine"], seed=2)
    threads = threads.assign(author=[f"author {i % 17}" for i in range(200)], answer="so it is")
    (folder / "more").mkdir()
    threads[:80].to_csv(folder / "more" / "a.csv.gz", index=False)
    threads[80:160].to_csv(folder / "more" / "b.csv.gz", index=False)
    threads[160:].to_parquet(folder / "even_more.parquet", index=False)
    (folder / "data").mkdir()
    frame[["label", "text"]].to_csv(folder / "data" / "sms_spam.tsv", sep="\t", header=False, index=False)
    shutil.copytree(trained, folder / "runs" / "quickstart")
    return folder


def here(words):
    return [word.replace("openai-community/gpt2", str(NANO)) for word in words]


def test_there_are_commands_and_they_run_in_order(checkout, run_here):
    """Those of Python in this process, which spares each the seconds of its imports; a launcher's through the shell."""
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        words = here(shlex.split(command))
        if any(word.endswith("train.py") for word in words):
            words += SMALL
        if "recipe/configs/sms_spam.yaml" in words:  # its data and model are the hub's
            words += ["--train_file", "data/sms_spam.tsv", "--model_name_or_path", str(NANO), "--overwrite_output_dir"]
        if "accelerate_configs/single_gpu.yaml" in words or "scripts/benchmark/benchmark.py" in words:
            continue  # see tests/test_accelerate_configs.py and tests/test_benchmark.py
        result = run_here(words, cwd=checkout) if words[0] == "python" else run(*words, cwd=checkout)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
    assert (checkout / "labels.csv").read_text().count("\n") == 201


def test_the_template_runs(checkout):
    code = PYTHON.replace("openai-community/gpt2", str(NANO))
    code = code.replace('TrainingArguments("runs/template")', 'TrainingArguments("runs/template", max_steps=3)')
    result = run("python", "-c", code, cwd=checkout)
    assert result.returncode == 0, result.stderr[-2000:]
    classify = pipeline("text-classification", str(checkout / "runs" / "template" / "final"))
    assert classify("the goal of the match")[0]["label"] in {"sport", "medicine"}


def test_make_targets_exist():
    for target in set(re.findall(r"make (quickstart|test|setup|lint)\b", README)):
        assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True).returncode == 0


def test_the_quickstart_target_is_what_the_tests_ran():
    lines = subprocess.run(["make", "--dry-run", "quickstart"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "accelerate launch --config_file accelerate_configs/cpu.yaml" in lines
    assert "recipe/configs/quickstart.yaml" in lines
