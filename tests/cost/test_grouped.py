import pytest
import torch

from autopipe.cost.grouped import grouped_product, grouped_product_flops
from tests.cost.test_operation import asking, count, flops


def offsets(*ends):
    return torch.tensor(ends, dtype=torch.int32)


@pytest.mark.parametrize(
    ("a", "b", "ends"),
    [((32, 16), (2, 16, 8), (16, 32)), ((16, 32), (32, 8), (16, 32)), ((2, 8, 16), (2, 16, 8), None)],
)
def test_shapes_are_those_of_the_real_product(a, b, ends):
    a, b = torch.ones(a, dtype=torch.bfloat16), torch.ones(b, dtype=torch.bfloat16)
    given = offsets(*ends) if ends else None
    real = torch._grouped_mm(a, b, offs=given)
    assert grouped_product(a, b, given).shape == real.shape
    assert grouped_product(a, b, given).dtype == real.dtype


def test_experts_cost_by_row_and_not_by_expert():
    rows, inner, n = 32, 16, 8
    ends = torch.empty(4, dtype=torch.int32, device="meta")
    found = count(lambda a, b: torch._grouped_mm(a, b, offs=ends), asking(rows, inner), asking(4, inner, n))
    product = 2 * rows * inner * n
    assert flops(found.forward) == product
    assert flops(found.bwd_input) == 2 * product


def test_batched_products_cost_every_group():
    assert grouped_product_flops(asking(3, 4, 5), asking(3, 5, 6)) == 2 * 3 * 4 * 5 * 6
