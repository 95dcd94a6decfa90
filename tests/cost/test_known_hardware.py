import subprocess
import sys

import pytest

from autopipe.cost.known_hardware import HARDWARE, LINKS, default_hardware, hardware
from autopipe.errors import ArgumentError


@pytest.mark.parametrize("name", HARDWARE)
def test_every_machine_is_sound_and_names_its_sources(name):
    machine = hardware(name)
    machine.verify()
    assert all(device.source for device in machine.devices)
    assert {"float32", "bfloat16", "float16", "float64"} <= machine.device(0).flops_per_s.keys()


@pytest.mark.parametrize("name", LINKS)
def test_every_link_names_its_source(name):
    LINKS[name].verify()
    assert "us" in LINKS[name].source


def test_a_link_may_be_named_after_the_device():
    assert hardware("a100+ethernet-25g").link_in(1) == LINKS["ethernet-25g"]


@pytest.mark.parametrize(
    ("name", "link"),
    [("a100+infiniband", "infiniband-hdr"), ("H100+InfiniBand", "infiniband-ndr"), ("h200+pcie", "pcie5")],
)
def test_a_family_means_the_link_that_comes_with_the_device(name, link):
    assert hardware(name).links == (LINKS[link],)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ArgumentError, match=r"unknown device 'h10'. Did you mean 'h100'\?") as caught:
        hardware("h10")
    assert "cpu, a100, h100, h200" in str(caught.value)
    with pytest.raises(ArgumentError, match=r"unknown link 'pigeon'") as caught:
        hardware("h100+pigeon")
    assert "infiniband-ndr" in str(caught.value)


def test_the_machine_follows_the_device_of_the_model(monkeypatch):
    import torch

    assert default_hardware(torch.device("cpu")).name == default_hardware("meta").name == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert default_hardware("cuda:1").name == "h200"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce")
    assert default_hardware("cuda").name == "a100"


def test_the_catalogue_loads_no_torch():
    code = "import sys, autopipe.cost; autopipe.cost.hardware('h100'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
