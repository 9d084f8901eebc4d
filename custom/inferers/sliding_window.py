"""Sliding-window inference with little memory."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise, product

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn
from tqdm import tqdm

from ..configuration import without_effect
from ..errors import DataError
from ..ops.windows import Part, WindowGrid, gaussian_weights, nnunet_weights
from .common import (
    ACTIVATIONS,
    autocast_to,
    check_option,
    check_precision,
    device_of,
    in_float32,
    predict_finite,
    with_metadata_of,
)
from .out_of_memory import lacks_memory, predict_in_halves
from .views import ROTATE90, mean_over_views, views

logger = logging.getLogger(__name__)


@without_effect("sw_batch_size", "concurrency", "progress")
class SlidingWindow(Inferer):
    """Predicts overlapping windows and blends them with Gaussian weights.

    Windows, weights and result are those of :class:`monai.inferers.SlidingWindowInferer` in Gaussian mode. Windows are
    predicted in the order of the first axis, and planes that no further window overlaps are written to the output at
    once. Beside input and output, only ``roi_size[0]`` planes are in memory.

    :meth:`planes` does the same for volumes that do not fit into memory.

    Example: ``{"_target_": "custom.inferers.SlidingWindow", "roi_size": [72, 136, 136], "overlap": 0.25,
    "activation": "softmax", "channels": [1]}``

    Args:
        roi_size: (D, H, W) of the window, in voxels. Shorter axes are padded by repeating the border.
        overlap: fraction of the window that the next one overlaps, 0 to below 1, one number or (D, H, W).
        stride: (D, H, W) distance between windows in voxels, instead of ``overlap``.
        sw_batch_size: windows per call of the network; halved when the GPU runs out of memory.
        activation: ``"softmax"`` or ``"sigmoid"``: probabilities are blended and returned. None: logits.
        channels: channels to return; None: all. For a two-class softmax the second channel suffices.
        tta: test-time augmentation: flips of the axes ``"depth"``, ``"vertical"`` and ``"horizontal"`` and quarter
            turns, ``"rotate90"``, and rotations by 15 degrees either way, ``"rotate15"``, of rows and columns, in all
            combinations, whose predictions are averaged, each where it shows the voxel.
        empty_value: windows without any voxel above it lie outside the scanned object and are predicted as 0 without
            calling the network. None: every window is predicted.
        precision: see :class:`custom.inferers.SliceVolumeInferer`. On a CPU in bfloat16 the network is also converted
            to the channels-last memory format.
        concurrency: number of threads that predict batches of windows on a CPU. If torch uses one thread itself, the
            result does not depend on the number of cores.

    Shape:
        Input ``(B, C, D, H, W)``; the network is called with float32 ``(n, C, *roi_size)`` and returns one tensor of
        the same spatial size; output float32 ``(B, C_out, D, H, W)``, a ``MetaTensor`` if the input is one.

    Raises:
        ValueError: an invalid option, or quarter turns of a window with different numbers of rows and columns.
        DataError: a prediction that is not finite.
    """

    like_nnunet = False
    """Whether a subclass places, weighs and blends windows as nnU-Net does: spread evenly, with its Gaussian; volumes
    smaller than the window are padded with 0; logits are blended (and averaged over views), then activated."""

    def __init__(
        self,
        *,
        roi_size: Sequence[int],
        overlap: float | Sequence[float] = 0.25,
        stride: Sequence[int] | None = None,
        sw_batch_size: int = 1,
        activation: str | None = None,
        channels: Sequence[int] | None = None,
        tta: Sequence[str] = (),
        empty_value: float | None = None,
        precision: str = "auto",
        concurrency: int = 1,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_option("activation", activation, ACTIVATIONS)
        check_precision(precision)
        overlap = [overlap] * len(roi_size) if isinstance(overlap, int | float) else list(overlap)
        if len(overlap) != len(roi_size) or not all(0 <= share < 1 for share in overlap):
            raise DataError(f"overlap: expected 0 to below 1, for each axis of {tuple(roi_size)}, found {overlap}")
        if min(sw_batch_size, concurrency, *roi_size) < 1:
            found = (sw_batch_size, concurrency, roi_size)
            raise DataError(f"sw_batch_size, concurrency, roi_size: expected 1 or more, found {found}")
        if ROTATE90 in tta and roi_size[1] != roi_size[2]:
            raise DataError(f"quarter turns need as many rows as columns, found a window of {tuple(roi_size)}")
        if activation is None and empty_value is not None:
            raise ValueError("empty_value needs an activation: windows left out are predicted with probability 0")
        self.roi_size = tuple(roi_size)
        even = [max(1, n * (1 - share)) for n, share in zip(roi_size, overlap, strict=True)]
        self.even = even if stride is None else list(stride)
        """(D, H, W) largest distance of windows that are placed ``like_nnunet``, not rounded."""
        if stride is None:  # rounded as in MONAI, except for the floating-point error of 0.9 * 10
            stride = [int(step + 1e-6) for step in self.even]
        if len(stride) != len(roi_size) or any(not 0 < step <= n for step, n in zip(stride, roi_size, strict=True)):
            raise DataError(f"stride: expected 1 to the window's size {tuple(roi_size)}, found {tuple(stride)}")
        self.stride = tuple(stride)
        """(D, H, W) step between windows, in voxels."""
        self.sw_batch_size = sw_batch_size
        self.activation = ACTIVATIONS[activation]
        self.channels = None if channels is None else list(channels)
        self.views = views(tta)
        self.empty_value = empty_value
        self.precision = precision
        self.concurrency = concurrency
        self.progress = progress

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs
    ) -> torch.Tensor | MetaTensor:
        if inputs.ndim != 5:
            raise ValueError(f"expected (B, C, D, H, W), found {tuple(inputs.shape)}")
        # As plain tensors: operations on a MetaTensor are slower.
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        output = predict_finite(self, lambda inferer: inferer._volumes(volumes, network, args, kwargs))
        return with_metadata_of(inputs, output)

    def grid(self, shape: Sequence[int]) -> WindowGrid:
        """Return the windows of a volume ``(D, H, W)``."""
        return WindowGrid(shape, self.roi_size, self.stride, self.even if self.like_nnunet else None)

    def _volumes(self, volumes: torch.Tensor, network: Callable, args, kwargs) -> torch.Tensor:
        predicted = [self._volume(volume, network, args, kwargs) for volume in volumes]
        return torch.stack(predicted) if len(predicted) > 1 else predicted[0][None]

    def _volume(self, volume: torch.Tensor, network: Callable, args, kwargs) -> torch.Tensor:
        output, at = None, 0
        for planes in self._planes_of(volume, network, args, kwargs):
            if output is None:
                output = torch.empty((len(planes), *volume.shape[1:]), device=volume.device)
            output[:, at : at + planes.shape[1]] = planes
            at += planes.shape[1]
        return output

    def _planes_of(self, volume: torch.Tensor, network: Callable, args, kwargs) -> Iterator[torch.Tensor]:
        part = self.grid(volume.shape[1:]).part()
        if any(map(any, part.padding)):
            mode = "constant" if self.like_nnunet else "replicate"
            volume = F.pad(volume[None].float(), list(chain(*reversed(part.padding))), mode=mode)[0]
        layers = [volume[:, z : z + self.roi_size[0]] for z in part.starts[0]]
        occupied = iter(self._occupied(layers, list(product(*part.starts[1:]))))
        return self._planes(iter(layers), lambda _: next(occupied), part, network, args, kwargs)

    @torch.no_grad()
    def planes(
        self,
        read: Callable[[int, int], torch.Tensor],
        part: Part,
        network: Callable[..., torch.Tensor],
        *args,
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs,
    ) -> Iterator[torch.Tensor]:
        """Predict a part of a volume that need not fit into memory, and yield it in groups of planes.

        Every voxel has the value that it has when the whole volume is predicted; bit for bit if the network's output
        for a window does not depend on the rest of the batch (and but for the last bit ``like_nnunet``, which activates
        blended logits).

        Args:
            read: called with ``start`` and ``stop``, returns these planes of the part's padded input, ``(C, stop -
                start, H, W)`` of any type; called in ascending order, and again for planes that windows share.
            part: which windows, from :meth:`custom.ops.windows.WindowGrid.part`.
            prepare: called with windows ``(n, C, *roi_size)`` float32, on the network's device, returns what is shown
                to the network in all views.

        Yields:
            blended predictions ``(C_out, n, h, w)`` float32, which together are the part's box. They may be modified in
            place and are valid until the next iteration.

        Raises:
            DataError: a window's prediction is not finite, even if it is repeated in float32.
        """
        corners = list(product(*part.starts[1:]))
        layers = (read(z, z + self.roi_size[0]) for z in part.starts[0])
        return self._planes(
            layers,
            lambda layer: self._occupied([layer], corners)[0],
            part,
            network,
            args,
            kwargs,
            prepare=prepare,
            check=True,
        )

    @torch.no_grad()
    def _planes(
        self,
        layers: Iterator[torch.Tensor],
        occupied: Callable,
        part: Part,
        network: Callable,
        args,
        kwargs,
        *,
        prepare: Callable | None = None,
        check: bool = False,
    ) -> Iterator[torch.Tensor]:
        """Predict the layers of windows of a part; ``occupied`` returns the corners of a layer's windows to predict.

        With ``check``, windows whose predictions are not finite are repeated one by one, whatever the batch.
        """
        corners = list(product(*part.starts[1:]))
        (first, last), *rows_and_columns = part.inner
        inner = tuple(slice(*span) for span in rows_and_columns)
        slab = None
        with tqdm(total=part.count, desc="windows", leave=False, disable=not self.progress) as bar:
            for z, following in pairwise([*part.starts[0], part.size[0]]):
                layer = next(layers)
                if slab is None:
                    device = device_of(network, layer)
                    weights = nnunet_weights if self.like_nnunet else gaussian_weights
                    slab = _Slab(weights(self.roi_size), layer.shape[2:], device)
                    _use_channels_last(network, self.precision, device)
                call = partial(self._views, network=network, args=args, kwargs=kwargs, prepare=prepare)
                predict = partial(self._predictions, layer=layer, device=device, slab=slab, call=call)
                left, inferer = occupied(layer), self
                while left:
                    with autocast_to(inferer.precision, device):  # around all windows, to convert weights once
                        predictions = inferer._predictions(left, layer, device, slab, call)
                        left = slab.add_each(predictions, check=check)
                    inferer = in_float32(inferer) if left else inferer
                if slab.total is None:  # only empty windows so far: the number of channels is unknown
                    slab.allocate(self._channels_out(predict, corners))
                slab.weigh(corners)
                start, stop = max(first, z), min(last, following)
                if start < stop:
                    blended = slab.blended(following - z)[(slice(None), slice(start - z, stop - z), *inner)]
                    yield self._activated(blended[None])[0] if self.like_nnunet else blended
                slab.drop(following - z)
                bar.update(len(corners))

    def _occupied(self, layers: list[torch.Tensor], corners: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """The windows of each layer that are not empty; of all layers at once, since a GPU has to be waited for."""
        if self.empty_value is None:
            return [corners] * len(layers)
        windows = [window_of(layer, corner, self.roi_size) for layer in layers for corner in corners]
        filled = iter((torch.stack([window.amax() for window in windows]) > self.empty_value).tolist())
        return [[corner for corner in corners if next(filled)] for _ in layers]

    def _predictions(
        self, corners: list[tuple[int, ...]], layer: torch.Tensor, device: torch.device, slab: "_Slab", call: Callable
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Yield corners of windows in a layer, in order, with their predictions ``(C_out, *roi_size)`` float32."""
        size = self.sw_batch_size
        groups = [corners[start : start + size] for start in range(0, len(corners), size)]
        predict = partial(self._predict_group, layer=layer, device=device, slab=slab, call=call)
        if self.concurrency == 1 or device.type != "cpu":
            predictions = map(predict, groups)  # a GPU still computes while the next group is cut out
        else:
            predictions = _in_threads(predict, groups, self.concurrency)
        for group, predicted in zip(groups, predictions, strict=True):
            yield from zip(group, predicted, strict=True)

    @torch.no_grad()  # grad mode and autocast are per thread
    def _predict_group(
        self, group: list[tuple[int, ...]], layer: torch.Tensor, device: torch.device, slab: "_Slab", call: Callable
    ) -> torch.Tensor:
        windows = torch.stack([window_of(layer, corner, self.roi_size) for corner in group])
        if device.type == "cuda" and windows.device.type == "cpu":
            windows = windows.pin_memory()
        windows = windows.to(device, non_blocking=True).float()
        with autocast_to(self.precision, device):
            try:
                return call(windows)
            except RuntimeError as error:
                if not slab.on_gpu or not lacks_memory(error):
                    raise
            slab.move_to_main_memory()
            return call(windows)

    def _channels_out(self, predict: Callable, corners: list[tuple[int, ...]]) -> int:
        if self.channels is None or self.like_nnunet:
            return len(next(iter(predict(corners[:1])))[1])
        return len(self.channels)

    def _views(
        self, windows: torch.Tensor, network: Callable, args, kwargs, prepare: Callable | None = None
    ) -> torch.Tensor:
        """Mean over all views."""
        windows = windows if prepare is None else prepare(windows)

        def predict(view: torch.Tensor) -> torch.Tensor:
            values = network(view, *args, **kwargs).float()
            return values if self.like_nnunet else self._activated(values)

        return predict_in_halves(partial(mean_over_views, self.views, predict), windows, "windows", self)

    def _activated(self, logits: torch.Tensor) -> torch.Tensor:
        values = self.activation(logits)
        return values if self.channels is None else _channels_of(values, self.channels)


