"""Weighted sum of losses, some with deep supervision."""

from collections.abc import Mapping, Sequence

import torch
from monai.losses import DeepSupervisionLoss
from torch.nn.modules.loss import _Loss

from ..errors import DataError


class CompoundLoss(_Loss):
    """Weighted sum of named losses, for networks with deep supervision.

    The terms in ``deep`` are computed on every level of the output by :class:`monai.losses.DeepSupervisionLoss`, whose
    weights halve from level to level, the others on the finest level only: skeletons and distances in voxels are
    meaningless on a downsampled target. Terms with weight 0 or whose ``available`` is False are not computed.

    After each call ``components`` holds the unweighted value of each term by name, as detached tensors on the loss's
    device. A term that is computed every N-th call keeps its last value in between. The number of calls is in the state
    dict, so that a resumed run continues exactly.

    Example: ``CompoundLoss(terms={"dice_ce": MaskedDiceCELoss(), "cldice": SoftClDiceLoss()},
    weights={"dice_ce": 1.0, "cldice": 0.5}, deep=["dice_ce"])``

    Args:
        terms: loss modules by name, each called as ``loss(input, target)``.
        every: the interval N of terms that are computed only on every N-th call, from the first on; their weight is not
            scaled.

    Raises:
        DataError: unknown names, a term without weight, or no term that is computed in every call.
    """

    def __init__(
        self,
        *,
        terms: Mapping[str, torch.nn.Module],
        weights: Mapping[str, float],
        deep: Sequence[str] = (),
        every: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        every = dict(every or {})
        if set(weights) != set(terms):
            raise DataError(f"a weight for each term expected: terms {sorted(terms)}, weights {sorted(weights)}")
        if unknown := {*deep, *every} - set(terms):
            raise DataError(f"deep and every name terms that do not exist: {sorted(unknown)}, terms {sorted(terms)}")
        self.terms = torch.nn.ModuleDict(
            {name: _DeepLoss(term) if name in deep else term for name, term in terms.items()}
        )
        self.weights = {name: float(weights[name]) for name in terms if getattr(terms[name], "available", True)}
        if not any(weight and every.get(name, 1) == 1 for name, weight in self.weights.items()):
            found = f"steps without any term (weights {self.weights}, intervals {every})"
            raise DataError.of("loss_weights", found, "a weight other than 0 for a term of every step")
        self.deep = frozenset(deep)
        self.every = every
        self.calls = 0
        self.components: dict[str, torch.Tensor] = {}

    def forward(self, input: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Compute the weighted sum of the losses.

        Args:
            input: logits ``(B, 2, D, H, W)``, or a list of them from the finest level to the coarsest.
            target: ``(B, K, D, H, W)``, see :data:`custom.ops.target_layout.TARGET_CHANNELS`.
        """
        levels = [input] if isinstance(input, torch.Tensor) else input
        total = torch.zeros((), device=levels[0].device)
        for name, weight in self.weights.items():
            if weight and self.calls % self.every.get(name, 1) == 0:
                value = self.terms[name](levels if name in self.deep else levels[0], target)
                self.components[name] = value.detach()
                total = total + weight * value
        self.calls += 1
        return total

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


class _DeepLoss(DeepSupervisionLoss):
    """MONAI's loss without its copy of a zero to the GPU, for which the CPU waits."""

    def forward(self, input: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        weights = self.get_weights(len(input))
        terms = (weight * self.get_loss(level.float(), target) for weight, level in zip(weights, input, strict=True))
        return sum(terms)  # ty: ignore[invalid-explicit-return]
