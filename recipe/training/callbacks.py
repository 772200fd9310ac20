"""Stopping a training without losing it: SIGTERM saves first."""

import ctypes
import logging
import os
import signal
import sys
import threading
import time

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from recipe.distributed import any_process

logger = logging.getLogger(__name__)

SAME_SIGNAL = 5  # seconds within which two signals are one
PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
EXIT_CODE = 128 + signal.SIGTERM  # what a shell reports of a program that SIGTERM ended


def end_with_the_launcher() -> None:
    """`accelerate launch` of one process does not pass SIGTERM on; the kernel can send one when the launcher dies of it."""
    launched_alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "RANK" not in os.environ
    if launched_alone and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class StopOnSigterm(TrainerCallback):
    """After SIGTERM the step under way is finished and saved, and the program ends with exit code 143.

    A second SIGTERM ends it at once, unless it comes with the first: a whole process group is often signalled, and then
    the launcher passes on what its child has got already. After the last step there is little left, and the run is finished.
    """

    def __init__(self) -> None:
        self.asked = self.stopping = False
        self.asked_at = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if threading.current_thread() is threading.main_thread():
            self.handler_before = signal.signal(signal.SIGTERM, self.on_signal)
        end_with_the_launcher()

    def on_signal(self, signum: int, frame: object) -> None:
        if self.asked:
            if time.monotonic() - self.asked_at > SAME_SIGNAL:
                sys.exit(EXIT_CODE)
            return
        self.asked, self.asked_at = True, time.monotonic()
        os.write(2, b"\nSIGTERM: stopping after this step\n")  # a logger's lock may be held right now

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.stopping = any_process(self.asked)
        # At an epoch's end its validation comes first, or the run that goes on would never do it.
        if self.stopping and not float(state.epoch).is_integer() and state.global_step < state.max_steps:
            control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stopping:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stopping:
            logger.warning("SIGTERM: saved at step %d; the same command goes on from there", state.global_step)
            sys.exit(EXIT_CODE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler_before)


class EarlyStopping(EarlyStoppingCallback):
    """As in transformers, but a run that goes on from where patience had ended stays ended."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
