"""Faults of the user and of the machine end in one line and exit code 2, and leave what was there as it was."""

import shutil
import subprocess

import pytest
from conftest import FAST, assert_refused, fields_of, make_texts, run, same_weights, tiny_folder

TRAIN = ["python", "scripts/train.py"]


@pytest.fixture(scope="module")
def finished(finished, tmp_path_factory):
    """A copy, whose lock no other worker's test holds."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("finished") / "run")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("--optim lomo", "the optimizer or its schedule cannot be made"),
        ("--optim adafactor --optim_args nonsense", "the optimizer or its schedule cannot be made"),
        ('--lr_scheduler_type polynomial --lr_scheduler_kwargs {"powr":2}', "the optimizer or its schedule"),
        ("--torch_compile_backend sorcery", "SORCERY"),
        ("--report_to nothing_known", "nothing_known"),
        ("--trainable transformer.h.99.*", "matches no parameter"),
        ("--max_length 100000", "positions"),
        ("--learning_rate nan", "learning_rate is nan"),  # as all that test_config.py refuses
    ],
)
def test_a_bad_field_leaves_a_finished_run_as_it_was(fields, message, texts_file, finished, run_here):
    before = contents(finished)
    command = [*TRAIN, *fields_of(tiny_folder(), texts_file, finished), *FAST, "--overwrite_output_dir"]
    assert_refused(run_here([*command, *fields.split()]), message)
    assert contents(finished) == before


def test_a_template_leaves_a_finished_run_as_it_was(texts_file, finished, run_here):
    """Its figures and splits would else belong to another model."""
    before = contents(finished)
    command = ["python", "scripts/examples/own_loss.py", *fields_of(tiny_folder(), texts_file, finished)]
    assert_refused(run_here(command), "holds a finished run of train.py")
    assert contents(finished) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a few hundred kB, which can be made larger."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_loses_no_checkpoint(small_disk, texts_file, tmp_path, run_here):
    fields = [*FAST, "--num_train_epochs", "4"]
    straight = run_here([*TRAIN, *fields_of(tiny_folder(), texts_file, tmp_path / "straight"), *fields])
    assert straight.returncode == 0
    command = [*TRAIN, *fields_of(tiny_folder(), texts_file, small_disk / "run"), *fields]
    assert_refused(run_here(command), "the disk is full")
    assert list((small_disk / "run").glob("checkpoint-*/complete.json"))
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    result = run_here(command)
    assert result.returncode == 0, result.stderr
    assert "an unfinished run, which resumes from" in result.stderr
    assert same_weights(tmp_path / "straight", small_disk / "run")


@pytest.mark.slow
def test_a_full_disk_under_the_cache_the_predictions_and_the_figures(
    small_disk, finished, texts_file, tmp_path, run_here
):
    texts = tmp_path / "many.csv"
    make_texts(9_000, ["sport", "medicine"]).to_csv(texts, index=False)
    (small_disk / "out.csv").write_text("mine")
    predict = [
        "python",
        "scripts/predict.py",
        "--model_dir",
        finished,
        "--input_file",
        texts,
        "--overwrite_output_file",
    ]
    assert_refused(run_here([*predict, "--output_file", small_disk / "out.csv"]), "the disk is full")
    assert contents(small_disk) == {small_disk / "out.csv": b"mine"}
    cache = ["--feature_cache", "on", "--feature_cache_dir", str(small_disk / "cache")]
    command = [*TRAIN, *fields_of(tiny_folder(), texts_file, tmp_path / "run"), *FAST, *cache]
    (small_disk / "filler").write_bytes(b"x" * 800_000)
    assert_refused(run_here(command), "feature_cache is on, or trunk_dtype bfloat16, but it takes")
    (small_disk / "filler").write_bytes(b"")
    assert run_here(command).returncode == 0


@pytest.mark.slow
def test_files_that_may_not_grow_are_one_line(finished, texts_file, tmp_path):
    """`ulimit -f`, in blocks of 1 kB."""
    command = (
        f"python scripts/train.py {' '.join(fields_of(tiny_folder(), texts_file, tmp_path / 'run'))} {' '.join(FAST)}"
    )
    assert_refused(run("bash", "-c", f"ulimit -f 40; exec {command}"), "the disk is full")
