"""Callbacks: SIGTERM saves before it stops a training, early stopping survives a resume, every epoch logs its loss."""

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from recipe.distributed import any_process

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
EXIT_CODE = 128 + signal.SIGTERM  # the shell's exit code after SIGTERM


class LogEveryEpoch(TrainerCallback):
    """Bound logging_steps by an epoch's steps: the training loss of a few hundred texts might never be logged."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        state.logging_steps = min(state.logging_steps, max(1, state.max_steps // state.num_train_epochs))


class StopOnSigterm(TrainerCallback):
    """After SIGTERM the current step is finished and saved, and the program exits with code 143.

    More of them change nothing: often a complete process group is signalled, and then the launcher passes on what its
    child has got already. After the last step little remains, and the run is finished.
    """

    def __init__(self) -> None:
        self.requested = self.stopping = self.stepping = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGTERM inside the block; outside of the main thread, where Python allows no handler, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self.on_signal)
        end_with_the_launcher()
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.stepping = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self.stepping = True

    def on_signal(self, signum: int, frame: object) -> None:
        if not self.stepping:  # while the trunk runs there is nothing to save: its rows are on disk
            sys.exit(EXIT_CODE)
        if not self.requested:
            os.write(2, b"\nSIGTERM: stopping after this step\n")  # a logger's lock may be held right now
        self.requested = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        self.stopping = any_process(self.requested)
        # At an epoch's end its validation comes first, or the resumed run would never do it.
        if self.stopping and not float(state.epoch).is_integer() and state.global_step < state.max_steps:
            self.save_now(args, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        if self.stopping:
            self.save_now(args, control)

    def save_now(self, args: TrainingArguments, control: TrainerControl) -> None:
        """Have Trainer save, also where `save_strategy: best` would ask the metric whether to."""
        args.save_strategy, control.should_save = SaveStrategy.STEPS, True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        if self.stopping:
            logger.warning("SIGTERM: saved at step %d; the same command resumes from there", state.global_step)
            sys.exit(EXIT_CODE)


class EarlyStopping(EarlyStoppingCallback):
    """As in transformers, but a run that resumes from where patience had ended stays ended."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        super().on_train_begin(args, state, control, **more)
        if state.global_step == 0:  # another training of the same trainer
            self.early_stopping_patience_counter = 0
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


def end_with_the_launcher() -> None:
    """Have Linux send SIGTERM when the launcher dies: of SIGTERM it does not always pass on, or of SIGKILL."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def callbacks_for(args: TrainingArguments) -> list[TrainerCallback]:
    """Return the callbacks that a run's options ask for."""
    patience = args.early_stopping_patience
    return [LogEveryEpoch(), *([EarlyStopping(patience)] if patience else [])]
