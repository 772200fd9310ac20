"""Several processes of one run: launch checks, decisions of the main process, shares; a single one passes through."""

import logging
import os
import pickle
import platform
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import nn

from recipe.errors import RecipeError, first_line, printable
from recipe.shipped import as_typed

logger = logging.getLogger(__name__)

MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # what MPI's own launchers set


def check_launch(use_cpu: bool) -> None:
    """Raise RecipeError for a launch of which accelerate would make something else than was asked for, before any process waits."""
    environment = os.environ
    alone = "RANK" not in environment or "LOCAL_RANK" not in environment
    if alone and (asked_for := int(environment.get("WORLD_SIZE", 1))) > 1:
        fix = "start it with `accelerate launch --config_file accelerate_configs/multi_cpu.yaml` (or multi_gpu.yaml)"
        raise RecipeError(f"WORLD_SIZE is {asked_for}, but RANK and LOCAL_RANK are not set: {fix}")
    # For several processes `accelerate launch` names an address to meet at; without MPI it may start one all the same.
    launched = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if launched and alone and not {"WORLD_SIZE", *MPI_SIZES} & environment.keys():
        fix = "take accelerate_configs/multi_cpu.yaml, or set num_processes to 1"
        was = "accelerate was asked for several processes but started one, as its MULTI_CPU does without mpirun"
        raise RecipeError(f"{was}: {fix}")
    for plugin in ("FSDP", "DeepSpeed"):
        if use_cpu and environment.get(f"ACCELERATE_USE_{plugin.upper()}", "").lower() == "true":
            raise RecipeError(f"{plugin} needs GPUs, and none is used: take accelerate_configs/multi_cpu.yaml")
    processes, devices = int(environment.get("LOCAL_WORLD_SIZE", 1)), torch.accelerator.device_count()
    if not use_cpu and processes > devices:
        raise RecipeError(f"{processes} processes were started for {devices} GPUs: set num_processes to {devices}")


def check_sharding(state: AcceleratorState, model: nn.Module) -> None:
    """Raise RecipeError for ways of dividing the model that are not known to give the same results."""
    fsdp, deepspeed = getattr(state, "fsdp_plugin", None), getattr(state, "deepspeed_plugin", None)
    if fsdp is not None and fsdp.fsdp_version != 2:
        raise RecipeError("FSDP 1 is not supported: set fsdp_version to 2, as accelerate_configs/fsdp.yaml does")
    if fsdp is not None and hasattr(model, "merge_and_unload"):
        raise RecipeError("FSDP cannot put adapters back into the model: take accelerate_configs/multi_gpu.yaml")
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise RecipeError("ZeRO stage 3 is not supported: take accelerate_configs/deepspeed_zero2.yaml, or fsdp.yaml")


def check_world_size(in_use: int) -> None:
    """Raise RecipeError when the processes that work together are not as many as were launched."""
    if in_use != (asked := int(os.environ.get("WORLD_SIZE", 1))):
        raise RecipeError(f"{asked} processes were launched, but {in_use} work together: check the launcher's config")


def on_main_process(function: Callable[..., Any], *args: Any) -> Any:
    """Return in every process what `function` returns in the main one; an error there ends all of them."""
    value = in_every_process(lambda: function(*args) if PartialState().is_main_process else None)
    return broadcast_object_list([value])[0]


def in_every_process(work: Callable[..., Any], *args: Any) -> Any:
    """Return what `work` returns in this process, once all processes are done; an error in one of them ends all."""
    state = PartialState()
    if state.num_processes == 1:
        return work(*args)
    value, error = None, None
    try:
        value = work(*args)
    except Exception as caught:
        error = caught
    failed = gather_object([error and f"process {state.process_index}: {first_line(error)}"])
    if any(failed):
        raise error or RecipeError(f"another process stopped: {next(filter(None, failed))}")
    return value


def once_a_machine(work: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Return what `work` returns in the first process of each machine, in all its processes; an error there ends all.

    All processes have to call it, and wait for that one (up to `ddp_timeout`); not within `main_process_first`, which holds
    all others back. A dataset that lies in files is handed over by their names, and each process maps them.
    """
    if not torch.distributed.is_initialized():
        return work(*args, **keywords)

    def first() -> tuple[Any, bytes]:
        result = work(*args, **keywords)
        return result, pickle.dumps(result)

    is_first, machine = PartialState().is_local_main_process, (os.environ.get("GROUP_RANK"), platform.node())
    result, sent = in_every_process(lambda: first() if is_first else (None, b""))
    # As bytes until here: files of another machine cannot be opened on this one.
    mine = next(data for name, data in gather_object([(machine, sent)]) if name == machine and data)
    # Every process waits here until all have mapped the files, which go when the first one's dataset does.
    return in_every_process(lambda: result if is_first else pickle.loads(mine))


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process; every process has to call this."""
    state = PartialState()
    return bool(reduce(torch.tensor(float(flag), device=state.device)).item()) if state.num_processes > 1 else flag


def setup_logging(is_main_process: bool) -> None:
    """Show the recipe's own messages, plain, and progress bars: in the main process alone."""
    if not is_main_process:
        import datasets
        from transformers.utils import logging as transformers_logging

        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
    handler = logging.StreamHandler()
    handler.format = lambda record: as_typed(printable(record.getMessage()))
    package = logging.getLogger("recipe")
    package.handlers, package.propagate = [handler], False
    package.setLevel(logging.INFO if is_main_process else logging.ERROR)
