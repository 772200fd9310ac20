"""The benchmark runs, its numbers are those of real work, and training's own memory does not grow with the cache."""

import importlib
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import NANO, ROOT, SMS, make_texts, needs_sms, run, tiny_folder

from recipe import GPT2LastTokenClassifier, RecipeError

BENCHMARK = "scripts/benchmark/benchmark.py"
CONFIG = str(ROOT / "recipe" / "configs" / "sms_spam_book.yaml")
JOB = {"model": str(NANO), "learning_rate": 1e-3, "epochs": 1, "use_cpu": True, "accuracy": True, "steps": 0}
JOB |= {"config": CONFIG, "fields": []}


@pytest.fixture(scope="module")
def module():
    """Return how the tests import a module of the benchmark, by its name."""
    folder = str(ROOT / "scripts" / "benchmark")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    path = tmp_path_factory.mktemp("messages") / "messages.tsv"
    frame = make_texts(400, ["sport", "medicine"])
    frame[["label", "text"]].to_csv(path, sep="\t", header=False, index=False)
    return path


@pytest.mark.slow
def test_quick_prints_a_row_for_each_variant(module, messages, tmp_path, monkeypatch, capsys):
    """Each measurement in this process, which spares the seconds of its imports."""
    benchmark, sweep = module("benchmark"), module("recipe.experiments.sweep")
    monkeypatch.setattr(benchmark, "run_job", module("measurements").measure)
    monkeypatch.chdir(ROOT)
    train, settings = sweep.train, []
    monkeypatch.setattr(sweep, "train", lambda runner, *given: settings.append(given[0]) or train(runner, *given))
    output = tmp_path / "figures.json"
    words = ["--train_file", str(messages), "--quick", "--variants", "b", "d", "e", "--use_cpu", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", [BENCHMARK, *words])
    benchmark.main()
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line.startswith("(")}
    assert set(rows) == {f"({variant})" for variant in "bde"}
    nano = json.loads(output.read_text())["nano"]
    assert nano["training"]["e"][0]["checkpoint_bytes"] < nano["training"]["b"][0]["checkpoint_bytes"] / 10
    assert nano["training"]["e"][0]["accuracy"] > 0.5
    assert nano["training"]["b"][0]["accuracy"] is None  # a few steps: nothing to compare
    assert nano["floor"]["total_s"] < nano["training"]["e"][0]["total_s"]
    assert set(nano["inference"]) == {"engine", "pipeline", "onnx", "onnx_int8"}
    assert "Inference, texts/s" in printed
    assert "learning rates on one cache" in printed
    assert "with 3 other seeds" in printed
    seeds = {setting["seed"] for setting in settings if "seed" in setting}
    assert len(seeds - {123}) == len(seeds) == 3  # 123 is the protocol's
    assert 1 < nano["sweep"]["halving_runs"] <= 2


def test_other_seeds_are_as_many_as_sweeps(module, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("sweep_script", ROOT / "scripts" / "sweep.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--config", CONFIG, "--output_dir", str(tmp_path / "sweep")])
    assert script.parse_options()[0].seeds == module("sweep_times").SEEDS


@needs_sms
@pytest.mark.parametrize("variant", "abcdef")
def test_real_protocol_runs_with_few_steps(module, variant):
    """The book's config on the UCI file, whose 149 validation messages batches do not divide."""
    job = {**JOB, "measure": "training", "variant": variant, "train_file": str(SMS), "steps": 5}
    job["model"] = str(tiny_folder())
    if variant == "c":  # times an epoch
        job["fields"] = ["--max_train_samples", "64"]
    figures = module("measurements").measure(job)
    assert figures["checkpoint_bytes"] < 5e5 if variant in "def" else figures["checkpoint_bytes"] > 1e6


def test_peer_is_measured_without_our_model(module, messages, monkeypatch):
    def refuse(*given, **named):
        raise AssertionError("our model would count in a peer's memory")

    monkeypatch.setattr(GPT2LastTokenClassifier, "__init__", refuse)
    fields = ["--max_train_samples", "64", "--max_eval_samples", "8"]
    job = {**JOB, "variant": "b", "train_file": str(messages), "steps": 5, "fields": fields}
    job["model"] = str(tiny_folder())
    assert module("training_times").measure_training(job)["checkpoint_bytes"] > 1e6