def _in_threads(work: Callable, items: Sequence, threads: int) -> Iterator:
    """Yield results in the order of the items; at most ``threads`` + 1 of them are held."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        yield from (future.result() for future in ahead)


class _Slab:
    """Weighted sums of predictions, and sums of weights, for the planes that further windows may overlap.

    Multiplication and addition are separate: fused operations round differently at the ends of vector registers, so the
    result would depend on a window's position.
    """

    def __init__(self, weights: torch.Tensor, size: Sequence[int], device: torch.device) -> None:
        self.size = (len(weights), *size)
        self.weights = weights.to(device)
        self.total, self.weight = None, torch.empty(0)
        self.weight = self._zeros(1)

    def allocate(self, channels: int) -> None:
        self.total = self._zeros(channels)

    def add(self, corner: Sequence[int], prediction: torch.Tensor) -> None:
        """Add the prediction ``(C, *roi_size)`` of a window whose rows and columns start at ``corner``."""
        if self.total is None:
            self.allocate(len(prediction))
        window_of(self.total, corner, self.weights.shape).add_(prediction.to(self.total.device) * self.weights)

    def add_each(
        self, predictions: Iterator[tuple[tuple[int, ...], torch.Tensor]], *, check: bool
    ) -> list[tuple[int, ...]]:
        """Add predictions of windows. With ``check``, those that are not finite are left out; returns their corners."""
        corners, finite = [], []
        for corner, prediction in predictions:
            if check:
                corners.append(corner)
                finite.append(prediction.sum().isfinite())
                prediction = prediction.where(finite[-1], 0.0)
            self.add(corner, prediction)
        flags = torch.stack(finite).tolist() if finite else []  # a GPU has to be waited for, once
        return [corner for corner, is_finite in zip(corners, flags, strict=True) if not is_finite]

    def weigh(self, corners: Sequence[Sequence[int]]) -> None:
        """Add the weights of windows, predicted or empty."""
        for corner in corners:
            window_of(self.weight, corner, self.weights.shape).add_(self.weights)

    def blended(self, planes: int) -> torch.Tensor:
        """Return the predictions ``(C, planes, H, W)`` of the first planes; valid until these are dropped."""
        return self.total[:, :planes].div_(self.weight[:, :planes])

    def drop(self, planes: int) -> None:
        """Move the remaining planes to the front, without a copy of the slab."""
        kept = self.size[0] - planes
        for sums in (self.total, self.weight):
            for start in range(0, kept, planes):
                stop = min(start + planes, kept)
                sums[:, start:stop] = sums[:, start + planes : stop + planes]
            sums[:, max(kept, 0) :] = 0

    @property
    def on_gpu(self) -> bool:
        """Whether the sums occupy GPU memory that the network could use."""
        return self.weights.device.type != "cpu"

    def move_to_main_memory(self) -> None:
        """Move all three tensors, so that they are on one device."""
        logger.warning("out of GPU memory: predictions are summed up in main memory from now on")
        self.total = None if self.total is None else self.total.cpu()
        self.weight, self.weights = self.weight.cpu(), self.weights.cpu()
        torch.cuda.empty_cache()

    def _zeros(self, channels: int) -> torch.Tensor:
        try:
            return torch.zeros((channels, *self.size), device=self.weights.device)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
        self.move_to_main_memory()
        return torch.zeros((channels, *self.size))


def _use_channels_last(network: Callable, precision: str, device: torch.device) -> None:
    """Convert the network to channels-last if it runs in bfloat16 on a CPU, where this is faster."""
    with autocast_to(precision, device) as dtype:
        if dtype is torch.bfloat16 and device.type == "cpu" and isinstance(network, nn.Module):
            is_3d = any(weight.dim() == 5 for weight in network.parameters())  # nnU-Net's 2-D networks see one slice
            network.to(memory_format=torch.channels_last_3d if is_3d else torch.channels_last)


def _channels_of(values: torch.Tensor, channels: Sequence[int]) -> torch.Tensor:
    """Return channels of ``(B, C, ...)``; indexing with a list would copy the list to the GPU, which waits for it."""
    picked = [values[:, channel].unsqueeze(1) for channel in channels]
    return picked[0] if len(picked) == 1 else torch.cat(picked, dim=1)


def window_of(planes: torch.Tensor, corner: Sequence[int], roi_size: Sequence[int]) -> torch.Tensor:
    """Return a view ``(C, roi_size[0], H, W)`` of the rows and columns of one window."""
    (top, left), (_, height, width) = corner, roi_size
    return planes[:, :, top : top + height, left : left + width]
