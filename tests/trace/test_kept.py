"""What capture keeps of a model: its modules, their hooks, flags, regions and own backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.rewrite.cutting import run, split
from tests.trace.agreement import assert_agrees, calls, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Doubled(nn.Linear):
    """A user's own layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Net(nn.Module):
    """Two blocks around a layer of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.own = Doubled(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.own(self.first(x)))


def test_leaves_are_the_users_own_modules() -> None:
    model = Net()
    traced = capture(model, (X,))
    assert calls(traced) == ["first.0", "first.1", "own", "last"]
    assert traced.modules["own"] is model.own
    assert isinstance(traced.modules["own"], Doubled)
    assert [traced.info[node.name].fqn for node in traced.compute_nodes()] == calls(traced)
    assert traced.info["own"].parameters == ("own.weight", "own.bias")


def test_hooks_of_a_leaf_run_once_a_call_and_not_during_capture() -> None:
    model, heard = Net(), []
    model.own.register_forward_pre_hook(lambda *_: heard.append("pre"))
    model.own.register_forward_hook(lambda *_: heard.append("forward"))
    model.own.register_full_backward_hook(lambda *_: heard.append("backward"))
    traced = capture(model, (X,))
    assert heard == []
    assert_agrees(model, (X,), n_stages=(1,), traced=traced)
    assert heard == ["pre", "forward", "backward"] * 2


def test_hook_of_a_leaf_may_change_values() -> None:
    model = Net()
    model.own.register_forward_hook(lambda _module, _args, out: out * 3)
    assert_agrees(model, (X,))


@pytest.mark.parametrize(
    "hook", [lambda *a: (a[-1], a[-1]), lambda *a: a[-1][:, :3], lambda *a: a[-1].double()]
)
def test_hook_of_a_leaf_that_changes_the_form_is_an_error(hook: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Flatten())
    model[0].register_forward_hook(hook)
    staged = split(model, (X,), n_stages=1)
    with pytest.raises(CaptureError, match="a forward hook changes what 0 returns"):
        run(staged, X)


def test_container_with_hooks_is_kept_whole() -> None:
    model, heard = Net(), []
    model.first.register_forward_hook(lambda *_: heard.append("forward"))
    model.first.register_full_backward_hook(lambda *_: heard.append("backward"))
    traced = capture(model, (X,))
    assert opaque_modules(traced) == {"first": "it has hooks"}
    assert heard == []
    assert_agrees(model, (X.clone().requires_grad_(),), n_stages=(1,), traced=traced)
    assert heard == ["forward", "backward"] * 2


def test_hooks_of_the_model_itself_are_refused() -> None:
    model = Net()
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(CaptureError, match="the model itself has hooks"):
        capture(model, (X,))


def test_hooks_on_all_modules_are_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(CaptureError, match="hooks on all modules"):
            capture(Net(), (X,))
    finally:
        handle.remove()


class Flags(nn.Module):
    """Every way in which a forward reads ``.training``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.drop(self.linear(x)), 0.3, self.training)
        x = F.batch_norm(x, self.mean, self.var, training=self.training)
        heads = x.reshape(x.shape[0], 1, 2, 3)
        dropout_p = 0.4 if self.training else 0.0
        x = x + F.scaled_dot_product_attention(heads, heads, heads, dropout_p=dropout_p).reshape(x.shape)
        if self.training:
            x = x * 2
        return x


def test_training_flags() -> None:
    model = Flags()
    trained = assert_agrees(model.train(), (X,), n_stages=(1, 2, 4))
    evaluated = assert_agrees(model.eval(), (X,), n_stages=(1, 2, 4))
    assert calls(trained)[-1] != calls(evaluated)[-1]
    random = [name for name, info in trained.info.items() if info.is_random]
    assert random == ["drop", "dropout", "scaled_dot_product_attention"]
    assert not any(info.is_random for info in evaluated.info.values())


class Squared(torch.autograd.Function):
    """Squares, with a wrong gradient on purpose."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _scale: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * 100 + ctx.saved_tensors[0], None


class Calling(nn.Module):
    """Calls a function between two linears."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


def test_custom_autograd_function_is_one_node_with_its_own_backward() -> None:
    traced = assert_agrees(Calling(lambda x: Squared.apply(x, 2.0)), (X,))
    assert calls(traced) == ["first", "Squared", "last"]


