"""cpu.yaml is launched by the `trained` fixture, multi_cpu.yaml by test_processes.py; here is what accelerate makes of all."""

import pytest
import torch
from accelerate.commands.config import load_config_from_file
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from conftest import ROOT, run

CONFIGS = {
    "cpu": (DistributedType.NO, 1, 1),
    "single_gpu": (DistributedType.NO, 1, 1),
    "multi_cpu": (DistributedType.MULTI_GPU, 2, 1),
    "multi_gpu": (DistributedType.MULTI_GPU, 2, 1),
    "multi_node": (DistributedType.MULTI_GPU, 8, 2),
    "fsdp": (DistributedType.FSDP, 2, 1),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 2, 1),
}
PROBE = "import os, torch; from accelerate import PartialState; print(PartialState().device.type, PartialState().num_processes)"


def path_of(name):
    return str(ROOT / "accelerate_configs" / f"{name}.yaml")


def test_each_file_is_known():
    assert {path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerates_own_class_takes_it(name):
    config = load_config_from_file(path_of(name))
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.num_processes, config.num_machines) == CONFIGS[name]
    assert config.use_cpu == name.endswith("cpu")
    assert config.mixed_precision == "no"


def test_the_launcher_starts_a_process_each_on_both_machines(monkeypatch):
    words = ["--config_file", path_of("multi_node"), "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "train.py"]
    args = launch_command_parser().parse_args(words)
    config = load_config_from_file(path_of("multi_node"))
    for name in ("num_processes", "num_machines", "main_process_port", "same_network"):
        setattr(args, name, getattr(config, name))
    args.mixed_precision, args.dynamo_backend = "no", "no"
    prepare_multi_gpu_env(args)
    assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("4", "2", 1)
    assert (args.master_addr, args.master_port) == ("10.0.0.1", "29500")


def test_fsdps_fields_are_the_plugins():
    fields = load_config_from_file(path_of("fsdp")).fsdp_config
    known = set(FullyShardedDataParallelPlugin.__dataclass_fields__)
    aliases = {
        "fsdp_offload_params": "cpu_offload",
        "fsdp_transformer_layer_cls_to_wrap": "transformer_cls_names_to_wrap",
    }
    assert {aliases.get(name, name.removeprefix("fsdp_")) for name in fields} - {"version"} <= known | {"fsdp_version"}


@pytest.mark.parametrize(
    ("name", "device"), [pytest.param("cpu", "cpu", marks=pytest.mark.slow), ("single_gpu", "cuda")]
)
def test_one_process_on_its_device(name, device, tmp_path):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    result = run("accelerate", "launch", "--config_file", path_of(name), script)
    assert result.stdout.split() == [device, "1"], result.stderr
