"""What is known of a tensor without having it: shape, dtype, and whether gradients flow through it.

Sizes are ints, or Python expressions over the names of symbolic sizes, such as ``"B"`` or ``"B*S"``.
Torch-free, so that plans and cost graphs can be read on a machine without torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, prod
from types import CodeType
from typing import Any

from autopipe.errors import ArgumentError

Size = int | str

DTYPE_BYTES: Mapping[str, float] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "quint8": 1,
    "qint8": 1,
    "qint32": 4,
    "quint4x2": 0.5,
}

_NAMES: dict[str, Any] = {name: getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")}
_NAMES |= {"math": math, "min": min, "max": max, "abs": abs, "pow": pow, "round": round}
_NAMES |= {"int": int, "float": float, "__builtins__": {}}


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "<size>", "eval")


def evaluate_size(size: Size, sizes: Mapping[str, int]) -> int:
    """Compute a size from the values of the symbolic sizes in it.

    Args:
        size: An int, or a Python expression over names.
        sizes: The value of each symbolic size.

    Returns:
        The size.

    Raises:
        ArgumentError: If the expression names a size that ``sizes`` lacks.

    Example:
        >>> evaluate_size("B*(S - 1)", {"B": 2, "S": 5})
        8
    """
    return size if isinstance(size, int) else int(_value_of(size, sizes))


def _value_of(expression: str, sizes: Mapping[str, int]) -> int | float:
    try:
        value: int | float = eval(_compiled(expression), _NAMES, dict(sizes))
    except NameError as error:
        raise ArgumentError(
            f"the size {expression!r} cannot be computed.",
            why=str(error),
            remedy=f"give it: sizes has {sorted(sizes)}",
        ) from error
    return value


class SizeExpression:
    """A number computed from symbolic sizes, as a function that an fx graph can call.

    Example:
        >>> SizeExpression("B*S")(B=2, S=8), SizeExpression("float(B)**0.5")(B=4)
        (16, 2.0)
    """

    def __init__(self, expression: str) -> None:
        """Take a Python expression over the names of symbolic sizes."""
        self.expression = expression
        self.__name__ = self.__qualname__ = "size_" + re.sub(r"\W+", "_", expression).strip("_")
        self.__module__ = __name__

    def __call__(self, **sizes: int) -> int | float:
        """Return its value."""
        return _value_of(self.expression, sizes)

    def __repr__(self) -> str:
        """Print the expression."""
        return f"SizeExpression({self.expression!r})"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape, dtype and gradient flag of a tensor.

    Args:
        shape: One entry a dimension: an int, or an expression over symbolic sizes.
        dtype: The name of the torch dtype without ``torch.``, such as ``"float32"``.
        requires_grad: Whether a gradient flows back through the tensor.

    Example:
        >>> spec = TensorSpec(("B", 16), "float32", requires_grad=True)
        >>> print(spec)
        f32[B, 16]
        >>> spec.nbytes({"B": 4})
        256
    """

    shape: tuple[Size, ...]
    dtype: str
    requires_grad: bool = False

    def verify(self) -> None:
        """Raise ArgumentError if the dtype is unknown or an int size is negative."""
        if self.dtype not in DTYPE_BYTES:
            raise ArgumentError(f"unknown dtype {self.dtype!r}.", remedy=f"one of {', '.join(DTYPE_BYTES)}")
        for dim, size in enumerate(self.shape):
            if isinstance(size, int) and size < 0:
                raise ArgumentError(f"size {size} of dimension {dim} is negative.", where=str(self))

    def concrete_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every symbolic size replaced by its value."""
        return tuple(evaluate_size(size, sizes) for size in self.shape)

    def n_elements(self, sizes: Mapping[str, int]) -> int:
        """Return the number of elements at the given sizes."""
        return prod(self.concrete_shape(sizes))

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes of the elements at the given sizes."""
        return ceil(self.n_elements(sizes) * DTYPE_BYTES.get(self.dtype, 4))

    @property
    def is_differentiable(self) -> bool:
        """Whether the dtype can carry a gradient at all."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    def __str__(self) -> str:
        """Print as ``f32[B, 16]``."""
        short = (
            self.dtype.replace("bfloat", "bf")
            .replace("float", "f")
            .replace("complex", "c")
            .replace("int", "i")
        )
        return f"{short}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` reads."""
        return {"shape": list(self.shape), "dtype": self.dtype, "requires_grad": self.requires_grad}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read what ``to_json`` wrote."""
        return cls(tuple(data["shape"]), data["dtype"], data["requires_grad"])
