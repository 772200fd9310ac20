"""Publishing over HTTP: the real client, run as a user does, against a stand-in of the Hub on the loopback."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT, assert_refused, fields_of, tiny_folder
from hub_stand_in import TOKEN, HubStandIn
from huggingface_hub import ModelCard, close_session, constants, hf_api
from safetensors.torch import load
from transformers import TrainingArguments

from recipe import GPT2LastTokenClassifier, RecipeTrainer, TextClassifier, load_tokenizer
from recipe.errors import RecipeError
from recipe.hub.publish import hub_errors

pytestmark = pytest.mark.launch
PUBLISHED = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PUBLISHED |= {"train_results.json", "eval_results.json", "test_results.json"}


@pytest.fixture
def hub():
    with HubStandIn() as hub:
        yield hub
        hub.shutdown()


@pytest.fixture
def online(hub, run_here, monkeypatch):
    """A script in this process whose Hub is the stand-in, and which is logged in unless its token is None."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    monkeypatch.setenv("NO_PROXY", "*")
    close_session()  # its connections are to another test's Hub

    def run_online(*command, token=TOKEN):
        monkeypatch.setenv("HF_TOKEN", token or "")
        result = run_here([sys.executable, *command])
        assert TOKEN not in result.stdout + result.stderr
        return result

    yield run_online
    close_session()


@pytest.fixture
def online_shell(hub, tmp_path):
    """As `online`, in a process whose environment names the stand-in."""

    def run_online(*command):
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        settings |= {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        words = [sys.executable, *map(str, command)]
        result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **settings})
        assert TOKEN not in result.stdout + result.stderr
        return result

    return run_online


@pytest.fixture
def run_dir(finished, tmp_path):
    folder = tmp_path / "spam-filter"
    shutil.copytree(finished, folder)
    (folder / "training_args.bin").write_bytes(b"secret")
    (folder / "notes.txt").write_text("secret")
    (folder / "model_backup.safetensors").write_bytes(b"secret")
    (folder / "customers_results.json").write_text("secret")
    (folder / "figures").mkdir()
    (folder / "figures" / "screenshot.png").write_text("secret")
    return folder


def files_of(hub, repo="me/spam-filter", branch="main"):
    return hub.repos[repo]["branches"][branch]


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_published_model_is_read_back_by_transformers(hub, online_shell, trained):
    result = online_shell(
        "scripts/publish.py", "--model_dir", trained, "--repo_id", "three", "--license", "mit", "--tags", "news"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == (f"Published at {hub.endpoint}/me/three (private: only its owners see it)")
    files = files_of(hub, "me/three")
    assert files.keys() == PUBLISHED | {
        f"figures/{name}.png" for name in ("confusion_matrix", "reliability", "length", "training")
    }
    assert files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.tags == ["gpt2", "text-classification", "news"]
    assert not [name for name, content in files.items() if str(trained.parent).encode() in content]
    assert hub.repos["me/three"]["commits"] == 1
    texts = pd.read_csv(trained / "test_predictions.csv")["text"]
    assert len(texts) == 60  # which stay here, in all files
    assert not [name for name, content in files.items() for text in texts if text.encode() in content]
    code = card.text.partition("```python\n")[2].partition("```")[0]
    assert 'model="me/three"' in code
    answer = online_shell("-c", code)
    assert answer.returncode == 0, answer.stderr
    (label,), (probabilities,) = TextClassifier.from_pretrained(trained).predict(["Do you have time?"])
    assert eval(answer.stdout) == [{"label": label, "score": pytest.approx(max(probabilities), abs=1e-5)}]


def test_a_dry_run_lists_the_files_and_sends_nothing(hub, online, run_dir):
    result = online("scripts/publish.py", "--model_dir", run_dir, "--dry_run", token=None)
    assert result.returncode == 0, result.stderr
    *rows, total, last = [line.split() for line in result.stdout.splitlines()]
    sizes = {name: int(size.replace(",", "")) for size, name in rows}
    assert sizes == {name: (run_dir / name).stat().st_size for name in PUBLISHED}
    assert int(total[0].replace(",", "")) == sum(sizes.values())
    assert " ".join(last) == "Nothing was sent. It would go to spam-filter, private if it is new"
    assert hub.requests == []


def test_public_and_branch_are_as_asked_for(hub, online, run_dir):
    result = online("scripts/publish.py", "--model_dir", run_dir, "--public", "--revision", "v1")
    assert result.stdout.splitlines()[-1] == f"Published at {hub.endpoint}/me/spam-filter (public)"
    assert files_of(hub, branch="v1").keys() == PUBLISHED
    assert files_of(hub) == {}


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (("GET", "whoami", 401), "the Hub does not accept the token: log in with `hf auth login`"),
        (("POST", "repos/create", 403), "the token may not write there"),
        (("POST", "commit/main", 409), "somebody else has changed the repository meanwhile"),
        (("POST", "commit/main", 500), "the Hub has failed: the saved run is as it was"),
        (("POST", "commit/main", 0), "the Hub cannot be reached or refuses"),
    ],
)
def test_a_failed_upload_is_one_line_and_the_next_one_succeeds(hub, online, run_dir, failure, message):
    before = content_of(run_dir)
    hub.failures.append(failure)
    command = ["scripts/publish.py", "--model_dir", run_dir]
    assert_refused(online(*command), message)
    assert hub.failures == []
    assert not any(repo["commits"] for repo in hub.repos.values())
    assert content_of(run_dir) == before
    again = online(*command)
    assert again.returncode == 0, again.stderr
    assert files_of(hub).keys() == PUBLISHED


