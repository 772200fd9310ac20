"""cpu.yaml is launched by the `trained` fixture; here is what the launcher makes of each file."""

import pytest
import torch
from conftest import ROOT, run

PROBE = "import os, torch; from accelerate import PartialState; print(PartialState().device.type, PartialState().num_processes)"


@pytest.mark.parametrize(("name", "device"), [("cpu", "cpu"), ("single_gpu", "cuda")])
def test_one_process_on_its_device(name, device, tmp_path):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    result = run("accelerate", "launch", "--config_file", ROOT / "accelerate_configs" / f"{name}.yaml", script)
    assert result.stdout.split() == [device, "1"], result.stderr


def test_the_gpu_file_loads_where_there_is_no_gpu():
    code = "from accelerate.commands.config import load_config_from_file as load; c = load('accelerate_configs/single_gpu.yaml'); print(c.num_processes, c.use_cpu)"
    assert run("python", "-c", code).stdout.split() == ["1", "False"]
