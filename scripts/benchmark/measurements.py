"""The measurements of benchmark.py, one a process: `python measurements.py '{"measure": ...}'`."""

import json
import sys
from importlib import import_module
from typing import Any

MODULES = {
    "training": "training_times",
    "memory": "training_times",
    "sweep": "sweep_times",
    "inference": "inference_times",
    "floor": "floor",
}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement; its module alone is imported: only the sweep needs optuna."""
    name = job["measure"]
    return getattr(import_module(MODULES[name]), f"measure_{name}")(job)


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(json.loads(sys.argv[1]))))
