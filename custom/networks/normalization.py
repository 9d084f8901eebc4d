"""Momentum of batch normalisation."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def set_batch_norm_momentum(*, network: nn.Module, momentum: float = 0.1) -> nn.Module:
    """Set the momentum of every batch norm of a network, in place.

    MONAI's EfficientNet uses 0.01, and ``FlexibleUNet`` has no argument for it: running statistics then lag hundreds of
    steps behind the weights, so that evaluation after a short training fails.

    Example: ``set_batch_norm_momentum(network=FlexibleUNet(1, 2, "efficientnet-b0"), momentum=0.1)``

    Args:
        momentum: weight of a batch's mean and variance in the running statistics, above 0 and up to 1.

    Returns:
        The same network.

    Raises:
        ValueError: an invalid momentum.
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum is above 0 and up to 1, found {momentum}")
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
    return network
