"""Whole volumes predicted slice by slice with a 2-D network."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from ..configuration import without_effect
from ..errors import DataError
from ..ops.slice_context import context_offsets, slice_neighbours
from .common import ACTIVATIONS, autocast_to, check_option, check_precision, device_of, predict_finite, with_metadata_of
from .out_of_memory import predict_in_halves
from .views import mean_over_views, views

FLIPS = ("vertical", "horizontal")


@without_effect("sw_batch_size", "progress")
class SliceVolumeInferer(Inferer):
    """Predicts a volume slice by slice, in batches, optionally averaged over flips.

    Slices lie along the first spatial axis (in this package's orientation "SPL", from inferior to superior). Beside the
    volume and its output, only one batch is in memory.

    Example: ``{"_target_": "custom.inferers.SliceVolumeInferer", "sw_batch_size": 8, "divisor": 32,
    "tta": ["horizontal"]}``

    Args:
        tta: test-time augmentation: flips ``"horizontal"`` (columns reversed: left and right of the patient) and
            ``"vertical"`` (rows reversed), in all combinations, whose predictions are averaged.
        n_context: number of neighbouring slices on each side that are added as channels, lowest first. With C channels
            in the volume, input channel ``k * C + c`` is channel c of the k-th slice.
        context_mm: distance between these slices in mm, see :func:`custom.ops.slice_context.context_offsets`; needs a
            ``MetaTensor`` for the slice spacing. None: adjacent slices.
        divisor: rows and columns are padded at their end, with the edge's values, to a multiple of it, and the
            prediction is cropped back. MONAI's ``FlexibleUNet`` needs 32.
        activation: ``"sigmoid"`` or ``"softmax"``: probabilities are averaged and returned; None: logits.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``: type to which the network is autocast. ``"auto"``:
            bfloat16 with hardware support (CPU with AVX512-BF16, CUDA from Ampere on), float16 on older CUDA devices,
            otherwise float32. Activation and averaging are computed in float32.

    Shape:
        Input ``(B, C, D, H, W)``, or single slices ``(B, C, H, W)``, of any dtype. The network is called with float32
        ``(n, (2 * n_context + 1) * C, H', W')``, H' and W' being the padded sizes, and returns one tensor. Output
        float32 ``(B, C_out, D, H, W)`` or ``(B, C_out, H, W)``, a ``MetaTensor`` if the input is one.

    Raises:
        ValueError: an unknown option, an input with a wrong number of dimensions or without slices, ``context_mm``
            without a known slice spacing, or a prediction whose size differs from its slice's.
        DataError: a prediction that is not finite.
    """

    def __init__(
        self,
        *,
        sw_batch_size: int = 8,
        tta: Sequence[str] = (),
        n_context: int = 0,
        context_mm: float | None = None,
        divisor: int = 1,
        activation: str | None = "sigmoid",
        precision: str = "auto",
        progress: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"sw_batch_size": sw_batch_size, "divisor": divisor}.items():
            if value < 1:
                raise DataError(f"{name} must be 1 or more, found {value}")
        check_option("activation", activation, ACTIVATIONS)
        check_precision(precision)
        context_offsets(n_context, context_mm, spacing_mm=1.0)  # raises for invalid values
        self.sw_batch_size = sw_batch_size
        self.views = views(tta, known=FLIPS)
        self.n_context = n_context
        self.context_mm = context_mm
        self.divisor = divisor
        self.activation = ACTIVATIONS[activation]
        self.precision = precision
        self.progress = progress

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs
    ) -> torch.Tensor | MetaTensor:
        if inputs.ndim not in (4, 5) or 0 in inputs.shape:
            raise ValueError(f"expected (B, C, D, H, W) or (B, C, H, W), none of them 0, found {tuple(inputs.shape)}")
        # as plain tensors: operations on a MetaTensor are slower
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        volumes = volumes.unsqueeze(2) if inputs.ndim == 4 else volumes
        offsets = self._offsets(inputs)
        output = predict_finite(self, lambda inferer: inferer._volumes(volumes, offsets, network, args, kwargs))
        return with_metadata_of(inputs, output.squeeze(2) if inputs.ndim == 4 else output)

    def _volumes(
        self, volumes: torch.Tensor, offsets: list[list[int]], network: Callable, args, kwargs
    ) -> torch.Tensor:
        device = device_of(network, volumes)
        neighbours = [
            [slice_neighbours(index, volumes.shape[2], own) for index in range(volumes.shape[2])] for own in offsets
        ]
        jobs = [(b, z) for b in range(volumes.shape[0]) for z in range(volumes.shape[2])]
        size = self.sw_batch_size
        starts = range(0, len(jobs), size)
        output = None
        with autocast_to(self.precision, device):
            for start in tqdm(starts, desc="slices", unit="batch", leave=False, disable=not self.progress):
                batch_jobs = jobs[start : start + size]
                batch = torch.stack([_with_context(volumes[b], neighbours[b][z]) for b, z in batch_jobs])
                batch = batch.to(device, torch.float32, memory_format=torch.channels_last)
                view = partial(self._view, network=network, args=args, kwargs=kwargs)
                predict = partial(mean_over_views, self.views, view)
                parts = batch.split(self.sw_batch_size)  # smaller once memory has run out
                predictions = torch.cat([predict_in_halves(predict, part, "slices", self) for part in parts])
                if output is None:
                    shape = (len(volumes), predictions.shape[1], *volumes.shape[2:])
                    output = torch.empty(shape, device=volumes.device)
                for (b, z), prediction in zip(batch_jobs, predictions.to(output.device), strict=True):
                    output[b, :, z] = prediction
        return output

    def _view(self, view: torch.Tensor, network: Callable[..., torch.Tensor], args, kwargs) -> torch.Tensor:
        """Activated output of the network for one view, float32, of the view's size."""
        rows, columns = (-length % self.divisor for length in view.shape[2:])
        padded = F.pad(view, (0, columns, 0, rows), mode="replicate") if rows or columns else view
        logits = network(padded, *args, **kwargs).float()
        if logits.shape[2:] != padded.shape[2:]:
            raise ValueError(f"the network made {tuple(logits.shape[2:])} of slices of {tuple(padded.shape[2:])}")
        return self.activation(logits[:, :, : view.shape[2], : view.shape[3]])

    def _offsets(self, inputs: torch.Tensor) -> list[list[int]]:
        context_mm = self.context_mm if self.n_context > 0 else None
        spacings = [None] * len(inputs) if context_mm is None else _slice_distances(inputs)
        return [context_offsets(self.n_context, context_mm, spacing) for spacing in spacings]


def _with_context(volume: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """Slices ``indices`` of ``(C, D, H, W)`` as channels: ``(len(indices) * C, H, W)``."""
    return torch.cat([volume[:, index] for index in indices])


def _slice_distances(inputs: torch.Tensor) -> list[float]:
    if not isinstance(inputs, MetaTensor):
        raise ValueError("context in mm needs a MetaTensor: a plain tensor does not know the distance between slices")
    spacings = inputs.pixdim if inputs.is_batch else [inputs.pixdim] * len(inputs)
    return [float(spacing[0]) for spacing in spacings]
