"""One number with its dtype, as bytes."""

from __future__ import annotations

import torch

from autopipe.runtime.tensor_bytes import Layout


def scalar_to(scalar: torch.Tensor) -> bytes:
    """Return a tensor of one element as bytes.

    Example:
        >>> scalar_from(scalar_to(torch.tensor([0.5], dtype=torch.bfloat16)))
        tensor([0.5000], dtype=torch.bfloat16)
    """
    value = scalar.detach().cpu().contiguous().reshape(1)
    name = str(scalar.dtype).removeprefix("torch.").encode()
    return bytes([scalar.dim(), len(name)]) + name + value.view(torch.uint8).numpy().tobytes()


def scalar_from(data: bytes) -> torch.Tensor:
    """Return the tensor that ``scalar_to`` made bytes of; bytes that follow are ignored."""
    n_dims, n_name = data[0], data[1]
    layout = Layout((1,) * n_dims, getattr(torch, data[2 : 2 + n_name].decode()))
    start = 2 + n_name
    elements = torch.frombuffer(bytearray(data[start : start + layout.nbytes]), dtype=torch.uint8)
    return layout.view(elements)
