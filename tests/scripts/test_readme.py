"""Every command of every README, run as it stands; only the size of a training is cut, and the hub's GPT-2 is nano."""

import re
import shlex
import shutil
import subprocess

import pytest
from conftest import NANO, ROOT, make_texts, run, tiny_folder
from transformers import pipeline

READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
READMES += [path for name in ("recipe", "scripts", "accelerate_configs") for path in (ROOT / name).rglob("README.md")]
# Others run these: the tests of the benchmark, the demo, the examples and the export, and that of the launcher's configs, which needs a GPU for this one.
ELSEWHERE = ("benchmark/benchmark.py", "scripts/demo.py", "scripts/examples/", "export_onnx.py", "single_gpu.yaml")
GOES_ON = ("find_label_errors.py",)  # with what the section before has written


def commands_by_section() -> dict[str, list[str]]:
    """Return the commands of each section that has any; those of an earlier section stand there alone."""
    found, known = {}, set(ELSEWHERE)
    for path in READMES:
        for section in re.split("^#+ ", path.read_text(), flags=re.MULTILINE)[1:]:
            name = f"{path.relative_to(ROOT)}: {section.partition(chr(10))[0]}"
            blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
            commands = [line for block in blocks for line in block.splitlines() if line not in known]
            known.update(commands)
            if name.endswith(GOES_ON):
                commands = [*found.popitem()[1], *commands]
            if commands := [line for line in commands if not any(part in line for part in ELSEWHERE)]:
                found[name] = commands
    return found


SECTIONS = commands_by_section()
QUICKSTART = "README.md: Two commands"
CLASSIFY, TEMPLATE = re.findall(r"```python\n(.*?)```", READMES[0].read_text(), re.DOTALL)
TWO = ["Are you free tonight?", "You have won!"]
FEW = ["--max_steps", "3", "--disable_tqdm", "true"]
SMALL = [*FEW, "--max_train_samples", "64", "--max_eval_samples", "20", "--max_predict_samples", "20"]
SMALL += ["--baselines", "false", "--plots", "false", "--overwrite_output_dir"]


@pytest.fixture
def checkout(tmp_path, finished):
    """A folder with all that the commands name: our folders, the user's own files, and two runs of the tiny model."""
    for name in ("recipe", "scripts", "accelerate_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    frame = make_texts(120, ["sport", "medicine"])
    frame.to_csv(tmp_path / "my.csv", index=False)
    frame[["text"]].to_csv(tmp_path / "messages.csv", index=False)
    make_texts(60, ["sport", "medicine", "technology"], seed=1).to_csv(tmp_path / "new.csv", index=False)
    threads = make_texts(200, ["sport", "medicine"], seed=2)
    threads = threads.assign(author=[f"author {i % 17}" for i in range(200)], answer="so it is")
    (tmp_path / "more").mkdir()
    threads[:80].to_csv(tmp_path / "more" / "a.csv.gz", index=False)
    threads[80:160].to_csv(tmp_path / "more" / "b.csv.gz", index=False)
    threads[160:].to_parquet(tmp_path / "even_more.parquet", index=False)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "124M").symlink_to(ROOT / "tests" / "model" / "data" / "openai_gpt2")
    (tmp_path / "data").mkdir()
    frame[["label", "text"]].to_csv(tmp_path / "data" / "sms_spam.tsv", sep="\t", header=False, index=False)
    for name in ("quickstart", "mine"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    return tmp_path


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
        words += [*FEW, "--max_train_samples", "64", "--rows", "last token, last block"]
    if "scripts/publish.py" in words:  # test_publish.py has a Hub to send to
        words += ["--dry_run"]
    if words[1].endswith(("probe.py", "learning_curve.py")):
        words += ["--model_name_or_path", tiny, *FEW]
    if "scripts/learning_curve.py" in words:
        words += ["--seeds", "1", "--fractions", "0.5", "1"]
    if "scripts/sweep.py" in words:
        words += [*SMALL, "--model_name_or_path", tiny, "--seeds", "1"]
        grid = ["--learning_rates", "1e-3", "--depths", "0", "1", "--dropouts", "0"]
        words += grid if "--depths" in words else ["--trials", "2"]
    return words


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != QUICKSTART])
def test_the_commands_of_a_section_run_in_order(checkout, run_here, section):
    """In this process, which spares each the seconds of its imports."""
    if section == "scripts/README.md: predict.py":  # reads what evaluate_model.py has calibrated
        shutil.copytree(checkout / "runs" / "quickstart", checkout / "runs" / "calibrated")
    for command in SECTIONS[section]:
        words = adapted(command)
        assert words[0] == "python", command
        result = run_here(words, cwd=checkout)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
    if "labels.csv" in command:
        assert (checkout / "labels.csv").read_text().count("\n") == 121


def test_the_quickstarts_commands_run_as_typed(checkout):
    for command in SECTIONS[QUICKSTART]:
        result = run("bash", "-c", command, cwd=checkout)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
        assert result.stdout.count('"label"') == 2


def test_no_command_is_missed():
    commands = [line for lines in SECTIONS.values() for line in lines]
    assert len(commands) == len(set(commands)) >= 35
    assert len([line for line in commands if line.startswith(("python scripts/", "accelerate launch "))]) == len(
        commands
    )


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
