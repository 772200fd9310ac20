"""Every command of every README, run as it stands; only the size of a training is cut, and the hub's GPT-2 is nano."""

import re
import shlex
import shutil
import subprocess

import pytest
from conftest import NANO, ROOT, make_texts, tiny_folder
from transformers import pipeline

READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
READMES += [path for name in ("recipe", "scripts", "accelerate_configs") for path in (ROOT / name).rglob("README.md")]
COMMANDS = list(
    dict.fromkeys(
        line
        for path in READMES
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
        for line in block.splitlines()
    )
)
CLASSIFY, TEMPLATE = re.findall(r"```python\n(.*?)```", READMES[0].read_text(), re.DOTALL)
TWO = ["Are you free tonight?", "You have won!"]
FEW = ["--max_steps", "3", "--disable_tqdm", "true"]
SMALL = [*FEW, "--max_train_samples", "64", "--max_eval_samples", "20", "--max_predict_samples", "20"]
SMALL += ["--baselines", "false", "--overwrite_output_dir"]
# Others run these: the tests of the benchmark and the demo, and that of the launcher's configs, which needs a GPU for this one.
ELSEWHERE = ("benchmark/benchmark.py", "scripts/demo.py", "single_gpu.yaml")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, trained):
    """A copy of the folders that the commands name, with the user's own files beside them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipe", "scripts", "accelerate_configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
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


def adapted(command: str) -> list[str]:
    """The command's words, with a small training of a tiny model in place of a long one of GPT-2.

    A launch is the script that it launches: `trained` launches by cpu.yaml, test_distributed.py by multi_cpu.yaml.
    """
    tiny = str(NANO if "transformer.h.11" in command else tiny_folder())
    command = re.sub(r"^accelerate launch --config_file accelerate_configs/(multi_)?cpu.yaml", "python", command)
    words = [re.sub("openai-community/gpt2|recipe/assets/gpt2-nano", tiny, word) for word in shlex.split(command)]
    if any(word.endswith(("/train.py", "/cross_validate.py")) for word in words):
        config = next((word for word in words if word.startswith("recipe/configs/")), "")
        if config:  # the hub's or a longer file's data
            words += ["--train_file", "my.csv" if "ag_news" in config else "data/sms_spam.tsv"]
            words += ["--model_name_or_path", tiny]
        words += SMALL
    if "scripts/experiments.py" in words:
        words += [*FEW, "--max_train_samples", "64", "--baselines", "false", "--plots", "false"]
    if "scripts/publish.py" in words:  # test_publish.py has a Hub to send to
        words += ["--dry_run"]
    if any(name in words[1] for name in ("probe.py", "learning_curve.py")):
        words += ["--model_name_or_path", tiny, *FEW, *(["--seeds", "1"] if "--seeds" in words else [])]
    if any("/examples/" in word and "peers" not in word for word in words):
        words += FEW
    if "scripts/sweep.py" in words:
        words += [*SMALL, "--model_name_or_path", tiny, "--trials", "2", "--seeds", "1"]
    return words


def test_commands_run_in_order(checkout, run_here):
    """In this process, which spares each the seconds of its imports."""
    assert len(COMMANDS) >= 20
    for command in COMMANDS:
        if any(name in command for name in ELSEWHERE):
            continue
        words = adapted(command)
        assert words[0] == "python", command
        result = run_here(words, cwd=checkout)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
    assert (checkout / "labels.csv").read_text().count("\n") == 201


def test_template_runs(checkout, monkeypatch):
    code = TEMPLATE.replace("openai-community/gpt2", str(tiny_folder()))
    code = code.replace('"runs/template",', '"runs/template", max_steps=3,')
    assert "max_steps" in code
    monkeypatch.chdir(checkout)
    exec(compile(code, "README.md", "exec"), {"__name__": "template"})
    classify = pipeline("text-classification", "runs/template")
    assert classify("the goal of the match")[0]["label"] in {"sport", "medicine"}


def test_a_saved_model_answers_in_python(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    found = {}
    exec(compile(CLASSIFY.replace("runs/mine", "runs/quickstart"), "README.md", "exec"), found)
    labels, probabilities = found["labels"], found["probabilities"]
    assert [answer["label"] for answer in pipeline("text-classification", "runs/quickstart")(TWO)] == labels
    assert probabilities.shape == (2, 3)


def test_make_targets_exist():
    words = " ".join(path.read_text() for path in READMES)
    targets = set(re.findall(r"make (quickstart|test-fast|test-slow|test|setup|lint)\b", words))
    assert {"quickstart", "test"} <= targets
    for target in targets:
        assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True).returncode == 0


def test_quickstart_target_is_the_documented_command():
    lines = subprocess.run(["make", "--dry-run", "quickstart"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "accelerate launch --config_file accelerate_configs/cpu.yaml" in lines
    assert "recipe/configs/quickstart.yaml" in lines


def test_links_lead_somewhere():
    for path in READMES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_readme_is_short():
    assert len(READMES[0].read_text().splitlines()) <= 200