def test_no_error_shows_the_token():
    shown = r"refuses \(the URL https://\*\*\*@there cannot be reached\)"
    with pytest.raises(RecipeError, match=shown), hub_errors("me/x", TOKEN):
        raise ConnectionError(f"the URL https://{TOKEN}@there\ncannot be reached")


def test_a_connection_that_breaks_in_a_file_is_tried_again(hub, online, run_dir):
    hub.failures.append(("PUT", "objects", 0))
    assert online("scripts/publish.py", "--model_dir", run_dir).returncode == 0
    assert load(files_of(hub)["model.safetensors"]).keys() == load((run_dir / "model.safetensors").read_bytes()).keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repo_id", "a/b/c"], "take a name such as me/spam-filter"),
        (["--commit_message", ""], "commit_message is empty"),
        (["--model_dir", "{tmp}"], "holds no saved model"),
        (["--repo_id", "a b"], "take a name such as me/spam-filter"),
        (["--nope"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(hub, online, run_dir, tmp_path, words, message):
    words = [word.format(tmp=tmp_path) for word in words]
    assert_refused(online("scripts/publish.py", "--model_dir", run_dir, *words), message)
    assert hub.requests == []


def test_without_a_login_one_line_says_how(hub, online, run_dir):
    assert_refused(online("scripts/publish.py", "--model_dir", run_dir, token=None), "log in with `hf auth login`")
    assert hub.requests == []


def test_an_unfinished_run_is_not_published(online, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "x")
    (tmp_path / "x" / "run_state.json").write_text('{"finished": false}')
    assert_refused(online("scripts/publish.py", "--model_dir", tmp_path / "x"), "this run has not finished")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "README.md").write_bytes(b"\xff"), "README.md: cannot be read"),
        (
            lambda folder: (folder / "README.new.md").write_text("new"),
            "README.md is of an earlier run, and README.new.md",
        ),
    ],
)
def test_a_folder_that_is_not_in_order_is_not_published(hub, online, run_dir, tmp_path, break_it, message):
    shutil.copytree(run_dir, tmp_path / "x")
    break_it(tmp_path / "x")
    assert_refused(online("scripts/publish.py", "--model_dir", tmp_path / "x"), message)
    assert hub.repos == {}


def test_what_an_earlier_upload_has_left_is_removed_and_names_are_the_repositorys(hub, online, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "local name")
    online("scripts/publish.py", "--model_dir", tmp_path / "local name", "--repo_id", "mine")
    files_of(hub, "me/mine").update(
        {"model-00001-of-00002.safetensors": b"old", "figures/length.png": b"old", "mine.txt": b"kept"}
    )
    result = online("scripts/publish.py", "--model_dir", tmp_path / "local name", "--repo_id", "mine")
    assert result.returncode == 0, result.stderr
    assert files_of(hub, "me/mine").keys() == PUBLISHED | {"mine.txt"}
    card = ModelCard(files_of(hub, "me/mine")["README.md"].decode())
    assert card.data.model_name == "mine"
    assert card.text.startswith("\n# mine\n")
    online("scripts/publish.py", "--model_dir", tmp_path / "local name", "--repo_id", "mine", "--revision", "v1")
    assert 'model="me/mine", revision="v1"' in files_of(hub, "me/mine", "v1")["README.md"].decode()


def test_training_publishes_at_its_end_and_asks_for_a_login_before(hub, online, texts_file, tmp_path):
    fields = [*fields_of(tiny_folder(), texts_file, tmp_path / "run"), "--max_steps", "2"]
    fields += ["--baselines", "false", "--plots", "false", "--push_to_hub", "true", "--hub_model_id", "mine"]
    assert_refused(online("scripts/train.py", *fields, token=None), "log in with `hf auth login`")
    assert not (tmp_path / "run").exists()
    result = online("scripts/train.py", *fields, "--hub_token", TOKEN, token=None)
    assert result.returncode == 0, result.stderr
    assert f"Published at {hub.endpoint}/me/mine (private" in result.stdout
    assert files_of(hub, "me/mine").keys() == PUBLISHED
    assert hub.repos["me/mine"]["commits"] == 1
    assert b'model="me/mine"' in files_of(hub, "me/mine")["README.md"]
    assert not [path for path, content in content_of(tmp_path).items() if TOKEN.encode() in content]


def test_a_template_publishes_too(hub, online, texts_file, tmp_path):
    """RecipeTrainer in a script without a report: Trainer's own arguments, and a card that says what is not known."""
    folder = tmp_path / "x"
    fields = [*fields_of(tiny_folder(), texts_file, folder), "--max_steps", "2", "--eval_strategy", "no"]
    result = online("scripts/examples/own_loss.py", *fields, "--push_to_hub", "true")
    assert result.returncode == 0, result.stderr
    assert hub.repos == {}  # nothing is sent before the script calls push_to_hub
    model = GPT2LastTokenClassifier.from_pretrained(folder)
    args = TrainingArguments(folder, use_cpu=True, push_to_hub=True, hub_model_id="me/x")
    trainer = RecipeTrainer(model, args, processing_class=load_tokenizer(str(folder), model.config))
    trainer.push_to_hub(license="mit", tags=["nlp"])
    card = ModelCard(files_of(hub, "me/x")["README.md"].decode())
    assert (card.data.license, card.data.tags[-1]) == ("mit", "nlp")
    assert "Not measured on test texts." in card.text
