"""A tensor of any kind arrives as it was sent."""

from __future__ import annotations

import pytest
import torch

from autopipe.runtime.scalars import scalar_from, scalar_to
from autopipe.runtime.tensor_bytes import NOTHING, Flags, Layout, flags_of, order_of, packed

TENSORS = {
    "float": torch.randn(3, 2),
    "bfloat16": torch.randn(3).bfloat16(),
    "bool": torch.tensor([True, False]),
    "int": torch.arange(4),
    "complex": torch.randn(2, 2, dtype=torch.complex64),
    "conjugated": torch.randn(2, dtype=torch.complex64).conj(),
    "transposed": torch.randn(3, 2).t(),
    "permuted": torch.randn(2, 3, 4, 5).permute(2, 0, 3, 1),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels last, one": torch.randn(1, 3, 4, 5).to(memory_format=torch.channels_last),
    "many dimensions": torch.randn([2] * 16).transpose(0, 15).contiguous(),
    "expanded": torch.ones(1, 2).expand(3, 2),
    "strided": torch.arange(10)[::3],
    "scalar": torch.tensor(2.5),
    "empty": torch.ones(0, 3),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_the_same_after_the_message(name: str) -> None:
    tensor = TENSORS[name]
    layout = Layout.of(tensor)
    message = packed(tensor, layout, requires_grad=False)
    assert flags_of(message) & ~Flags.REORDERED == Flags.THERE
    arrived = layout.view(message, order_of(message, layout))
    assert arrived.equal(tensor)
    assert arrived.stride() == torch.empty_like(tensor).stride()
    assert Layout.read(layout.described()) == layout


def test_changing_the_tensor_does_not_change_the_message() -> None:
    tensor = torch.ones(2, requires_grad=True)
    message = packed(tensor, Layout.of(tensor), requires_grad=True)
    with torch.no_grad():
        tensor.zero_()
    assert Layout.of(tensor).view(message).tolist() == [1.0, 1.0]
    assert Flags.REQUIRES_GRAD in flags_of(message)


def test_nothing_and_another_layout_are_told_by_flags() -> None:
    layout = Layout((2,), torch.float32)
    assert flags_of(packed(None, layout, requires_grad=False)) == Flags(0)
    for agreed in (layout, NOTHING):
        flags = flags_of(packed(torch.ones(3), agreed, requires_grad=False))
        assert flags == Flags.THERE | Flags.OTHER_LAYOUT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_keeps_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    loss = torch.full(shape, 0.1, dtype=dtype)
    found = scalar_from(scalar_to(loss).ljust(64, b"\0"))
    assert found.equal(loss)
    assert found.shape == loss.shape