class KnownTraining:
    """A trainer whose trunk takes 3 seconds, its steps 9, 8, 2, 2 ..., and its evaluation 4."""

    model = None

    def __init__(self, clock, setup):
        self.clock, self.setup = clock, setup

    def add_callback(self, callback):
        self.steps = callback

    def train(self):
        args = SimpleNamespace(device=torch.device("cpu"))
        self.clock.now += 3
        self.steps.on_train_begin(args, None, None)
        self.clock.now += 100  # before an epoch: nothing that is counted
        self.steps.on_epoch_begin(args, None, None)
        for seconds in [9, 8, *[2] * (self.setup.training_args.max_steps - 2)]:
            self.clock.now += seconds
            self.steps.on_step_end(args, None, None)

    def evaluate(self):
        self.clock.now += 4

    def _save_checkpoint(self, model, trial):
        pass


# Preparation is 1 + 3 s. Scaled: two slow steps are dropped, and 6 of the others make an epoch; of (c) all 6 steps count.
# (e) runs to its end: what its clock says, nothing scaled.
@pytest.mark.parametrize(
    ("variant", "steps", "epoch", "total"),
    [
        ("b", 5, 12, 4 + 5 * (12 + 4)),
        ("c", 5, 9 + 8 + 4 * 2, 4 + 5 * (25 + 4)),
        ("d", 5, 12, 4 + 5 * (12 + 4)),
        ("e", 0, 12, 4 + 100 + 9 + 8 + 3 * 2),
    ],
)
def test_total_is_preparation_and_epochs_with_their_evaluations(module, monkeypatch, variant, steps, epoch, total):
    times, clock = module("training_times"), SimpleNamespace(now=0)
    setup = SimpleNamespace(tokenizing_s=1, steps_per_epoch=6, training_args=SimpleNamespace(max_steps=5))
    monkeypatch.setattr(times, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(times, "set_up", lambda *given: setup)
    monkeypatch.setattr(times, "peer_trainer", lambda variant, setup: KnownTraining(clock, setup))
    monkeypatch.setattr(times, "our_trainer", lambda setup: KnownTraining(clock, setup))
    job = {**JOB, "variant": variant, "steps": steps, "epochs": 5, "accuracy": False}
    figures = times.measure_training(job)
    assert (figures["epoch_s"], figures["total_s"]) == (epoch, total)
    assert (figures["preparation_s"], figures["extra_epoch_s"]) == (4, epoch + 4)


def test_ratio_to_b_is_the_median_of_pairs(module):
    ratio_to_b = module("results_table").ratio_to_b
    seconds = {"b": [10, 40, 90], "e": [1, 10, 10]}  # 10, 4, 9; the medians' ratio would be 4
    training = {variant: [{"total_s": value} for value in values] for variant, values in seconds.items()}
    assert ratio_to_b(training, "e", "total_s") == "9.0"
    training["b"][0] = {"error": "killed"}
    assert ratio_to_b(training, "e", "total_s") == "6.5"
    assert ratio_to_b({"e": training["e"]}, "e", "total_s") == "-"


def test_failed_job_leaves_the_figures_of_the_others(module, messages, tmp_path, monkeypatch, capsys):
    benchmark, output, written = module("benchmark"), tmp_path / "figures.json", []
    figures = {"epoch_s": 1, "total_s": 8, "extra_epoch_s": 2, "preparation_s": 1, "peak_bytes": 1e6}
    figures |= {"checkpoint_bytes": 1e6, "accuracy": None}
    sweep = {"runs": 10, "sweep_s": 9, "first_s": 3, "next_s": 1, "halving_s": 6, "halving_runs": 2, "seeds_s": 6}
    answers = {"training": figures, "inference": {"engine": {"texts_s": 7, "ratio": 2}}, "sweep": {**sweep, "seeds": 3}}

    def run_process(command, **options):
        job = json.loads(command[-1])
        written.append(json.loads(output.read_text())["nano"] if output.exists() else None)
        if job["measure"] == "floor" or (job.get("variant") == "d" and len(written) == 2):
            return subprocess.CompletedProcess(command, 1, "", "Traceback:\nMemoryError: no room\n")
        return subprocess.CompletedProcess(command, 0, f"a line\nRESULT {json.dumps(answers[job['measure']])}\n", "")

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=run_process))
    words = ["--train_file", str(messages), "--variants", "b", "d", "--repeats", "2", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", [BENCHMARK, *words])
    with pytest.raises(RecipeError, match="failed: 2;"):  # which run_script makes exit code 2 and one line
        benchmark.main()
    printed, errors = capsys.readouterr()
    failed = [line for line in errors.splitlines() if "MemoryError: no room" in line]
    assert [line.split(" failed")[0] for line in failed] == ["training (d)", "floor"]
    assert "Floor" not in printed
    assert "(d) our plain path; 1 of its runs failed" in printed
    assert "6.0 s, the epochs of 2.0 runs: 2.00 single runs" in printed
    assert "12.0 s: 4.00 single runs" in printed
    nano = json.loads(output.read_text())["nano"]
    error = {"error": "MemoryError: no room", "exit_code": 1}
    assert nano["training"] == {"b": [figures, figures], "d": [error, figures]}
    assert nano["floor"] == error
    assert nano["sweep"]["halving_runs"] == 2
    del nano["sweep"]
    assert written[-1] == nano  # before the last job: all but its own


def test_inference_classifies_a_batch_before_the_clock_runs(module, monkeypatch):
    """Two engines whose seconds are known."""
    times, calls = module("inference_times"), []

    def engine(name):
        return lambda texts: calls.append((name, len(texts), running))

    def seconds_of(work, device):
        nonlocal running
        running = True
        work()
        running = False
        return {"engine": 2, "pipeline": 6}[calls[-1][0]]

    running, names = False, ("engine", "pipeline")
    monkeypatch.setattr(times, "set_up", lambda *given: SimpleNamespace(splits={"train": {"text": ["text"] * 50}}))
    monkeypatch.setattr(times, "load_engines", lambda *given: {name: engine(name) for name in names})
    monkeypatch.setattr(times, "seconds_of", seconds_of)
    figures = times.measure_inference({**JOB, "texts": 40, "batch_size": 16, "repeats": 2})
    assert calls == [*((name, 16, False) for name in names), *[(name, 40, True) for name in names] * 2]
    assert figures == {"engine": {"texts_s": 20, "ratio": 3}, "pipeline": {"texts_s": 40 / 6, "ratio": 1}}


def test_floor_is_that_of_the_jobs_device(module, messages, monkeypatch):
    """Each call takes a second, on a device that computes nothing."""
    floor, devices = module("floor"), set()

    def seconds_of(work, device):
        devices.update((device.type, work().device.type))
        return 1

    monkeypatch.setattr(floor, "device_of", lambda job: torch.device("meta"))
    monkeypatch.setattr(floor, "seconds_of", seconds_of)
    figures = floor.measure_floor({**JOB, "train_file": str(messages), "epochs": 5})
    assert devices == {"meta"}
    assert figures["epoch_s"] == pytest.approx(35 * 11 / 8)  # steps, passes; the second's copy had 8 passes
    assert figures["total_s"] == pytest.approx(figures["trunk_s"] + 5 * figures["epoch_s"])


@pytest.mark.parametrize(("use_cpu", "device"), [(True, "cpu"), (False, "cuda")])
def test_gpu_is_used_and_named_unless_left_aside(module, monkeypatch, use_cpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert ("a GPU" in module("benchmark").machine(use_cpu)) is not use_cpu
    assert module("protocol").device_of({"use_cpu": use_cpu}).type == device


def test_missing_file_is_one_line():
    result = run("python", BENCHMARK, "--train_file", "nowhere")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "does not exist" in result.stderr


def test_help_needs_neither_torch_nor_optuna():
    code = "import sys; sys.path.insert(0, 'scripts/benchmark'); sys.modules.update(torch=None, optuna=None)"
    result = run("python", "-c", f"{code}; import benchmark; benchmark.main()", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--train_file" in result.stdout


@pytest.mark.slow
def test_anonymous_memory_stays_below_the_cache(tmp_path):
    """50 MB of features; held in memory they would all be added to it."""
    frame = make_texts(1600, ["sport", "medicine"]).assign(text=lambda f: f["text"] * 3)
    frame.to_csv(tmp_path / "long.csv", index=False)
    fields = ["--max_train_samples", "1000", "--max_eval_samples", "20", "--max_steps", "130"]
    config = str(ROOT / "recipe" / "configs" / "quickstart.yaml")
    job = {**JOB, "measure": "memory", "config": config, "train_file": str(tmp_path / "long.csv"), "fields": fields}
    result = run("python", "scripts/benchmark/measurements.py", json.dumps(job))
    assert result.returncode == 0, result.stderr[-2000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("RESULT "))
    figures = json.loads(line.removeprefix("RESULT "))
    assert figures["cache_bytes"] > 45e6
    assert figures["growth_bytes"] < 0.6 * figures["cache_bytes"], figures
