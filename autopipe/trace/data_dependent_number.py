"""What ``.item()`` of a tensor of ints gives during capture: a number that can only be compared.

``assert lengths.max().item() <= n`` is a check like ``assert (lengths.max() <= n)``, so the comparison is
made on the tensor, where it becomes part of the graph. Whatever else is done with the number has no single
graph. Functions of torch that take a number refuse it by the name of its class.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NoReturn

import torch

_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def is_whole_number(tensor: Any) -> bool:
    """Whether ``.item()`` of a tensor is an int, which compares with others as the tensor does.

    Args:
        tensor: What ``.item`` is called on.

    Example:
        >>> is_whole_number(torch.tensor(3)), is_whole_number(torch.tensor(3.0))
        (True, False)
    """
    return isinstance(tensor, torch.Tensor) and tensor.dtype in _DTYPES and tensor.numel() == 1


class DataDependentNumber:
    """An int whose value the capture does not know.

    Args:
        tensor: Holds it.
        error: What torch raised when asked for the value.

    Raises:
        Exception: ``error``, whatever is done with the number but to compare it with an int.
    """

    __slots__ = ("_error", "_tensor")

    def __init__(self, tensor: torch.Tensor, error: Exception) -> None:
        """Keep both."""
        self._tensor, self._error = tensor, error

    def refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise what torch raised."""
        raise self._error.with_traceback(None)

    def _is(self, compare: Callable[[Any, Any], Any], other: Any) -> bool:
        if type(other) is not int and not isinstance(other, torch.SymInt):
            self.refuse()
        return bool(compare(self._tensor, other))

    def __lt__(self, other: Any) -> bool:
        return self._is(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._is(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._is(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._is(operator.ge, other)

    def __eq__(self, other: object) -> bool:
        return self._is(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._is(operator.ne, other)

    def __bool__(self) -> bool:
        return self._is(operator.ne, 0)

    __hash__ = refuse
    __int__ = __index__ = __float__ = __complex__ = __round__ = __trunc__ = __floor__ = __ceil__ = refuse
    __neg__ = __pos__ = __abs__ = __invert__ = refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __divmod__ = __pow__ = refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rdivmod__ = refuse
    __rpow__ = __lshift__ = __rshift__ = __and__ = __or__ = __xor__ = refuse
    __rlshift__ = __rrshift__ = __rand__ = __ror__ = __rxor__ = refuse
    __repr__ = __str__ = __format__ = __reduce_ex__ = refuse
