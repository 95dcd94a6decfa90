"""The modules of a model stay what they are: each a test of training, split against plain."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import autopipe
from tests.kept_training import IDS, X, assert_kept, built, loss_of


def linears(n: int = 3) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(6, 6) for _ in range(n)))


class Scaled(nn.Linear):
    """A user's own layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Block(nn.Module):
    """A container with a layer of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.norm = Scaled(6, 6), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.own(self.norm(x)))


def blocks() -> nn.Module:
    return nn.Sequential(Block(), Block(), nn.Linear(6, 6))


def test_stages_hold_the_very_modules_under_their_names() -> None:
    pipe = assert_kept(blocks)
    model = pipe.model
    held = [
        (fqn, stage.module.get_submodule(fqn))
        for stage in pipe
        for fqn in stage.fqns
        if not isinstance(
            getattr(stage.module.get_submodule(fqn.rpartition(".")[0]), fqn.rpartition(".")[2]), nn.Parameter
        )
    ]
    assert [fqn for fqn, _ in held] == ["0.norm", "0.own", "1.norm", "1.own", "2"]
    assert all(module is model.get_submodule(fqn) for fqn, module in held)
    assert [isinstance(module, Scaled) for _, module in held] == [False, True, False, True, False]
    names = [name for stage in pipe for name, _ in stage.module.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert list(pipe.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("fqn", ["1.own", "1"], ids=["leaf", "container"])
def test_hooks_run_once_a_microbatch(fqn: str) -> None:
    """Forward, pre-forward, backward, pre-backward, on a leaf and on a module with children."""
    heard: Counter[tuple[int, str]] = Counter()

    def hooked() -> nn.Module:
        model = blocks()
        module, of = model.get_submodule(fqn), id(model)
        module.register_forward_pre_hook(lambda *_: heard.update([(of, "before forward")]))
        module.register_forward_hook(
            lambda _module, _args, out: [heard.update([(of, "forward")]), out * 1.5][1]
        )
        module.register_full_backward_pre_hook(lambda *_: heard.update([(of, "before backward")]))
        module.register_full_backward_hook(lambda *_: heard.update([(of, "backward")]))
        kept.append(model)
        return model

    kept: list[nn.Module] = []
    assert_kept(hooked)
    plain, split = ({what: n for (of, what), n in heard.items() if of == id(model)} for model in kept)
    assert plain == split == dict.fromkeys(("before forward", "forward", "before backward", "backward"), 5)


class LoRA(nn.Module):
    """A frozen linear and what is learnt beside it, as peft wraps it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_a = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
        self.lora_b = nn.ModuleDict({"default": nn.Linear(2, 6, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.active, self.scaling = ["default"], {"default": 0.5}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.base_layer(x)
        for name in self.active:
            down = self.lora_a[name](self.lora_dropout[name](x))
            out = out + self.lora_b[name](down) * self.scaling[name]
        return out


class Int8Linear(nn.Module):
    """Weights of 8 bits and a scale in buffers, as bitsandbytes and torchao keep them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        scale = base.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("codes", (base.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.codes.to(x.dtype) * self.scale, self.bias)


def with_lora() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), LoRA(nn.Linear(6, 6)), LoRA(nn.Linear(6, 6)), nn.Linear(6, 6))


def quantised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), Int8Linear(nn.Linear(6, 6)), LoRA(Int8Linear(nn.Linear(6, 6))))


def dynamically_quantised() -> nn.Module:
    """Quantised by torch, for the frozen first part of a model: its kernel has no backward."""
    first = torch.ao.nn.quantized.dynamic.Linear(6, 6)
    first.set_weight_bias(torch.quantize_per_tensor(torch.randn(6, 6), 0.05, 0, torch.qint8), torch.randn(6))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6))


def parametrized() -> nn.Module:
    model = linears(4)
    parametrizations.weight_norm(model[0])
    parametrizations.orthogonal(model[1])
    parametrizations.spectral_norm(model[2])
    prune.l1_unstructured(model[3], "weight", 0.5)
    return model


def compiled() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), blocks(), linears(2), nn.Linear(6, 6))
    model[1] = torch.compile(model[1], backend="eager")
    model[2].compile(backend="eager")
    return model


class OwnDevice(nn.Module):
    """Moves what it is given to where and what its weights are, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6).to(torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.linear.weight
        mask = torch.ones(x.shape[-1], device=x.device, dtype=weight.dtype)
        return self.linear(x.to(weight.device, weight.dtype) * mask).to(x)


class OwnTo(nn.Module):
    """Stays in float32 whatever the model is turned into."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return super()._apply(lambda tensor: fn(tensor).to(torch.float32), recurse)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.float()).to(x.dtype)


def of_several_dtypes() -> nn.Module:
    return nn.Sequential(OwnTo(), nn.Linear(6, 6), OwnDevice(), OwnTo(), nn.Linear(6, 6)).to(torch.float64)


KEPT = {
    "LoRA": (with_lora, X),
    "quantised linears under LoRA": (quantised, X),
    "torch's dynamically quantised linear": (dynamically_quantised, X),
    "parametrizations and pruning": (parametrized, X),
    "torch.compile of submodules": (compiled, X),
    "own device and dtype handling": (of_several_dtypes, X.double()),
}


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor:UserWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.parametrize(("build", "x"), KEPT.values(), ids=KEPT.keys())
def test_modules_of_other_kinds_train_as_they_are(build: Any, x: torch.Tensor) -> None:
    pipe = assert_kept(build, (x,))
    kinds = [type(module).__qualname__ for module in built(build).modules()]
    assert [type(module).__qualname__ for module in pipe.model.modules()] == kinds


def test_a_parametrized_module_is_still_one_in_its_stage() -> None:
    pipe = assert_kept(parametrized)
    assert parametrize.is_parametrized(pipe[0].module.get_submodule("0"), "weight")


class Tied(nn.Module):
    """Weights shared under two names, a module under two names, a module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 6), nn.Linear(6, 12, bias=False)
        self.head.weight = self.embed.weight
        self.block = nn.Linear(6, 6)
        self.same_block, self.last = self.block, nn.Linear(6, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.block(self.block(self.embed(ids)))
        return self.head(self.last(torch.tanh(self.same_block(x))))


@pytest.mark.parametrize("n_stages", [2, 4])
def test_tied_weights_shared_modules_and_modules_called_again(n_stages: int) -> None:
    pipe = assert_kept(Tied, (IDS,), n_stages=n_stages)
    assert list(pipe.state_dict()) == list(Tied().state_dict())


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(12, 6), kind(6, 5, num_layers=2, batch_first=True)
            self.head = nn.Linear(5, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.embed(ids))[0])

    return Recurrent()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks(kind: type[nn.RNNBase]) -> None:
    assert_kept(lambda: recurrent(kind), (IDS,))


def test_nn_transformer() -> None:
    source, target = X.reshape(4, 1, 6), X.reshape(4, 1, 6) + 1
    assert_kept(lambda: nn.Transformer(6, 2, 1, 1, 8, dropout=0.0, batch_first=True), (source, target))


class Checkpointed(nn.Module):
    """Checkpoints one block, by torch's function."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(6, 6), Block(), nn.Linear(6, 6)
        self.use_reentrant = use_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        checkpoint = torch.utils.checkpoint.checkpoint
        return self.last(checkpoint(self.block, self.first(x), use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_inside_the_model(use_reentrant: bool) -> None:
    assert_kept(lambda: Checkpointed(use_reentrant))


def freeze(model: nn.Module) -> None:
    model[1].requires_grad_(False)


@pytest.mark.parametrize("prepare", [freeze, lambda model: model], ids=["after the split", "before"])
def test_frozen_parameters(prepare: Any) -> None:
    def build() -> nn.Module:
        model = linears(4)
        model[0].requires_grad_(False)
        return model

    pipe = assert_kept(build, prepare=prepare)
    assert pipe.model[0].weight.grad is None


def test_freezing_while_an_engine_runs_is_an_error_that_names_the_parameter() -> None:
    model = linears()
    with autopipe.split(model, 2, (X,)).engine(n_microbatches=2) as engine:
        engine.step(X, loss_fn=loss_of)
        freeze(model)
        with pytest.raises(autopipe.PlanMismatchError, match=r"1\.weight"):
            engine.step(X, loss_fn=loss_of)
