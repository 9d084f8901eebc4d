"""SegResNetDS whose channels are the voxels of small blocks."""

from collections.abc import Sequence

import torch
from einops.layers.torch import Rearrange
from monai.networks.blocks import SubpixelUpsample
from monai.networks.nets import SegResNetDS
from torch import nn

from ..errors import DataError
from .sizes import check_sizes


class SpaceToDepthSegResNetDS(SegResNetDS):
    """MONAI's SegResNetDS in which a block of ``factor``^3 voxels is one position, and its voxels are channels.

    Convolutions at full resolution take most of a U-Net's time and memory, and see a few voxels only. Here all layers
    work on blocks, and nothing is discarded: the input's blocks are rearranged to channels (space to depth; Ridnik et
    al., "TResNet", WACV 2021), and sub-pixel convolutions predict every voxel from the blocks around it.

    Example: ``{"_target_": "custom.networks.SpaceToDepthSegResNetDS", "init_filters": 24, "dsdepth": 3}``

    Args:
        init_filters: as SegResNetDS has at full resolution; the finest level here, that of the blocks, has ``factor``
            times as many, as SegResNetDS has at its resolution.
        dsdepth: levels with an output, for deep supervision.
        factor: edge of a block in voxels.

    Shape:
        Input ``(B, in_channels, D, H, W)``, sizes divisible by ``factor * 2 ** (len(blocks_down) - 1)``; output
        ``(B, out_channels, D, H, W)``. In training mode with ``dsdepth > 1`` a list, each output half as large as the
        one before.

    Raises:
        DataError: a size is not divisible.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 2,
        init_filters: int = 16,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        norm: Sequence | str = "instance",
        act: Sequence | str = "relu",
        dsdepth: int = 1,
        factor: int = 2,
    ) -> None:
        super().__init__(
            spatial_dims=3,
            init_filters=init_filters * factor,
            in_channels=in_channels * factor**3,
            out_channels=out_channels,
            act=act,
            norm=norm,
            blocks_down=tuple(blocks_down),
            dsdepth=dsdepth,
            preprocess=Rearrange("b c (d p) (h q) (w r) -> b (c p q r) d h w", p=factor, q=factor, r=factor),
        )
        self.divisors = [factor * divisor for divisor in self.shape_factor()]
        for level in self.up_layers:
            head = level["head"]
            if not isinstance(head, nn.Identity):
                upsample = SubpixelUpsample(
                    3, head.in_channels, out_channels, scale_factor=factor, apply_pad_pool=False
                )
                level.add_module("head", upsample)

    def forward(self, x: torch.Tensor) -> None | torch.Tensor | list[torch.Tensor]:
        if not torch.jit.is_scripting():
            sizes = list(x.shape[2:])
            check_sizes(sizes, self.divisors)
            if sizes == list(self.divisors):  # instance norm needs more than one position at the coarsest level
                raise DataError.of("the network", f"patches of {sizes}", "a larger size along one of the axes")
        return self._forward(x)
