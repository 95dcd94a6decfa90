import torch
from torch import nn

from autopipe.cost.phantom import Phantoms


def test_tied_parameters_stay_tied():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    phantom = Phantoms(torch.zeros_like).module(model)
    assert phantom[0].weight is phantom[1].weight
    assert phantom[0].weight is not model[0].weight


def test_hooks_and_caches_stay_with_the_user():
    calls = []

    class Caching(nn.Linear):
        def forward(self, x):
            self.cache = super().forward(x)
            return self.cache

    module = Caching(2, 2)
    module.register_forward_hook(lambda *_: calls.append(1))
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    Phantoms(torch.zeros_like).module(module)(torch.ones(1, 2))
    assert calls == []
    assert not hasattr(module, "cache")


def test_recurrent_modules_read_the_stand_ins_of_their_weights():
    out, _ = Phantoms(torch.zeros_like).module(nn.LSTM(2, 3))(torch.ones(4, 1, 2))
    assert not out.any()


def test_parametrized_modules_compute_their_weight():
    module = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    phantom = Phantoms(torch.clone).module(module)
    x = torch.ones(1, 2)
    assert torch.equal(phantom(x), module(x))
    assert {id(p) for p in phantom.parameters()}.isdisjoint(id(p) for p in module.parameters())


def test_a_module_that_knows_its_parent_is_copied_once():
    parent, child = nn.Sequential(), nn.Linear(2, 2)
    child.parents = [parent]
    parent.append(child)
    phantom = Phantoms(torch.zeros_like).module(parent)
    assert phantom[0].parents[0] is phantom
