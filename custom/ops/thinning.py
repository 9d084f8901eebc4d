"""Medial surface on a GPU: the thinning of :func:`custom.ops.skeleton.medial_surface` for all slices at once."""

import torch
import torch.nn.functional as F

from .host_to_device import to_device

ITERATIONS = 24
"""Each takes a voxel off all sides of what is left of a slice's regions. Sheets two to six voxels thick need 20 even
where a slice runs along them."""

_REMOVED = (
    0x0000008000008080111000D0000100DC0B0000008A03CECC01000000000000C8,
    0x130000000000000051D100D5110100840301000003018B840100000001000080,
)
"""The neighbourhoods in which the first and the second pass remove a voxel, as bits. They are those of scikit-image's
``skeletonize``, found by comparing results; unlike Zhang and Suen (1984) it also removes some corners."""


def medial_surfaces(mask: torch.Tensor) -> torch.Tensor:
    """Return the union of the 2-D skeletons of the slices along the three axes, without a wait of the host.

    The number of iterations is fixed, since to ask whether anything has changed would be a wait. It suffices for
    regions of a slice that are up to about ``2 * ITERATIONS`` voxels wide, for which the result is that of
    :func:`custom.ops.skeleton.medial_surface`. Wider regions keep a core: more voxels of the sheet are medial there.

    Args:
        mask: ``(B, D, H, W)``, bool, on any device.

    Returns:
        ``(B, D, H, W)`` uint8, 0 or 1.
    """
    width = max(mask.shape[2:]) + 1  # of the rows of all slices: they end with a zero, and so does each slice
    views = [mask.movedim(axis, 1) for axis in (1, 2, 3)]
    slices = [F.pad(view.to(torch.uint8), (0, width - view.shape[3], 0, 1)) for view in views]
    margin = mask.new_zeros(width + 1, dtype=torch.uint8)
    flat = torch.cat([margin, *(part.flatten() for part in slices), margin])
    _thin(flat, width)
    thinned = flat[width + 1 : -width - 1].split([part.numel() for part in slices])
    medial = torch.zeros_like(mask, dtype=torch.uint8)
    for axis, (view, part, skeleton) in enumerate(zip(views, slices, thinned, strict=True), start=1):
        skeleton = skeleton.view(part.shape)[..., : view.shape[2], : view.shape[3]]
        medial |= skeleton.movedim(1, axis)
    return medial


def _thin(flat: torch.Tensor, width: int) -> None:
    tables = [torch.tensor([1 - (bits >> code & 1) for code in range(256)], dtype=torch.uint8) for bits in _REMOVED]
    tables = to_device(tables, flat.device)
    inner = len(flat) - 2 * (width + 1)

    def shifted(values: torch.Tensor, by: int) -> torch.Tensor:
        return values.narrow(0, width + 1 + by, inner)

    centre = shifted(flat, 0)
    rows = torch.zeros_like(flat)  # of three neighbours each, as bits
    for _ in range(ITERATIONS):
        for kept in tables:
            torch.add(flat[:-2], flat[1:-1], alpha=2, out=rows[1:-1]).add_(flat[2:], alpha=4)
            code = torch.add(shifted(rows, -width), shifted(rows, width), alpha=8)
            code.add_(shifted(flat, -1), alpha=64).add_(shifted(flat, 1), alpha=128)
            centre *= kept.index_select(0, code.int())
