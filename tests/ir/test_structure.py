"""Taking the tensors out of any value, and putting others in."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from autopipe.errors import ArgumentError
from autopipe.ir.structure import Structure, map_tensors, tensors_in

X, Y = torch.ones(2), torch.zeros(3)
Pair = namedtuple("Pair", ["first", "second"])


@dataclasses.dataclass
class Holder:
    """Holds tensors anywhere."""

    one: torch.Tensor
    rest: dict[str, Any]


class Linked:
    """Holds a tensor twice, and itself."""

    def __init__(self) -> None:
        self.first = self.second = X
        self.me = self


class Unkeyed(OrderedDict[str, Any]):
    """An output that is registered without keys, as those of diffusers are."""


class Triple(tuple[Any, ...]):
    """A sequence that is registered without keys."""


pytree.register_pytree_node(
    Unkeyed, lambda value: (list(value.values()), list(value)), lambda v, k: Unkeyed(zip(k, v, strict=True))
)
pytree.register_pytree_node(Triple, lambda value: (list(value), None), lambda values, _: Triple(values))


VALUES = {
    "tensor": (X, [X]),
    "none": (None, []),
    "nested": ({"a": [X, (Y, 3)], "b": None}, [X, Y]),
    "named tuple": (Pair(X, {"y": Y}), [X, Y]),
    "ordered dict": (OrderedDict(a=X, b=Y), [X, Y]),
    "dataclass": (Holder(X, {"y": [Y, "text"]}), [X, Y]),
    "registered without keys": (Unkeyed(a=[X], b=Unkeyed(c=Y), d=3), [X, Y]),
    "in a list": ([Holder(X, {}), Holder(Y, {})], [X, Y]),
}


@pytest.mark.parametrize(("value", "tensors"), VALUES.values(), ids=VALUES.keys())
def test_tensors_come_out_in_order_and_go_in_again(value: Any, tensors: list[torch.Tensor]) -> None:
    structure, holes = Structure.of(value)
    assert [id(hole) for hole in holes] == [id(tensor) for tensor in tensors]
    assert [id(tensor) for tensor in tensors_in(value)] == [id(tensor) for tensor in tensors]
    assert structure.n_holes == len(structure.paths) == len(tensors)
    others = [tensor + 1 for tensor in tensors]
    filled = structure.fill(others)
    assert type(filled) is type(value)
    again, holes = Structure.of(filled)
    assert again == structure
    assert [id(hole) for hole in holes] == [id(other) for other in others]


def test_paths_are_as_a_user_would_write_them() -> None:
    value = {"pair": Pair(X, [Y]), "out": Unkeyed(sample=X, rest=Triple([3, Y]))}
    structure, holes = Structure.of(value)
    assert structure.paths == (
        "['pair'].first",
        "['pair'].second[0]",
        "['out']['sample']",
        "['out']['rest'][1]",
    )
    assert [id(hole) for hole in holes] == [id(X), id(Y), id(X), id(Y)]


def test_plain_values_are_part_of_the_structure() -> None:
    assert Structure.of((X, 1))[0] != Structure.of((X, 2))[0]
    assert Structure.of((X, 1))[0] == Structure.of((Y, 1))[0]
    assert Structure.of(Holder(X, {"n": 1}))[0] != Structure.of(Holder(X, {"n": 2}))[0]


def test_identity_inside_an_object_is_kept() -> None:
    structure, holes = Structure.of(Linked())
    assert len(holes) == 1
    filled = structure.fill([Y])
    assert filled.first is Y
    assert filled.second is Y
    assert filled.me is filled


def test_modules_and_functions_keep_their_identity() -> None:
    module = torch.nn.Linear(2, 2)
    filled = Structure.of(Holder(X, {"module": module, "function": torch.relu}))[0].fill([Y])
    assert filled.rest["module"] is module
    assert filled.rest["function"] is torch.relu


def test_what_does_not_pickle_is_explained() -> None:
    with pytest.raises(ArgumentError, match=r"cannot look for tensors inside .*a generator"):
        Structure.of([X, (tensor for tensor in [X])])


def test_map_tensors_changes_every_tensor() -> None:
    mapped = map_tensors(lambda tensor: tensor + 1, {"a": X, "b": Holder(Y, {})})
    assert mapped["a"].sum() == 4
    assert mapped["b"].one.sum() == 3


def test_a_storage_is_looked_at_and_never_into() -> None:
    with FakeTensorMode():
        storage = torch.empty(3).untyped_storage()
    assert tensors_in({"storage": storage}) == []
    structure, holes = Structure.of([storage, X])
    assert holes == [X]
    assert structure.fill([X])[0] is storage
