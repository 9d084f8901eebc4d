"""The pretended GPU beside the CPU, and what it counts beside what is known by hand."""

import copy
import pickle

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import SegResNetDS

from scripts.pretended_gpu import Card, PretendedGPU, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def network():
    torch.manual_seed(0)
    options = {"blocks_down": [1, 2, 2, 4], "norm": "INSTANCE", "in_channels": 1, "out_channels": 2, "dsdepth": 3}
    return SegResNetDS(spatial_dims=3, init_filters=4, **options)


def predict(model, image, device, dtype):
    with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        return model(image.to(device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_and_its_gradients_are_those_of_the_cpu(dtype):
    """Gradients in float32 only: in bfloat16, oneDNN leaves some of small layers undefined on processors without it."""

    def work(device):
        outputs = predict(model.to(device), image, device, dtype)
        sum(output.float().square().mean() for output in outputs).backward()
        gradients = [parameter.grad for parameter in model.parameters() if dtype == torch.float32]
        return [tensor.detach().cpu() for tensor in (*outputs, *gradients)]

    image, model = torch.rand(1, 1, 16, 32, 32), network()
    expected = work("cpu")
    model = network()
    with PretendedGPU("real"):
        found = work("cuda")
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_optimizer_steps_alike():
    def train(device):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 3, device=device)).square().mean().backward()
            optimizer.step()
        return model.weight.detach().cpu()

    expected = train("cpu")
    with PretendedGPU("real"):
        assert torch.equal(train("cuda"), expected)


def test_a_mix_of_devices_is_refused():
    with PretendedGPU("real"):
        tensor = torch.rand(3).to("cuda")
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            tensor + torch.rand(3)
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            tensor.numpy()
        assert (tensor + torch.tensor(1.0)).device == torch.device("cuda:0")  # a number may come from the CPU


def test_waits_are_counted_with_their_lines():
    with PretendedGPU("real") as record:
        x = torch.rand(3).to("cuda")
        record.reset()
        _ = x.sum().item(), x[[0]], x.cpu(), x.nonzero(), x.tolist(), (x * 2).clamp_(0)
        assert sum(record.waits.values()) == 5
        assert all("tests/scripts/test_pretended_gpu.py" in line for line in record.waits)
        assert [kernel.name for kernel in record.kernels][-2:] == ["mul.Tensor", "clamp_.default"]


def test_copies_from_pinned_memory_do_not_wait():
    with PretendedGPU("real") as record:
        large = torch.zeros(2**15)
        for source in (large, large.pin_memory()[:], torch.empty(2**15, pin_memory=True)):
            source.to("cuda", non_blocking=True)
        assert dict(record.copies) == {"H2D, pageable, waits": 1, "H2D, pinned": 2}
        assert record.copied_bytes["H2D"] == 3 * 4 * 2**15
        on_device = large.to("cuda")
        record.reset()
        on_device.to("cpu", non_blocking=True)
        torch.empty(2**15, pin_memory=True).copy_(on_device, non_blocking=True)
        assert not record.waits
        torch.empty(2**15).copy_(on_device, non_blocking=True)
        assert sum(record.waits.values()) == 1


def test_memory_flops_and_traffic_of_a_product_by_hand():
    """A matrix of 1 GiB by itself, without any memory; 2 n^3 operations."""
    n = 2**14
    with PretendedGPU("shapes") as record:
        a = torch.empty(n, n).to("cuda")
        record.reset()
        b = a @ a
        assert (b.shape, record.flops, record.traffic) == (a.shape, 2 * n**3, 2 * 2**30)
        assert record.peak == record.now == 2 * 2**30
        assert record.seconds(Card(flops=n**3, bandwidth=1e12)) == 2
        assert record.seconds(Card(flops=1e30, bandwidth=2**30)) == 2
        del b
        record.reset_peak()
        assert record.peak == 2**30


def test_a_metatensor_stays_one():
    with PretendedGPU("real"):
        tensor = MetaTensor(torch.arange(4.0), meta={"id": "a"}).to("cuda")
        assert isinstance(tensor, MetaTensor) and tensor.device.type == "cuda"
        again = (copy.deepcopy(tensor) + 1).cpu()
        assert again.tolist() == [1, 2, 3, 4]


def test_weights_are_saved_and_loaded(tmp_path):
    with PretendedGPU("real"):
        model = torch.nn.Linear(2, 2).to("cuda")
        torch.save({key: value.cpu() for key, value in model.state_dict().items()}, tmp_path / "weights.pt")
        other = torch.nn.Linear(2, 2).to("cuda")
        other.load_state_dict(torch.load(tmp_path / "weights.pt"))
        assert other.bias.device.type == "cuda" and torch.equal(other.bias, model.bias)


def test_nothing_remains_afterwards():
    before = torch.cuda.is_available, torch.Tensor.pin_memory, MetaTensor.__new__
    with PretendedGPU("real"):
        assert torch.cuda.is_available() and torch.cuda.get_device_name() == "Pretended GPU"
    assert (torch.cuda.is_available, torch.Tensor.pin_memory, MetaTensor.__new__) == before
    assert not torch.cuda.is_available()
    assert pickle.loads(pickle.dumps(torch.ones(1))).device.type == "cpu"


def test_another_torch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(RuntimeError, match=r"torch 2\.13\.x only, found 2\.4\.1"), PretendedGPU("real"):
        pass
