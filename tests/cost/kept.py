"""What autograd really keeps: the truth for saved bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def bytes_kept_by(model: nn.Module, *args: Any, **kwargs: Any) -> int:
    """Run a forward; return the bytes of distinct storages that are kept and no parameter or buffer."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(*args, **kwargs)
    return sum(kept.values())
