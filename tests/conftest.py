"""What the tests share: the shipped model, small random ones, small data, and scripts run through the shell."""

import atexit
import functools
import importlib.util
import json
import logging
import os
import random
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may ask the hub
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="recipe-tests-")  # no cache of the user's is read or filled
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for each of pytest's workers

import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import GPT2Config

from recipe import GPT2LastTokenClassifier

ROOT = Path(__file__).parent.parent
NANO = ROOT / "recipe" / "assets" / "gpt2-nano"
SHARED = ROOT.parent / "shared"
SMS = SHARED / "data" / "SMSSpamCollection"

needs_sms = pytest.mark.skipif(not SMS.is_file(), reason="the SMS Spam Collection is not in ../shared/data")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

WORDS = {
    "sport": ["match", "goal", "team", "player", "league", "score", "coach", "season", "referee", "stadium"],
    "medicine": ["doctor", "patient", "dose", "nurse", "fever", "clinic", "surgery", "vaccine", "symptom", "therapy"],
    "technology": ["computer", "software", "chip", "network", "server", "code", "keyboard", "screen", "robot", "data"],
}


def make_texts(count: int, labels: list[str], seed: int = 0, words: dict[str, str] | None = None) -> pd.DataFrame:
    """Texts whose words tell their label; lengths differ, none is a copy. `words` names a label's list in WORDS."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = labels[i % len(labels)]
        chosen = [*rng.choices(WORDS[(words or {}).get(label, label)], k=rng.randint(3, 25)), "the", "a", "of"]
        rng.shuffle(chosen)
        rows.append({"text": f"{' '.join(chosen)} {i}", "label": label})
    return pd.DataFrame(rows)


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """A command as a user types it at the repository's root, with this Python's programs first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PATH": path})


def tiny_model(num_labels: int = 3, **config) -> GPT2LastTokenClassifier:
    """A random GPT-2 of 4 blocks; weights larger than at initialization, so that every path matters."""
    torch.manual_seed(0)
    sizes = {"n_layer": 4, "n_embd": 32, "n_head": 2, "n_positions": 64, "vocab_size": 100}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    special = {"bos_token_id": 99, "eos_token_id": 99, "pad_token_id": 99}
    model = GPT2LastTokenClassifier(GPT2Config(**{**sizes, **dropouts, **special, "num_labels": num_labels, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def fields_of(model: Path, data: Path, output_dir: Path) -> list[str]:
    return ["--model_name_or_path", str(model), "--train_file", str(data), "--output_dir", str(output_dir)]


FAST = ["--num_train_epochs", "1", "--per_device_train_batch_size", "16", "--learning_rate", "1e-3"]
FAST += ["--disable_tqdm", "true", "--baselines", "false", "--plots", "false"]


@functools.cache
def tiny_folder() -> Path:
    """A random GPT-2 of 4 blocks with gpt2-nano's tokenizer, saved: for runs whose accuracy does not matter."""
    folder = Path(os.environ["HF_HOME"]) / "tiny"
    model = tiny_model(vocab_size=8192, n_positions=512, bos_token_id=8191, eos_token_id=8191, pad_token_id=8191)
    model.transformer.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NANO / name, folder)
    return folder


def train_on(model: Path, data: Path, output_dir: Path, *fields: str) -> dict[str, float]:
    """scripts/train.py in this process."""
    return train_script().main([*fields_of(model, data, output_dir), *FAST, *fields])


def run_training(data: Path, output_dir: Path, *fields: str) -> dict[str, float]:
    """The tiny model trained in this process."""
    return train_on(tiny_folder(), data, output_dir, *fields)


@functools.cache
def train_script() -> ModuleType:
    """scripts/train.py as a module."""
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "scripts" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.setup_logging = lambda is_main_process: None  # pytest's caplog reads the loggers instead
    return module


def assert_one_line(result, message):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    errors = result.stderr.strip().splitlines()
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("error: ")
    assert message in errors[0]


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """Undo what a script that ran in this process has set, or a later test's caplog would miss messages."""
    yield
    for name in ("recipe", *(name for name in logging.root.manager.loggerDict if name.startswith("recipe."))):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@pytest.fixture
def run_here(capfd, monkeypatch):
    """A script run as __main__ in this process, which spares the seconds of its imports."""

    def run_script(command, cwd=ROOT):
        monkeypatch.setattr(sys, "argv", [str(word) for word in command[1:]])
        monkeypatch.chdir(cwd)
        code, _ = 0, capfd.readouterr()  # what the test itself has printed
        try:
            runpy.run_path(str(command[1]), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return subprocess.CompletedProcess(command, code, *capfd.readouterr())

    return run_script


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run_unfinished(data: Path, folder: Path, *fields: str) -> None:
    """Leave a folder as a run does that is killed before it saves its model."""
    run_training(data, folder, *fields)
    state = json.loads((folder / "run_state.json").read_text())
    (folder / "run_state.json").write_text(json.dumps({**state, "finished": False}))
    (folder / "model.safetensors").unlink()


@pytest.fixture
def three_labels(tmp_path: Path) -> Path:
    path = tmp_path / "three.csv"
    make_texts(120, ["sport", "medicine", "technology"]).to_csv(path, index=False)
    return path


def assert_refused(result, message):
    """One line, after what the log has said by then."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that has a folder made by whichever worker is first, for all: tests leave it as it is, or copy it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # what the workers share

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.done").exists():
                (root / name).mkdir()  # fails where an earlier worker has failed
                fill(root / name)
                (root / f"{name}.done").touch()
        return root / name

    return make


@pytest.fixture(scope="session")
def texts_file(made_once) -> Path:
    frame = make_texts(120, ["sport", "medicine", "technology"])
    return made_once("texts", lambda folder: frame.to_csv(folder / "data.csv", index=False)) / "data.csv"


@pytest.fixture(scope="session")
def finished(texts_file: Path, made_once) -> Path:
    """A run of the tiny model."""
    return made_once("finished", lambda folder: run_training(texts_file, folder / "run")) / "run"


def launch_training(folder: Path) -> None:
    """A run of gpt2-nano as the README launches it."""
    make_texts(300, ["sport", "medicine", "technology"]).to_csv(folder / "trained.csv", index=False)
    launch = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml", "scripts/train.py"]
    fields = [*fields_of(NANO, folder / "trained.csv", folder / "run"), "--learning_rate", "1e-3"]
    result = run(*launch, *fields, "--num_train_epochs", "2", "--per_device_train_batch_size", "16")
    assert result.returncode == 0, result.stderr[-3000:]
    (folder / "run" / "stdout.txt").write_text(result.stdout)
    (folder / "run" / "stderr.txt").write_text(result.stderr)


@pytest.fixture(scope="session")
def trained(made_once) -> Path:
    """A run with three labels, a report and pictures."""
    return made_once("trained", launch_training) / "run"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts programs, trains many times, or waits for the launched run: `make test-fast` leaves it out."""
    for item in items:
        long = item.path.parent.name in ("scripts", "experiments") or item.path.stem in (
            "test_properties",
            "test_plots",
        )
        if long or "trained" in item.fixturenames:
            item.add_marker(pytest.mark.launch)
