"""Cards and builds of torch: the architectures are those of torch 2.13's builds for CUDA 13.0 and 12.6."""

import pytest
import torch

from custom.errors import DataError
from custom.inferers import AutocastInferer
from custom.system.gpu import check_gpu

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.fixture
def card(monkeypatch):
    """``card(capability, architectures)``: the GPU and the build of torch."""

    def make(capability, architectures):
        check_gpu.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100-PCIE-16GB")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))

    yield make
    check_gpu.cache_clear()


@pytest.mark.parametrize("capability", [(6, 0), (7, 0)])
def test_a_card_that_is_too_old_is_refused_with_the_build_that_serves_it(card, capability):
    card(capability, CUDA_13)
    with pytest.raises(DataError, match=r"^Tesla P100.*: found compute capability .*, expected 7.5 .*cu126") as error:
        AutocastInferer(device="cuda")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [((6, 0), CUDA_12_6), ((7, 5), CUDA_13), ((9, 0), CUDA_13), ((12, 1), CUDA_13), ((9, 4), ["gfx90a", "gfx942"])],
)
def test_served_cards(card, capability, architectures):
    card(capability, architectures)
    check_gpu(torch.device("cuda"))


def test_the_cpu_asks_nothing_of_cuda(card, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("CUDA was asked")

    card((6, 0), CUDA_13)
    for name in ("get_arch_list", "get_device_capability", "is_bf16_supported", "is_available"):
        monkeypatch.setattr(torch.cuda, name, asked)
    for device in ("cpu", torch.device("cpu")):
        assert AutocastInferer(precision="auto", device=device).dtype is None
