import torch
from torch import nn

from autopipe.cost.fingerprint import Fingerprints
from autopipe.ir.traced import Region


def meta(*shape):
    return torch.empty(shape, device="meta")


def key(*args, target=torch.add, region=None, keys=None):
    return (keys or Fingerprints()).call(target, (args, {}), region or Region())[0]


def test_equal_calls_have_equal_keys():
    keys = Fingerprints()
    assert key(meta(2), 1, keys=keys) == key(meta(2), 1, keys=keys)
    assert key(meta(2), slice(0, 2), keys=keys) == key(meta(2), slice(0, 2), keys=keys)


def test_what_changes_the_price_changes_the_key():
    keys, x = Fingerprints(), meta(2)
    plain = key(x, meta(2), keys=keys)
    assert plain != key(x, x, keys=keys)
    assert plain != key(x, meta(2).double(), keys=keys)
    assert plain != key(x, meta(2), target=torch.mul, keys=keys)
    assert plain != key(x, meta(2), region=Region(grad_enabled=False), keys=keys)
    assert key(x, 1, keys=keys) != key(x, True, keys=keys)


def test_a_plain_attribute_that_repr_hides_changes_the_key():
    class Scale(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.n = n

    keys = Fingerprints()
    assert repr(Scale(1)) == repr(Scale(2))
    assert keys.module(Scale(1)) != keys.module(Scale(2))
    assert keys.module(Scale(1)) == keys.module(Scale(1))


def test_mode_and_children_change_the_key():
    keys = Fingerprints()
    assert keys.module(nn.Dropout()) != keys.module(nn.Dropout().eval())
    assert keys.module(nn.Sequential(nn.Linear(2, 2))) != keys.module(nn.Sequential(nn.Linear(2, 3)))


def test_a_module_that_knows_its_parent_has_a_key():
    parent, child = nn.Sequential(), nn.Linear(2, 2)
    child.parents = [parent]
    parent.append(child)
    assert hash(Fingerprints().module(parent))
