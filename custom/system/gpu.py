"""Whether torch has kernels for a GPU."""

import functools

import torch

from ..errors import DataError


@functools.cache
def check_gpu(device: torch.device) -> None:
    """Check that this build of torch serves a GPU; other devices pass.

    Builds for CUDA 13 begin at compute capability 7.5 (Turing). On older cards they fail in the first convolution.

    Raises:
        DataError: the card is older than all that the build has kernels for.
    """
    if device.type != "cuda":
        return
    served = [int(name[3:]) for name in torch.cuda.get_arch_list() if name.startswith("sm_") and name[3:].isdigit()]
    major, minor = torch.cuda.get_device_capability(device)
    if served and 10 * major + minor < min(served):
        raise DataError.of(
            torch.cuda.get_device_name(device),
            f"compute capability {major}.{minor}, for which torch {torch.__version__} has no kernels",
            f"{min(served) // 10}.{min(served) % 10} or later, or torch's build for CUDA 12.6 (cu126), or --device cpu",
        )
