"""A checkpoint of transformers under other names than the model's: transformers' own rules are applied.

Its models change and their published checkpoints do not. So there are rules that rename, and rules that
make parameters of several tensors, or several of one::

    on disk                                            in the model
    model.layers.0.block_sparse_moe.experts.0.w1 ─┐
    model.layers.0.block_sparse_moe.experts.1.w1 ─┼─►  model.layers.0.mlp.experts.gate_up_proj
    model.layers.0.block_sparse_moe.experts.0.w3 ─┤
    model.layers.0.block_sparse_moe.experts.1.w3 ─┘

Here they are followed for the tensors of a stage alone. What is only stacked and laid side by side, as the
experts are, is read straight into its place; anything else is converted apart, one parameter at a time.

Rules: transformers/core_model_loading.py, ``convert_and_load_state_dict_in_model``, of transformers 5.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.weights.checkpoint import Stored


@dataclass(slots=True)
class Group:
    """Tensors of a checkpoint that one rule makes parameters of.

    Args:
        model: The model, which rules ask for its configuration.
        rule: A ``WeightConverter`` of transformers.
        name: The name of the first parameter.
        sources: The tensors in order, each with the pattern of the rule that its name fits.
    """

    model: nn.Module
    rule: Any
    name: str
    sources: list[tuple[str, Stored]] = field(default_factory=list)

    def made_of(self, value_of: Callable[[Stored], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the rule makes of some values, by FQN.

        Raises:
            ArgumentError: If it cannot.
        """
        rule = deepcopy(self.rule)
        for pattern, stored in self.sources:
            rule.add_tensor(self.name, stored.name, pattern, value_of(stored))
        try:
            made = rule.convert(self.name, model=self.model, config=getattr(self.model, "config", None))
        except Exception as error:
            first = self.sources[0][1]
            raise ArgumentError(
                f"{self.name} cannot be made of {first.name} and {len(self.sources) - 1} other tensors.",
                str(first.file),
                why=f"{type(error).__name__}: {error}",
                remedy="build the model from the configuration that lies beside the checkpoint.",
            ) from error
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True, slots=True)
class Converted:
    """A parameter that a rule makes of tensors in files; to be used as ``Stored`` is.

    Args:
        group: What it is made of.
        fqn: Which of what the rule makes.
        shape: Its shape.
    """

    group: Group
    fqn: str
    shape: tuple[int, ...]

    def check(self, fqn: str, tensor: torch.Tensor) -> None:
        """Raise as ``Stored.check`` does."""
        for _, stored in self.group.sources:
            stored.check_dtype(fqn, tensor)
        if self.shape != tuple(tensor.shape):
            first = self.group.sources[0][1]
            raise ArgumentError(
                f"{fqn} has the shape {list(tensor.shape)}, "
                f"what transformers makes of the checkpoint's has {list(self.shape)}.",
                f"{first.name} and {len(self.group.sources) - 1} other tensors in {first.file}",
                remedy="build the model from the configuration that lies beside the checkpoint.",
            )

    def read_into(self, tensor: torch.Tensor) -> None:
        """Give the parameter its values: in place where that can be, else by a copy of what it is made of."""
        places = list(self._places(tensor))
        if len(places) == len(self.group.sources) and all(
            stored.shape == tuple(place.shape) for stored, place in places
        ):
            for stored, place in places:
                stored.read_into(place)
        else:
            tensor.copy_(self.group.made_of(Stored.read)[self.fqn])

    def _places(self, tensor: torch.Tensor) -> Iterator[tuple[Stored, torch.Tensor]]:
        """Yield each source with the part of the parameter that it becomes; nothing if that is not known."""
        rule = self.group.rule
        lists = [[s for own, s in self.group.sources if own == pattern] for pattern in rule.source_patterns]
        lists = [each for each in lists if each]
        match [(type(operation).__name__, operation) for operation in rule.operations]:
            case [("MergeModulelist", merge)] if len(lists) == 1:
                yield from zip(lists[0], tensor.unbind(merge.dim), strict=False)
            case [("Concatenate", beside)]:
                stored = [each for one in lists for each in one]
                sizes = [each.shape[beside.dim] for each in stored]
                yield from zip(stored, torch.split(tensor, sizes, beside.dim), strict=True)
            case [("MergeModulelist", merge), ("Concatenate", beside)] if 0 == merge.dim < beside.dim:
                sizes = [each[0].shape[beside.dim - 1] for each in lists]
                for each, part in zip(lists, torch.split(tensor, sizes, beside.dim), strict=True):
                    yield from zip(each, part.unbind(merge.dim), strict=False)


def by_transformers_rules(model: nn.Module, there: Mapping[str, Stored]) -> dict[str, Stored | Converted]:
    """Return where the parameters of a model of transformers lie in a checkpoint.

    Args:
        model: Any model; for one that is none of transformers nothing is returned.
        there: What the checkpoint holds, by name.

    Returns:
        FQN -> tensor in a file, or what makes it of several.

    Raises:
        ArgumentError: If a rule does not fit the shapes of what it takes.

    Complexity: names of the checkpoint times rules of the architecture.
    """
    rules = _rules(model)
    if rules is None:
        return {}
    from transformers.core_model_loading import WeightConverter, dot_natural_key

    renaming = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    making = [rule for rule in rules if isinstance(rule, WeightConverter)]
    rule_of = {pattern: rule for rule in making for pattern in rule.source_patterns}
    state = model.state_dict()
    found: dict[str, Stored | Converted] = {}
    groups: dict[str, Group] = {}
    for name in sorted(there, key=dot_natural_key):
        fqn, pattern = _renamed(name, model, state, renaming, making)
        if fqn in state and pattern is None:
            found[fqn] = there[name]
        elif fqn in state and pattern is not None:
            group = groups.setdefault(fqn, Group(model, rule_of[pattern], fqn))
            group.sources.append((pattern, there[name]))
    for group in groups.values():
        for fqn, value in group.made_of(Stored.without_values).items():
            found[fqn] = Converted(group, fqn, tuple(value.shape))
    return found


def _rules(model: nn.Module) -> Sequence[Any] | None:
    """Return the rules for a model, or None if it is none of transformers, or of one without rules."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return None
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:
        return None
    return get_model_conversion_mapping(model)


def _renamed(
    name: str, model: nn.Module, state: dict[str, Any], renaming: list[Any], making: list[Any]
) -> tuple[str, str | None]:
    """Return the FQN that a name stands for, and the pattern of the rule that makes it of more than one."""
    from transformers.core_model_loading import rename_source_key

    prefix = str(getattr(model, "base_model_prefix", ""))
    fqn, pattern = rename_source_key(name, renaming, making, prefix, state)
    if fqn not in state and name in state:
        return rename_source_key(name, [], [], prefix, state)
    return fqn, pattern
