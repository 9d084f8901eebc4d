"""How fast batch norm's running statistics follow the training."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["set_batch_norm_momentum"]


def set_batch_norm_momentum(*, network: nn.Module, momentum: float = 0.1) -> nn.Module:
    """Set the momentum of every batch norm of a network, in place.

    MONAI's EfficientNet has 0.01 and ``FlexibleUNet`` lets no other be chosen: the running statistics, by which a
    network predicts, then lag some hundreds of steps behind its weights, and a short training scores 0 however well it
    goes.

    Args:
        network: any network; its state dict stays as it is.
        momentum: share of a batch's mean and variance in the new running ones, above 0 and up to 1.

    Returns:
        The same network.

    Raises:
        ValueError: for another momentum.
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum is above 0 and up to 1, found {momentum}")
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
    return network
