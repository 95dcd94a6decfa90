"""What a recurrent layer of oneDNN does, and what its kernel keeps for the backward.

The kept workspace is one tensor of bytes that fake tensors show empty. It is laid out by the library itself
(https://github.com/uxlfoundation/oneDNN, src/cpu/rnn/rnn_utils.hpp ``set_conf``, rnn_utils.cpp
``set_offsets``), with T time steps, B samples, I features in and H units::

    gates            [T,          B, ld(4 H)]   in the dtype of the layer
    hidden           [T,          B, ld(H)]
    states           [2 (T + 1),  B, ld(max(I, H))]
    cells            [2 (T + 1),  B, H]
    d states, twice  [2 (T + 1),  B, ld(max(I, H))]   float32
    d cells          [2 (T + 1),  B, H]               float32

Each starts on a page of its own; ld rounds a row up to 64 bytes, and one step further where rows would lie
a multiple of 256 elements apart.
"""

from __future__ import annotations

from math import prod
from typing import Any

_PAGE_BYTES = 4096
_LINE_BYTES = 64
_ALIASING = 256
_ACCUMULATOR_BYTES = 4


def recurrent_layer_flops(x: Any, w_input: Any, w_hidden: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of ``aten.mkldnn_rnn_layer``: two matrix products a time step.

    Args:
        x: `[time, batch, features]`.
        w_input: `[4 x hidden, features]`.
        w_hidden: `[4 x hidden, hidden]`.

    Returns:
        FLOPs, a multiply-add being two.
    """
    return int(2 * prod(x.shape[:-1]) * (w_input.numel() + w_hidden.numel()))


def recurrent_layer_backward_flops(*args: Any, **kwargs: Any) -> int:
    """Return the FLOPs of the backward: each product of the forward has two."""
    return 2 * recurrent_layer_flops(*args, **kwargs)


def recurrent_workspace_bytes(args: tuple[Any, ...]) -> int:
    """Return the bytes that an LSTM layer keeps beyond its arguments and outputs.

    Args:
        args: Those of ``aten.mkldnn_rnn_layer``.

    Returns:
        Bytes; 0 in inference.

    Example:
        >>> import torch
        >>> x = torch.empty(24, 4, 64, device="meta")
        >>> recurrent_workspace_bytes((x, *[None] * 9, 64, *[None] * 4, True))
        397312
    """
    x, hidden, keeps = args[0], args[10], args[15]
    if not keeps:
        return 0
    n_steps, n_samples, features = x.shape
    size, wide = x.element_size(), max(features, hidden)
    edges = 2 * (n_steps + 1)
    rows_and_row_bytes = (
        (n_steps, _row_bytes(4 * hidden, size)),
        (n_steps, _row_bytes(hidden, size)),
        (edges, _row_bytes(wide, size)),
        (edges, hidden * size),
        (edges, _row_bytes(wide, _ACCUMULATOR_BYTES)),
        (edges, _row_bytes(wide, _ACCUMULATOR_BYTES)),
        (edges, hidden * _ACCUMULATOR_BYTES),
    )
    return sum(_rounded_up(rows * n_samples * nbytes, _PAGE_BYTES) for rows, nbytes in rows_and_row_bytes)


def _row_bytes(n_elements: int, element_bytes: int) -> int:
    line = _LINE_BYTES // element_bytes
    padded = _rounded_up(n_elements, line)
    return (padded + line if padded % _ALIASING == 0 else padded) * element_bytes


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