def test_autograd_function_that_calls_a_module_is_kept_inside_a_module() -> None:
    class Calls(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
            return module(x.detach())

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
            return grad, None

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Calls.apply(x, self.inner)

    model = nn.Sequential(nn.Linear(6, 6), Block(), nn.Linear(6, 6))
    traced = assert_agrees(model, (X,))
    assert list(opaque_modules(traced)) == ["1"]


def no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scale = x.abs().mean()
    return x / scale


def autocast(x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = x @ x.T
    return y.float() @ x


def inference(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        shape = torch.ones(3, 6).sum()
    return x + shape.clone()


@pytest.mark.parametrize("function", [no_grad, autocast, inference])
def test_regions(function: Any) -> None:
    traced = assert_agrees(Calling(function), (X,), n_stages=(1, 2, 4))
    regions = {info.region for info in traced.info.values()}
    assert len(regions) == 2


def test_parametrized_modules_stay_whole() -> None:
    model = Net()
    parametrizations.weight_norm(model.last)
    parametrizations.orthogonal(model.own)
    traced = assert_agrees(model, (X,))
    assert parametrize.is_parametrized(traced.modules["last"])
    assert "last" in calls(traced)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_are_seen_through_and_noted(use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6))
            self.last = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(checkpoint(self.block, self.first(x), use_reentrant=use_reentrant))

    traced = assert_agrees(Checkpointed(), (X,))
    assert calls(traced) == ["first", "block.0", "block.1", "block.2", "last"]
    noted = {name for name, info in traced.info.items() if info.recompute}
    assert noted == {"block_0", "block_1", "block_2"}


def test_reentrant_checkpoint_of_what_wants_no_gradient_gives_none() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(checkpoint(self.first, x, use_reentrant=True))

    with pytest.warns(UserWarning, match="None of the inputs"):
        assert_agrees(Checkpointed(), (X,))


def test_vmap_and_script_inside_forward() -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        scripted = torch.jit.script(_gelu)
    assert_agrees(Calling(torch.vmap(lambda row: row * row.sum())), (X,))
    for _ in range(3):  # TorchScript optimises after some calls, and runs a backward of its own from then on
        traced = assert_agrees(Calling(scripted), (X,))
    assert calls(traced) == ["first", "_gelu", "last"]


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 1.41421))


def test_no_device_is_frozen() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.emb(torch.arange(x.shape[1], device=x.device))[: x.shape[0], :1]

    traced = assert_agrees(Positions(), (X,))
    literals = [node.kwargs["device"] for node in traced.graph.nodes if "device" in node.kwargs]
    assert literals == [traced.device]


def test_compiled_modules_are_kept_whole() -> None:
    model = nn.Sequential(Net(), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 3))
    model[1].compile(backend="eager")
    traced = capture(model, (X,))
    assert opaque_modules(traced) == {"1": "it is compiled"}


class LoRA(nn.Module):
    """A frozen linear and what is learnt beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def test_adapters_and_frozen_parameters() -> None:
    model = Net()
    model.last = LoRA(model.last)
    traced = assert_agrees(model, (X,))
    assert {"last.base", "last.down", "last.up"} <= set(calls(traced))


def test_tied_weights_under_other_names_and_in_lists() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.head = nn.Embedding(12, 6), nn.Linear(6, 12, bias=False)
            self.head.weight = self.emb.weight
            self.hidden = [self.emb.weight]

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.emb(ids)) + F.linear(self.emb(ids), self.hidden[0])

    traced = assert_agrees(Tied(), (torch.arange(6).reshape(2, 3),))
    assert traced.constants == {}
    assert traced.info["head"].parameters == ("emb.weight",)


def test_function_that_reads_weights_it_is_not_given_is_kept_inside_a_module() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6))
            scale = self.scale

            class Function(torch.autograd.Function):
                @staticmethod
                def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                    return x * self.scale

                @staticmethod
                def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
                    return grad * scale

            self.function = Function

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.function.apply(self.inner(x))

    traced = assert_agrees(nn.Sequential(nn.Linear(6, 6), Scaled(), nn.Linear(6, 6)), (X,))
    assert list(opaque_modules(traced)) == ["1"]
