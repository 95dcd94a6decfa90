"""Stages of a meta model get their values, each its own: equal to those of the whole model, and no more."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.utils import _pytree as pytree

import autopipe
from models import NAMES
from tests.refusal import refused, state_of
from tests.shallow import load

X = torch.ones(4, 4)


class Tied(nn.Module):
    """A tied head, a buffer that persists and one that does not, and an init of the constructor's own."""

    def __init__(self):
        super().__init__()
        self.embed, self.middle = nn.Embedding(10, 4), nn.Linear(4, 4)
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.arange(4.0), persistent=False)
        nn.init.normal_(self.middle.weight, std=0.02)

    def forward(self, tokens):
        return self.head(self.norm(self.middle(self.embed(tokens)) * self.scale))


TOKENS = torch.arange(6) % 10


def tied():
    torch.manual_seed(3)
    return Tied()


def on_meta(build, n_stages, *args, **kwargs):
    with torch.device("meta"):
        model = build()
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return model, autopipe.split(model, n_stages, args, kwargs)


def tensors_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def assert_equal(one, other):
    left, right = tensors_of(one), tensors_of(other)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.fixture
def checkpoint(tmp_path):
    save_model(tied(), tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_built_stage_by_stage_a_model_is_what_its_constructor_makes(name):
    file = load(name)
    args, kwargs = file.example(3)
    model, pipe = on_meta(file.build, 3, *args, **kwargs)
    for stage in pipe:
        stage.materialize("cpu", build=file.build, seed=5)
    torch.manual_seed(5)
    assert_equal(model, file.build())


@pytest.mark.parametrize("name", NAMES)
def test_read_stage_by_stage_a_model_is_what_was_saved(name, tmp_path):
    file = load(name)
    args, kwargs = file.example(3)
    saved = file.build()
    save_model(saved, tmp_path / "model.safetensors")
    model, pipe = on_meta(file.build, 3, *args, **kwargs)
    for stage in reversed(list(pipe)):
        stage.materialize("cpu", tmp_path, build=file.build)
    assert_equal(model, saved)


def test_a_stage_gets_its_own_part_alone(checkpoint):
    model, pipe = on_meta(Tied, 3, TOKENS)
    pipe[1].materialize("cpu", checkpoint, build=Tied)
    here = {id(tensor) for tensor in (*pipe[1].module.parameters(), *pipe[1].module.buffers())}
    assert here
    assert {id(tensor) for tensor in tensors_of(model).values() if not tensor.is_meta} == here


def test_the_parameters_stay_the_same_objects_tied_ones_too(checkpoint):
    model, pipe = on_meta(Tied, 3, TOKENS)
    before = {name: id(tensor) for name, tensor in tensors_of(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for stage in pipe:
        stage.materialize("cpu", checkpoint, build=Tied)
    assert {name: id(tensor) for name, tensor in tensors_of(model).items()} == before
    assert model.head.weight is model.embed.weight
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    assert optimizer.param_groups[0]["params"][0] is model.embed.weight


def test_materialised_it_trains_as_the_plain_model_does(checkpoint):
    plain = tied()
    _, pipe = on_meta(Tied, 3, TOKENS)
    for stage in pipe:
        stage.materialize("cpu", checkpoint, build=Tied)
    loss = nn.functional.cross_entropy(plain(TOKENS), TOKENS)
    loss.backward()
    with pipe.engine(n_microbatches=1) as engine:
        found = engine.step(TOKENS, target=TOKENS, loss_fn=nn.functional.cross_entropy)
        assert torch.equal(found.loss, loss.detach())
        for name, parameter in engine.named_parameters():
            torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad)


def test_it_splits_again_when_only_a_part_has_values(checkpoint):
    model, pipe = on_meta(Tied, 3, TOKENS)
    pipe[0].materialize("cpu", checkpoint, build=Tied)
    assert len(autopipe.split(model, 2, (TOKENS,))) == 2


def test_floating_values_take_the_dtype_of_the_parameter(checkpoint):
    with torch.device("meta"):
        model = Tied().to(torch.bfloat16)
    pipe = autopipe.split(model, 2, (TOKENS.to("meta"),))
    for stage in pipe:
        stage.materialize("cpu", checkpoint, build=lambda: Tied().to(torch.bfloat16))
    assert model.middle.weight.dtype == torch.bfloat16
    assert torch.equal(model.middle.weight, tied().middle.weight.to(torch.bfloat16))


def test_an_index_leads_to_several_files(tmp_path):
    saved = tied()
    state = {name: tensor.clone() for name, tensor in saved.state_dict().items() if name != "embed.weight"}
    parts = {"a.safetensors": ["head.weight"], "b.safetensors": sorted(state.keys() - {"head.weight"})}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, tmp_path / file)
    index = {name: file for file, names in parts.items() for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    model, pipe = on_meta(Tied, 3, TOKENS)
    for stage in pipe:
        stage.materialize("cpu", tmp_path, build=Tied)
    assert_equal(model, saved)


@pytest.mark.parametrize(("stored", "own"), [("", "backbone."), ("backbone.", "")])
def test_the_prefix_of_a_base_model_may_be_there_or_not(tmp_path, stored, own):
    class Base(nn.Module):
        base_model_prefix = "backbone"

        def __init__(self):
            super().__init__()
            inside = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.add_module(own.removesuffix(".") or "0", inside if own else inside[0])
            self.add_module("1", nn.ReLU() if own else inside[1])

        def forward(self, x):
            for module in self.children():
                x = module(x)
            return x

    values = {
        f"{i}.{name}": torch.rand(4, 4)[:: 4 if name == "bias" else 1] for i in "01" for name in ("weight",)
    }
    values |= {f"{i}.bias": torch.rand(4) for i in "01"}
    save_file({stored + name: value for name, value in values.items()}, tmp_path / "model.safetensors")
    model, pipe = on_meta(Base, 2, X)
    for stage in pipe:
        stage.materialize("cpu", tmp_path)
    assert all(torch.equal(model.get_parameter(own + name), value) for name, value in values.items())


# Without a checkpoint and without a constructor


class Scaled(nn.Module):
    """As transformers does it: the model says how each module inside it is initialised."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)

    def forward(self, x):
        return self.layers(x)


WIDE = torch.ones(2, 64)


def initialised(n_stages, seed):
    model, pipe = on_meta(Scaled, n_stages, WIDE)
    for stage in pipe:
        stage.materialize("cpu", seed=seed)
    return model


def test_by_init_the_numbers_do_not_depend_on_the_split():
    one = initialised(1, 7)
    assert_equal(one, initialised(3, 7))
    assert not torch.equal(one.layers[0].weight, initialised(3, 8).layers[0].weight)
    assert not torch.equal(one.layers[0].weight, one.layers[2].weight)


def test_by_init_modules_reset_themselves_and_their_model_has_the_last_word():
    model = initialised(2, 7)
    assert model.layers[0].weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert torch.equal(model.layers[1].weight, torch.ones(64))
    assert 0 < model.layers[2].bias.abs().max() <= 1 / 8  # nn.Linear's own: 1 / sqrt(64)


def test_the_random_stream_of_the_user_is_left_alone():
    before = torch.get_rng_state()
    initialised(2, 7)
    _, pipe = on_meta(Tied, 2, TOKENS)
    pipe[0].materialize("cpu", build=Tied)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_part_built_of_large_tensors_is_what_the_whole_is():
    """Large ones that another is computed from, drawn in place or when made, copied, or looked at."""

    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(200, 200)
            self.b = nn.Parameter(torch.randn(200, 200) @ torch.randn(200, 200) * 0.1)
            self.c = nn.Linear(200, 200)
            nn.init.orthogonal_(self.c.weight)
            self.d = nn.Linear(200, 200)
            self.d.weight.data.copy_(self.a.weight.data * 2)
            self.register_buffer("top", torch.zeros(1), persistent=False)
            self.top.fill_(1).mul_(self.b.detach().abs().max())

        def forward(self, x):
            return self.d(self.c(self.a(x) @ self.b) * self.top)

    model, pipe = on_meta(Large, 4, torch.ones(2, 200))
    for stage in pipe:
        stage.materialize("cpu", build=Large, seed=1)
    torch.manual_seed(1)
    assert_equal(model, Large())


# Refusals


def test_missing_names_are_listed_and_nothing_is_changed(tmp_path):
    save_file({"middle.bias": torch.zeros(4)}, tmp_path / "model.safetensors")
    model, pipe = on_meta(Tied, 2, TOKENS)
    before = state_of(model)
    with pytest.raises(autopipe.ArgumentError) as raised:
        pipe[0].materialize("cpu", tmp_path, build=Tied)
    assert "the checkpoint lacks embed.weight" in str(raised.value)
    assert "It has middle.bias" in str(raised.value)
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(4, 5), r"middle.weight has the shape \[4, 4\], the checkpoint's has \[4, 5\]"),
        (torch.zeros(4, 4, dtype=torch.int8), r"middle.weight is float32, the checkpoint's is I8"),
        (torch.zeros(4, 4).to(torch.float8_e4m3fn), r"middle.weight is float32, the checkpoint's is F8_E4M3"),
    ],
)
def test_another_shape_or_kind_of_dtype_is_refused(tmp_path, value, message):
    state = {name: tensor.clone() for name, tensor in tied().state_dict().items()}
    save_file(state | {"middle.weight": value}, tmp_path / "model.safetensors")
    _, pipe = on_meta(Tied, 1, TOKENS)
    with pytest.raises(autopipe.ArgumentError, match=message):
        pipe[0].materialize("cpu", tmp_path, build=Tied)


def test_what_nothing_gives_a_value_to_is_named(checkpoint):
    model, pipe = on_meta(Tied, 1, TOKENS)
    text = """nothing gives a value to scale.
  Neither a reset_parameters of its module nor an _init_weights around it did, and no checkpoint has it.
  Try: materialize(..., build=function), which makes the model; or a reset_parameters()
       in the module."""
    with refused(autopipe.ArgumentError, text, model):
        pipe[0].materialize("cpu", checkpoint)


def test_a_constructor_of_another_model_is_refused():
    model, pipe = on_meta(Tied, 1, TOKENS)
    text = """the model that build() made has no scale.
  Try: build= makes the same model as the one that was split."""
    with refused(autopipe.ArgumentError, text, model):
        pipe[0].materialize("cpu", build=lambda: nn.Linear(4, 4))


def broken(folder):
    (folder / "model.safetensors").write_bytes(b"no")


def only_pickled(folder):
    (folder / "pytorch_model.bin").write_bytes(b"no")


def half_indexed(folder):
    index = {"weight_map": {"x": "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def wrongly_indexed(folder):
    save_file({"y": torch.zeros(1)}, folder / "here.safetensors")
    index = {"weight_map": {"x": "here.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken, "model.safetensors cannot be read as safetensors"),
        (only_pickled, "holds no .safetensors file.\n  It has pytorch_model.bin"),
        (half_indexed, "gone.safetensors is missing"),
        (wrongly_indexed, "here.safetensors lacks x, which"),
        (lambda folder: folder.rmdir(), "there is no checkpoint at"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_says_why(tmp_path, spoil, message):
    folder = tmp_path / "there"
    folder.mkdir()
    spoil(folder)
    _, pipe = on_meta(Tied, 2, TOKENS)
    with pytest.raises(autopipe.ArgumentError, match=re.escape(message)):
        pipe[0].materialize("cpu", folder)


def test_a_stage_without_values_says_how_to_get_them(checkpoint):
    _, pipe = on_meta(Tied, 2, TOKENS)
    pipe[0].materialize("cpu", checkpoint, build=Tied)
    with pytest.raises(autopipe.ArgumentError, match=r"pipe\[1\].materialize\(device, weights=folder\)"):
        pipe.engine()
