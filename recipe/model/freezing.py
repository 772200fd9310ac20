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
class ModuleCount:
    """A row of the report: a module and how many of its parameters train."""

    name: str
    parameters: int
    trainable: int

    @property
    def status(self) -> str:
        if self.trainable == self.parameters:
            return "trainable"
        return "partly trainable" if self.trainable else "frozen"


@dataclass(frozen=True)
class FreezeReport:
    """The filter's result: trainable parameters module by module, and the totals (numbers of parameters)."""

    modules: list[ModuleCount]

    @property
    def trainable(self) -> int:
        return sum(module.trainable for module in self.modules)

    @property
    def total(self) -> int:
        return sum(module.parameters for module in self.modules)

    def __str__(self) -> str:
        rows = [(m.name, f"{m.parameters:,}", m.status) for m in self.modules]
        rows.append(("total", f"{self.total:,}", ""))
        rows.append(("trainable", f"{self.trainable:,}", f"{self.trainable / self.total:.2%} of all"))
        width = max(len(name) for name, _, _ in rows)
        header = f"{'module':<{width}}  {'parameters':>13}  state"
        lines = [f"{name:<{width}}  {count:>13}  {state}".rstrip() for name, count, state in rows]
        rule = "-" * len(header)
        return "\n".join([header, rule, *lines[:-2], rule, *lines[-2:]])


def last_blocks(config: GPT2Config, k: int) -> list[str]:
    """Return globs for the last `k` blocks, the final norm and the head, for any GPT-2 size (k = 1 is the recipe)."""
    if not 0 <= k <= config.n_layer:
        raise RecipeError(
            f"last_blocks: k is {k}, but the model has {config.n_layer} blocks: take 0 to {config.n_layer}"
        )
    blocks = [f"transformer.h.{i}.*" for i in range(config.n_layer - k, config.n_layer)]
    return [*blocks, "transformer.ln_f.*", "score.*"]


def trainable_patterns(config: GPT2Config, names: Iterable[str]) -> list[str]:
    """Return globs, with `all`, `head` and `last_blocks:K` spelled out."""
    patterns: list[str] = []
    for name in names:
        if name == "all":
            patterns.append("*")
        elif name == "head":
            patterns.append("score.*")
        elif name.startswith(LAST_BLOCKS):
            count = name.removeprefix(LAST_BLOCKS)
            if not count.isdecimal():
                raise RecipeError(
                    f"trainable: {name!r} is not last_blocks:K with a whole number K, as in last_blocks:2"
                )
            patterns += last_blocks(config, int(count))
        else:
            patterns.append(name)
    return patterns


def freeze_except(model: nn.Module, patterns: Iterable[str]) -> FreezeReport:
    """Leave trainable only the parameters whose dotted name matches one of the globs.

    Args:
        model: any module; its `requires_grad` flags are set in place.
        patterns: globs as in `fnmatch` over names like `transformer.h.11.attn.c_attn.weight` (`*` crosses dots).

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
    head = getattr(model, "score", None)
    if getattr(model, "head_is_fresh", False) and not any(p.requires_grad for p in head.parameters()):
        logger.warning("the head is fresh, so random, and stays so: no pattern of `trainable` matches its weights")
    return count_parameters(model)


def count_parameters(model: nn.Module) -> FreezeReport:
    """Count parameters by module: each block, embedding, norm and head is a row."""
    parameters: dict[str, int] = {}
    trainable: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        module = module_of(name)
        parameters[module] = parameters.get(module, 0) + parameter.numel()
        trainable[module] = trainable.get(module, 0) + parameter.numel() * parameter.requires_grad
    return FreezeReport([ModuleCount(name, count, trainable[name]) for name, count in parameters.items()])


def module_of(parameter_name: str) -> str:
    """Return the module of a parameter: `transformer.h.11.attn.c_attn.weight` -> `transformer.h.11`; `score.bias` -> `score`."""
    parts = parameter_name.split(".")
    if "h" in parts[:-1]:
        return ".".join(parts[: parts.index("h") + 2])
    return ".".join(parts[:-1])


def describe_modules(names: list[str]) -> str:
    """List the modules of a model, blocks as a range: `transformer.wte, transformer.h.0 to transformer.h.11, ...`."""
    modules = list(dict.fromkeys(module_of(name) for name in names))
    blocks = [module for module in modules if module.rpartition(".")[2].isdecimal()]
    if not blocks:
        return ", ".join(modules)
    first = modules.index(blocks[0])
    others = [module for module in modules if module not in blocks]
    return ", ".join([*others[:first], f"{blocks[0]} to {blocks[-1]}", *others[first:]])
