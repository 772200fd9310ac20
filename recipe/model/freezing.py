"""The parameter-name filter: globs over dotted names choose which parameters train."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from transformers import GPT2Config

from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

LAST_BLOCKS = "last_blocks:"  # "last_blocks:2" in a YAML file or on a command line


@dataclass(frozen=True)
class FreezeReport:
    """The filter's result: (parameters, trainable ones) of each block, embedding, norm and head, and the totals."""

    modules: dict[str, tuple[int, int]]

    @property
    def total(self) -> int:
        return sum(parameters for parameters, _ in self.modules.values())

    @property
    def trainable(self) -> int:
        return sum(trainable for _, trainable in self.modules.values())

    def __str__(self) -> str:
        width = max(map(len, self.modules))
        header = f"{'module':<{width}}  {'parameters':>13}  state"
        rows = [
            f"{name:<{width}}  {count:>13,}  "
            + ("trainable" if trainable == count else "partly trainable" if trainable else "frozen")
            for name, (count, trainable) in self.modules.items()
        ]
        total = f"{'total':<{width}}  {self.total:>13,}"
        trainable = f"{'trainable':<{width}}  {self.trainable:>13,}  {self.trainable / self.total:.2%} of all"
        rule = "-" * len(header)
        return "\n".join([header, rule, *rows, rule, total, trainable])


def last_blocks(config: GPT2Config, k: int) -> list[str]:
    """Return globs for the last `k` blocks, the final norm and the head, for any GPT-2 size (k = 1 is the recipe)."""
    n_layer = config.n_layer
    if not 0 <= k <= n_layer:
        raise RecipeError(f"last_blocks: k is {k}, but the model has {n_layer} blocks: take 0 to {n_layer}")
    return [*(f"transformer.h.{i}.*" for i in range(n_layer - k, n_layer)), "transformer.ln_f.*", "score.*"]


def trainable_patterns(config: GPT2Config, names: Iterable[str]) -> list[str]:
    """Return globs, with `all`, `head` and `last_blocks:K` spelled out."""
    patterns: list[str] = []
    for name in names:
        if name.startswith(LAST_BLOCKS):
            count = name.removeprefix(LAST_BLOCKS)
            if not count.isdecimal():
                raise RecipeError(f"trainable: {name!r} is not last_blocks:K with a number K, as in last_blocks:2")
            patterns += last_blocks(config, int(count))
        else:
            patterns.append({"all": "*", "head": "score.*"}.get(name, name))
    return patterns


def freeze_except(model: nn.Module, patterns: Iterable[str]) -> FreezeReport:
    """Leave trainable only the parameters whose dotted name, as `transformer.h.11.attn.c_attn.weight`, matches one of the globs.

    Globs are as in `fnmatch` (`*` crosses dots). The model may be any module; its `requires_grad` flags are set in place.

    Raises:
        RecipeError (a ValueError): no pattern at all, or a pattern that matches no parameter.
    """
    patterns = list(patterns)
    names = [name for name, _ in model.named_parameters()]
    if not patterns:
        raise RecipeError("trainable: no pattern, so nothing would train: give globs such as 'score.*'")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(
                f"trainable: {pattern!r} matches no parameter; the model has {describe_modules(names)}"
                " (globs over full names, as in 'transformer.h.0.*', 'score.*')"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
    if getattr(model, "head_is_fresh", False) and not any(p.requires_grad for p in model.score.parameters()):
        logger.warning("the head is fresh, so random, and stays so: no pattern of `trainable` matches its weights")
    return report_on(model.named_parameters())


def report_on(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> FreezeReport:
    """Return what trains, by module, as the parameters' flags say."""
    modules: dict[str, tuple[int, int]] = {}
    for name, parameter in named_parameters:
        count, trainable = modules.get(module := module_of(name), (0, 0))
        modules[module] = count + parameter.numel(), trainable + parameter.numel() * parameter.requires_grad
    return FreezeReport(modules)


def module_of(parameter_name: str) -> str:
    """Return the module of a parameter: `transformer.h.11.attn.c_attn.weight` -> `transformer.h.11`; `score.bias` -> `score`."""
    parts = parameter_name.split(".")
    return ".".join(parts[: parts.index("h") + 2] if "h" in parts[:-1] else parts[:-1])


def describe_modules(names: list[str]) -> str:
    """List the modules of a model, blocks as a range: `transformer.wte, transformer.h.0 to transformer.h.11, ...`."""
    modules = list(dict.fromkeys(map(module_of, names)))
    blocks = [module for module in modules if module.rpartition(".")[2].isdecimal()]
    if blocks:
        start = modules.index(blocks[0])
        modules[start : start + len(blocks)] = [f"{blocks[0]} to {blocks[-1]}"]
    return ", ".join(modules)
