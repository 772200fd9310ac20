"""Results of many short trainings, kept in a file: an interrupted experiment goes on with those that are missing."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

logger = logging.getLogger(__name__)


class Results:
    """Results by case, in a file of JSON lines that is removed when the experiment is complete.

    A line holds the result under a hash of all that it depends on: results of other options or texts stay unused.
    """

    def __init__(self, path: Path, *depends_on: Any):
        """Read what an earlier run has left.

        Args:
            path: of the file, which need not exist.
            depends_on: what the results of all cases depend on, as JSON can hold it: options, texts, labels.
        """
        self.path, self.common = path, hash_of(depends_on)
        self.found: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a kill has cut short
                kept = json.loads(line)
                self.found[kept["case"]] = kept["result"]
        if self.found:
            logger.info(
                "%s: %d results of an earlier run, used where options and texts are the same", path, len(self.found)
            )

    def of(self, case: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a case: an earlier run's, or what `measure` returns, which is then kept."""
        key = hash_of((self.common, case))
        if key not in self.found:
            self.found[key] = measure()
            with self.path.open("a", encoding="utf-8") as file:  # on a new line, whatever a kill has left
                file.write("\n" + json.dumps({"case": key, **case, "result": self.found[key]}))
        return self.found[key]

    def remove(self) -> None:
        """Remove the file, once the results are saved elsewhere."""
        self.path.unlink(missing_ok=True)


def unfinished(output_file: Path) -> Path:
    """Return the path of an experiment's results until its output file is written."""
    return output_file.with_name(f"{output_file.name}.unfinished")


def hash_of(content: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, default=str).encode())
