import pytest
import torch
from torch import nn

from autopipe.cost.counting import Laboratory
from autopipe.ir.structure import Structure
from autopipe.ir.traced import Region


def count(target, *args, fused_attention=False, region=None):
    structure, inputs = Structure.of((args, {}))
    laboratory = Laboratory("cpu", fused_attention=fused_attention)
    return laboratory.count(target, structure, inputs, region or Region())


def flops(operations):
    return sum(operation.flops for operation in operations)


def asking(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)


def test_linear_multiplies_once_forward_and_twice_backward():
    found = count(nn.Linear(20, 30), asking(4, 5, 20))
    product = 2 * (4 * 5) * 20 * 30
    assert [flops(found.forward), flops(found.bwd_input), flops(found.bwd_weight)] == [product] * 3


def test_linear_moves_input_weight_bias_and_output():
    (addmm,) = count(nn.Linear(20, 30), asking(4, 20)).forward
    assert addmm.nbytes == 4 * (4 * 20 + 20 * 30 + 30 + 4 * 30)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_convolution_halves_count_what_is_asked_for(groups, stride):
    conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups, stride=stride)
    found = count(conv, asking(2, 8, 10, 10))
    side = 10 // stride
    product = 2 * (2 * 16 * side * side) * (8 // groups) * 9
    assert flops(found.forward) == product
    assert flops(found.bwd_input) + flops(found.bwd_weight) == 2 * product
    if groups == 1:
        assert flops(found.bwd_input) == product


def test_attention_multiplies_twice_forward():
    q = asking(2, 4, 16, 8)
    found = count(nn.functional.scaled_dot_product_attention, q, asking(2, 4, 24, 8), asking(2, 4, 24, 8))
    product = 2 * (2 * 4) * 16 * 24 * 8
    assert flops(found.forward) == 2 * product
    assert flops(found.bwd_input) == 5 * product  # the fused kernel computes the scores again


@pytest.mark.parametrize("n_layers", [1, 2])
def test_recurrent_layers_multiply_every_time_step(n_layers):
    found = count(nn.LSTM(6, 10, n_layers), asking(7, 3, 6))
    steps = 7 * 3
    first, others = 4 * 10 * (6 + 10), (n_layers - 1) * 4 * 10 * (10 + 10)
    assert flops(found.forward) == 2 * steps * (first + others)
    assert flops(found.bwd_input) + flops(found.bwd_weight) == 2 * flops(found.forward)


def test_lookup_reads_rows_and_not_the_table():
    ids = torch.empty(5, dtype=torch.int64, device="meta")
    (lookup,) = count(nn.Embedding(10_000, 16), ids).forward
    assert lookup.nbytes == 5 * 8 + 2 * 5 * 16 * 4


def test_expanded_dimensions_are_read_once():
    wide = torch.empty(1, 100, device="meta").expand(50, 100)
    (added,) = count(torch.add, wide, 1).forward
    assert added.nbytes == 4 * (100 + 50 * 100)


@pytest.mark.parametrize(
    "view",
    [lambda x: x.transpose(0, 1), lambda x: x[:, 1:], lambda x: x.view(12), lambda x: x.expand(3, 4)],
)
def test_views_start_nothing(view):
    found = count(view, asking(3, 4))
    assert found.forward == ()
    assert found.made[0].storage == ("input", 0)


def test_gradients_are_added_into_grad():
    bare = count(torch.mul, asking(8), nn.Parameter(torch.empty(8, device="meta")))
    names = [operation.name for operation in bare.bwd_weight]
    assert names == ["aten.mul", "aten.add_"]
    assert bare.bwd_weight[-1].nbytes == 3 * 8 * 4


def test_frozen_parameters_have_no_backward():
    found = count(nn.Linear(3, 3).requires_grad_(False), asking(2, 3))
    assert found.bwd_weight == ()
    assert flops(found.bwd_input) == 2 * 2 * 3 * 3


def test_inputs_without_gradient_leave_the_weights_alone():
    found = count(nn.Linear(3, 3), torch.empty(2, 3, device="meta"))
    assert found.bwd_input == ()
    assert flops(found.bwd_weight) == 2 * 2 * 3 * 3


def test_nothing_is_recorded_where_gradients_are_off():
    found = count(nn.Linear(3, 3), asking(2, 3), region=Region(grad_enabled=False))
    assert found.bwd_input == found.bwd_weight == found.saved == ()
    assert not found.made[0].requires_grad


def test_autocast_computes_in_its_dtype():
    (*_, product) = count(
        nn.Linear(8, 8), asking(2, 8), region=Region(autocast=(("cpu", "bfloat16"),))
    ).forward
    assert (product.name, product.dtype) == ("aten.addmm", "bfloat16")


def test_accelerators_fuse_attention_with_dropout():
    q = asking(2, 4, 64, 8)
    plain = count(nn.functional.scaled_dot_product_attention, q, q, q, None, 0.5)
    fused = count(nn.functional.scaled_dot_product_attention, q, q, q, None, 0.5, fused_attention=True)
    scores_bytes = 2 * 4 * 64 * 64 * 4
    assert plain.saved_inside_bytes >= scores_bytes > fused.saved_inside_bytes


def test_in_place_calls_return_the_storage_of_their_input():
    found = count(nn.ReLU(inplace=True), asking(3))
    assert found.made[0].storage == ("input", 0)
    assert found.saved == (("input", 0),)


def test_custom_functions_run_their_own_backward():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx, grad):
            x, w = ctx.saved_tensors
            return grad @ w.T, x.T @ grad

    found = count(Twice.apply, asking(2, 3), nn.Parameter(torch.empty(3, 5, device="meta")))
    assert [flops(part) for part in (found.forward, found.bwd_input)] == [2 * 2 * 3 * 5, 2 * 2 * 2 * 3 * 5]


@pytest.mark.parametrize("module", [nn.MultiheadAttention(16, 2), nn.TransformerEncoderLayer(16, 2, 32)])
def test_inference_has_no_fast_path_that_hides_its_products(module):
    x = asking(5, 2, 16)
    args = (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)
    training = count(module.eval(), *args)
    inference = count(module.eval(), *args, region=Region(grad_enabled=False))
    assert flops(inference.forward) == flops(training.forward) > 0
    assert torch.backends.mha.get_fastpath_enabled()
