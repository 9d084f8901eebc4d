"""The network computes in the precision asked for, everything around it in float32."""

import pytest
import torch

from custom.inferers import AutocastInferer, autocast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Spy(torch.nn.Conv3d):
    """Remembers the type of what it computes."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(1, 2, 3, padding=1)
        self.seen = set()

    def forward(self, x):
        out = super().forward(x)
        self.seen.add(out.dtype)
        return out


@pytest.mark.parametrize("precision", DTYPES)
def test_network_in_the_precision_result_in_float32(precision):
    network, image = Spy(), torch.rand(1, 1, 6, 6, 6)
    found = AutocastInferer(precision=precision)(image, network)
    assert network.seen == {DTYPES[precision]}
    assert found.dtype == torch.float32
    expected = network.double()(image.double())
    torch.testing.assert_close(
        found.double(), expected, atol={"float32": 1e-6, "bfloat16": 2e-2, "float16": 2e-3}[precision], rtol=0
    )


def test_gradients_are_float32():
    network = Spy()
    AutocastInferer(precision="bfloat16")(torch.rand(1, 1, 4, 4, 4), network).square().mean().backward()
    assert network.weight.grad.dtype == torch.float32
    assert network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_outputs(kind):
    levels = AutocastInferer(precision="bfloat16")(torch.rand(1, 4), lambda x: kind([x.bfloat16(), x.half()]))
    assert type(levels) is kind and [level.dtype for level in levels] == [torch.float32] * 2


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_the_precision_in_use_is_known(monkeypatch, name, dtype):
    monkeypatch.setattr(autocast, "check_gpu", lambda _: None)
    monkeypatch.setattr(autocast, "fast_dtype", lambda _: None if name == "float32" else dtype)
    assert AutocastInferer(precision=name).precision == name
    assert AutocastInferer(precision="auto", device="cuda").precision == name
    assert AutocastInferer(precision="auto", device="cpu").precision == "float32"


def test_refuses_an_unknown_precision():
    with pytest.raises(ValueError, match="found 'int8', expected one of auto, float32, bfloat16, float16"):
        AutocastInferer(precision="int8")
