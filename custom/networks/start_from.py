"""Training from existing weights, of all layers or of some."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import DataError
from ..system.state_dict import misfit, read_state_dict


def start_from(*, network: nn.Module, weights: str, trained: Sequence[str] = ("*",)) -> nn.Module:
    """Load weights into a network, freeze the parameters that are not to be trained, and return the network.

    Example: ``start_from(network=network, weights="model.pt", trained=["decoder.seg_layers.*"])``

    Args:
        network: any module, on any device; modified in place.
        trained: names of the parameters to train, or patterns.

    Raises:
        DataError: the weights are not the network's, or no parameter has such a name.
    """
    state = read_state_dict(weights)
    if wrong := misfit(state, network.state_dict()):
        raise DataError.of(weights, wrong, f"the weights of {type(network).__name__}")
    network.load_state_dict(state)
    names = [name for name, _ in network.named_parameters()]
    for pattern in trained:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise DataError.of("trained", repr(pattern), f"names of parameters, such as {names[-1]}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trained))
    return network
