import copy
import io

import pytest
import torch
from monai.networks.nets import SegResNetDS, UNet

from custom.networks.checkpointing import checkpoint_activations

FINEST = ["encoder.layers.0.blocks", "encoder.layers.1.blocks", "up_layers.1.blocks", "up_layers.2.blocks"]


def network(norm: str = "INSTANCE") -> torch.nn.Module:
    torch.manual_seed(0)
    return SegResNetDS(init_filters=8, norm=norm, dsdepth=2).train()


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)
    outputs = model(torch.rand(2, 1, 16, 16, 16))
    model.zero_grad()
    sum((output * torch.rand_like(output)).sum() for output in outputs).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def kept_bytes(model: torch.nn.Module) -> int:
    """What one forward pass keeps for backward, the inputs of checkpointed modules included."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def keep_input(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        keep(inputs[0])

    for module in model.modules():
        if "forward" in vars(module):
            module.register_forward_pre_hook(keep_input)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.rand(1, 1, 16, 32, 32))
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in parameters)


@pytest.mark.parametrize("norm", ["INSTANCE", "BATCH"])
@pytest.mark.parametrize("choice", [{"names": FINEST}, {"names": ["*.blocks.[0-9]"]}, {"names": ["encoder*.blocks"]}])
def test_gradients_and_running_statistics_are_those_without(norm, choice):
    plain, checkpointed = network(norm), checkpoint_activations(network(norm), **choice)
    for expected, found in zip(gradients(plain), gradients(checkpointed), strict=True):
        assert torch.equal(found, expected)
    states = plain.state_dict(), checkpointed.state_dict()
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key


def test_dropout_is_the_same_in_both_passes():
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=2, dropout=0.5).train()

    checkpointed = checkpoint_activations(model(), names=["*"])
    for expected, found in zip(gradients(model()), gradients(checkpointed), strict=True):
        assert torch.equal(found, expected)


def test_keeps_less_than_half_on_the_two_finest_levels():
    assert kept_bytes(checkpoint_activations(network(), names=FINEST)) < 0.5 * kept_bytes(network())


def test_only_training_is_checkpointed(monkeypatch):
    calls = []
    real = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        "custom.networks.checkpointing.checkpoint", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    model = checkpoint_activations(network(), names=FINEST)
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        model(image)
    model.eval()(image)
    assert not calls
    model.train()(image)
    assert len(calls) == len(FINEST)


def test_of_nested_modules_the_outermost_is_chosen():
    model = checkpoint_activations(network(), names=["encoder", "encoder.layers.0.blocks", "*.blocks.0"])
    changed = {name for name, module in model.named_modules() if "forward" in vars(module)}
    assert changed == {"encoder", *(f"up_layers.{i}.blocks.0" for i in range(3))}


def pickled(model: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_computes_with_its_own_weights(duplicate):
    model = checkpoint_activations(network(), names=FINEST)
    twin = duplicate(model)
    image = torch.rand(1, 1, 16, 16, 16)
    before = model(image)[0]
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert (twin(image)[0] == 0).all()
    assert torch.equal(model(image)[0], before)


def test_weights_go_to_the_plain_network_and_it_scripts():
    model = checkpoint_activations(network(), names=FINEST)
    plain = network()
    plain.load_state_dict(model.state_dict())
    image = torch.rand(1, 1, 16, 16, 16)
    scripted = torch.jit.script(plain.eval())
    assert torch.allclose(scripted(image), model.eval()(image), atol=1e-5)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"names": ["decoder"]}, "found no module called 'decoder' in "),
        ({"names": ["encoder.layers.0"]}, "ModuleDict"),
    ],
)
def test_refuses_a_choice_without_effect(choice, message):
    with pytest.raises(ValueError, match=message):
        checkpoint_activations(network(), **choice)
