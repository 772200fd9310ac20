"""A sweep's study: which trials it plans, and the journal file by which an interrupted one goes on."""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import xxhash
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from recipe.data.dataset import TextSplits
from recipe.errors import RecipeError, as_recipe_error

FIRST = 10  # trials of a range that stand at equal ratios; as many as Optuna's TPE draws at random
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

# Values of learning_rate, depth (how many last blocks train), dropout, seed: a list, or a range (low, high) of the first.
Space = Mapping[str, list | tuple[float, float]]


def plan_trials(space: Space, trials: int | None, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many trials to run, and the values that the first of them take.

    Lists are combined, each with each (or as many of these as there are trials). The first trials of a range stand at equal
    ratios, since ten random rates leave gaps, and draw their other values; later ones Optuna chooses by those before them.
    The order is random: with rising rates each might beat those before it, and none would be pruned.
    """
    rates = space["learning_rate"]
    if isinstance(rates, tuple):
        trials = trials or FIRST
        evenly = np.geomspace(*rates, min(trials, FIRST)).tolist()
        plan = [{"learning_rate": min(max(float(f"{rate:.3g}"), rates[0]), rates[1])} for rate in evenly]
    else:
        plan = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
        trials = min(trials or len(plan), len(plan))
    random.Random(seed).shuffle(plan)
    return trials, plan[:trials]


def hash_texts(splits: TextSplits) -> str:
    """Return a hash of the texts and labels that a sweep reads."""
    rows = [splits[part][column][:] for part in ("train", "validation") for column in ("text", "label")]
    return xxhash.xxh3_128_hexdigest(repr((splits.label_names, rows)).encode())


def open_study(path: Path, plan: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> optuna.Study:
    """Open the study in a journal file, with the planned trials in line that have not been run, or were interrupted.

    Raises:
        RecipeError: the journal is that of another sweep (`about` tells, a JSON mapping), or damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with as_recipe_error(
        (ValueError, KeyError), f"{path} cannot be read", "pass --overwrite_output_dir to start again"
    ):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)
    about = json.loads(json.dumps(about))
    before = study.user_attrs.get("about", about)
    if changed := sorted(name for name in before.keys() | about.keys() if before.get(name) != about.get(name)):
        name = changed[0]
        raise RecipeError(
            f"{path.parent} holds an unfinished sweep with another {name} ({before.get(name)}, now {about.get(name)}):"
            " give its options and texts again, another folder, or --overwrite_output_dir"
        )
    study.set_user_attr("about", about)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    kept = study.get_trials(states=(*DONE, TrialState.WAITING))
    have = [trial.system_attrs.get("fixed_params") for trial in kept]
    for values in plan:
        if values not in have:
            study.enqueue_trial(values)
    return study
