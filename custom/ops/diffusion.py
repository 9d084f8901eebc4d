"""Smoothing of probabilities along sheets, not across them."""

import torch

from .gaussian import gaussian

_TIME = 0.25
"""Of a step; explicit steps of central differences are stable below 2/3."""
_INNER, _OUTER = 1.0, 2.0
"""Standard deviations, in voxels, of the Gaussians before the gradient and of its products (the structure tensor)."""

Symmetric = dict[tuple[int, int], torch.Tensor]
"""A symmetric 3 x 3 matrix for each voxel: its six entries (D, H, W)."""


def diffuse_along_sheets(values: torch.Tensor, steps: int) -> torch.Tensor:
    """Diffuse a volume anisotropically: along sheets, where it closes gaps, and not across them.

    The flux is the gradient without its part along the sheet's normal. The normals come from the structure tensor, as
    in J. Weickert, "Coherence-enhancing diffusion filtering", International Journal of Computer Vision 31, 1999, but
    without eigenvectors: normalised powers of the tensor approach the projection onto the normal. Where there is no
    sheet, the diffusion is isotropic. ``n`` steps smooth along a sheet about like a Gaussian of ``sqrt(n / 2)`` voxels.

    Example: ``diffuse_along_sheets(probabilities, steps=8)``

    Args:
        values: (D, H, W) float32, on any device; axes of at least two voxels.

    Returns:
        (D, H, W) float32, within the range of the values.
    """
    normals = _normals(values)
    low, high = values.aminmax()
    for _ in range(steps):
        slopes = _gradient(values)
        change = torch.zeros_like(values)
        for axis, slope in enumerate(slopes):
            flux = slope.clone()
            for other, across in enumerate(slopes):
                flux.addcmul_(normals[min(axis, other), max(axis, other)], across, value=-1)
            change += torch.gradient(flux, dim=axis)[0]
        values = torch.add(values, change, alpha=_TIME).clamp_(low, high)
    return values


def _normals(values: torch.Tensor) -> Symmetric:
    """Projection onto the normal of the sheet at each voxel; a third of the identity where there is none."""
    slopes = _gradient(_smooth(values, _INNER))
    tensor = {(one, other): _smooth(slopes[one] * slopes[other], _OUTER) for one in range(3) for other in range(one, 3)}
    for axis in range(3):
        tensor[axis, axis] += 1e-8  # where the volume is constant
    for _ in range(2):  # the fourth power
        tensor = _squared(_normalized(tensor))
    return _normalized(tensor)


def _squared(tensor: Symmetric) -> Symmetric:
    def entry(one: int, other: int) -> torch.Tensor:
        return tensor[min(one, other), max(one, other)]

    return {
        (i, j): entry(i, 0) * entry(0, j) + entry(i, 1) * entry(1, j) + entry(i, 2) * entry(2, j) for i, j in tensor
    }


def _normalized(tensor: Symmetric) -> Symmetric:
    trace = tensor[0, 0] + tensor[1, 1] + tensor[2, 2]
    return {place: entry / trace for place, entry in tensor.items()}


def _gradient(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.gradient(values, dim=(0, 1, 2))


def _smooth(values: torch.Tensor, sigma: float) -> torch.Tensor:
    return gaussian(values, dict.fromkeys(range(3), sigma), radius=round(3 * sigma), edge=True)
