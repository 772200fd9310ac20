"""The upload of a run to the Hugging Face Hub: one commit of the files that others need, and no more."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from recipe.errors import RecipeError, as_recipe_error, first_line
from recipe.evaluation.report import PICTURES
from recipe.hub.model_card import CARD_FILE, NEW_CARD_FILE, published_card, write_model_card

# What others need, and nothing of the user's own. Checkpoints, splits and hashes of the training texts stay here, and so does
# run_config.yaml with its paths.
PUBLISHED = (
    "config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "train_results.json",
    "eval_results.json",
    "test_results.json",
    CARD_FILE,
    *(f"figures/{name}.png" for name in PICTURES),
)
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"
AGAIN = "the saved run is as it was: publish it again"
REASONS = {
    401: f"the Hub does not accept the token: {LOGIN}",
    403: "the token may not write there: take one with write permission for it, or another repo_id",
    404: "the Hub has no such repository or revision, or the token may not see it: check repo_id and revision",
    409: f"somebody else has changed the repository meanwhile: {AGAIN}",
    412: f"somebody else has changed the repository meanwhile: {AGAIN}",
    429: f"too many requests: wait some minutes; {AGAIN}",
}


class Published(NamedTuple):
    """Where a model went: its page, and whether only its owners see that."""

    url: str
    private: bool

    def __str__(self) -> str:
        return f"Published at {self.url} ({'private: only its owners see it' if self.private else 'public'})"


def files_to_publish(run_dir: str | Path) -> list[Path]:
    """Return the files of a finished run that others need.

    Raises:
        RecipeError: no saved model, a run that has not finished, or a new card beside an edited one.
    """
    folder = Path(run_dir)
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise RecipeError(f"{folder}: holds no saved model (config.json, model.safetensors): give a run's output_dir")
    state = folder / "run_state.json"
    with as_recipe_error(ValueError, f"{state}: cannot be read", "train again to restore it"):
        if state.is_file() and not json.loads(state.read_text(encoding="utf-8"))["finished"]:
            raise RecipeError(f"{folder}: this run has not finished: run its command again first")
    if (folder / NEW_CARD_FILE).exists():
        problem = f"{folder}: {CARD_FILE} is of an earlier run, and {NEW_CARD_FILE} of this one"
        raise RecipeError(f"{problem}: put what you want of both into {CARD_FILE}, and remove {NEW_CARD_FILE}")
    found = sorted({path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()})
    if links := [path for path in found if path.is_symlink()]:  # which may lead to any file
        raise RecipeError(f"{links[0]}: is a symbolic link, which is not followed: put the file in its place")
    return found


def check_login(token: str | None = None) -> str:
    """Return the user's name on the Hub, which has to accept the token."""
    if (token or get_token()) is None:
        raise RecipeError(f"you are not logged in to the Hub: {LOGIN}")
    with hub_errors("the Hub", token, "nothing was sent: check the connection"):
        return HfApi(token=token).whoami()["name"]


def check_repo_id(repo_id: str | None) -> None:
    """Raise RecipeError for a name that no repository can have; None is one that is chosen later."""
    with as_recipe_error(HFValidationError, f"{repo_id!r} is no repository", "take a name such as me/spam-filter"):
        validate_repo_id(repo_id or "name")


def publish(
    run_dir: str | Path,
    repo_id: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload the classifier",
    **metadata: Any,
) -> Published:
    """Upload a finished run in one commit; the run's folder stays as it is, but for a card if it has none.

    Files of earlier uploads that this one replaces or no longer has are removed in the same commit.

    Args:
        repo_id: `name` or `owner/name`; the folder's name if None.
        token: by default the one that `hf auth login` has stored.
        private: whether a new repository is; None means yes. One that exists stays as it is.
        revision: the branch, made if it does not exist; by default main.
        metadata: fields of the card's front matter, such as `license`.

    Raises:
        RecipeError: whatever the Hub refuses, in one line; and as files_to_publish.
    """
    folder, user, paths = Path(run_dir), check_login(token), files_to_publish(run_dir)
    repo_id = repo_id or folder.resolve().name
    repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
    check_repo_id(repo_id)
    if folder / CARD_FILE not in paths:
        paths.append(write_model_card(folder))
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    card = published_card(files[CARD_FILE], repo_id, revision, metadata)
    api = HfApi(token=token)
    with hub_errors(repo_id, token):
        card.validate(repo_type="model")
        api.create_repo(repo_id, private=private is not False, exist_ok=True)
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.model_info(repo_id, revision=revision)
        there = [file.rfilename for file in info.siblings or ()]
        old = [name for name in there if name not in files and any(fnmatch(name, pattern) for pattern in PUBLISHED)]
        contents = {**files, CARD_FILE: str(card).encode()}
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in old]
        api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    return Published(f"{api.endpoint}/{repo_id}", bool(info.private))


@contextmanager
def hub_errors(what: str, token: str | None, fix: str = AGAIN) -> Iterator[None]:
    """Raise whatever the client raises as a RecipeError of one line, without a token."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = REASONS.get(status, f"the Hub has failed: {fix}" if status >= 500 else first_line(error))
        raise RecipeError(f"{what}: {reason} (HTTP {status})") from error
    except Exception as error:  # a broken connection, a timeout, a malformed answer: each library's own
        reason = " ".join(str(error).split()).replace(token or get_token() or "\0", "***")
        raise RecipeError(f"{what}: the Hub cannot be reached or refuses ({reason[:300]}): {fix}") from error
