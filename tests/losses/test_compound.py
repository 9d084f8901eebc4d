import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss
from monai.networks.nets import SegResNetDS

from custom.errors import DataError
from custom.losses.betti_matching import BettiMatchingLoss
from custom.losses.boundary import SurfaceDistanceLoss
from custom.losses.cldice import SoftClDiceLoss
from custom.losses.compound import CompoundLoss
from custom.losses.dice_ce import MaskedDiceCELoss
from custom.losses.medial_recall import MedialRecallLoss
from custom.ops.betti import betti_available
from custom.ops.target_layout import surface_targets


class Value(torch.nn.Module):
    """A term that counts its calls and returns a multiple of the mean output."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert input.shape[2:] == target.shape[2:]
        self.shapes.append(tuple(input.shape[2:]))
        return self.factor * input.mean()


def terms() -> dict[str, torch.nn.Module]:
    every_term = {
        "dice_ce": MaskedDiceCELoss(),
        "cldice": SoftClDiceLoss(),
        "medial": MedialRecallLoss(),
        "distance": SurfaceDistanceLoss(),
    }
    return every_term | ({"betti": BettiMatchingLoss(crop_size=12)} if betti_available() else {})


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``(2, 1, 16, 16, 16)`` and full targets with sheets and an ignored corner."""
    image = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(16, 16, 16)
    label[3:6] = label[10:12] = 1
    label[:, 12:] = 2
    target = surface_targets(label[None], 10.0)[0]
    return image, torch.stack([target, target.flip(-1)])


@pytest.fixture(scope="module")
def levels() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, n, n, n, generator=generator) for n in (16, 8, 4)]


def test_sum_of_weighted_terms_of_which_some_see_every_level(levels):
    _, target = batch()
    region, skeleton = MaskedDiceCELoss(), SoftClDiceLoss()
    loss = CompoundLoss(
        terms={"dice_ce": region, "cldice": skeleton}, weights={"dice_ce": 0.5, "cldice": 2.0}, deep=["dice_ce"]
    )
    expected = {"dice_ce": DeepSupervisionLoss(region)(levels, target), "cldice": skeleton(levels[0], target)}
    assert loss(levels, target).item() == pytest.approx(0.5 * expected["dice_ce"] + 2 * expected["cldice"])
    assert loss.components == {name: pytest.approx(value) for name, value in expected.items()}
    assert not any(value.requires_grad for value in loss.components.values())


def test_one_tensor_is_one_level(levels):
    _, target = batch()
    loss = CompoundLoss(terms={"dice_ce": MaskedDiceCELoss()}, weights={"dice_ce": 1.0}, deep=["dice_ce"])
    assert torch.equal(loss(levels[0], target), MaskedDiceCELoss()(levels[0], target))


def test_weight_zero_and_unavailable_terms_are_not_computed(levels):
    _, target = batch()
    parts = {"a": Value(2.0), "off": Value(), "missing": Value()}
    parts["missing"].available = False
    loss = CompoundLoss(terms=parts, weights={"a": 1.0, "off": 0.0, "missing": 1.0})
    assert loss(levels, target).item() == pytest.approx(2 * levels[0].mean().item())
    assert set(loss.components) == {"a"}
    assert [len(part.shapes) for part in parts.values()] == [1, 0, 0]


def test_every_nth_call_and_a_resume_in_step(levels):
    _, target = batch()

    def make() -> tuple[CompoundLoss, Value]:
        rare = Value()
        return CompoundLoss(
            terms={"a": Value(), "rare": rare}, weights={"a": 1.0, "rare": 1.0}, every={"rare": 3}
        ), rare

    loss, rare = make()
    mean = levels[0].mean().item()
    totals = [loss(levels, target).item() for _ in range(5)]
    assert totals == pytest.approx([2 * mean, mean, mean, 2 * mean, mean])
    assert len(rare.shapes) == 2
    assert loss.components["rare"].item() == pytest.approx(mean)
    resumed, rare = make()
    resumed.load_state_dict(loss.state_dict())
    assert [resumed(levels, target).item() for _ in range(2)] == pytest.approx([mean, 2 * mean])


@pytest.mark.parametrize("alone", [*terms(), None])
def test_every_term_reaches_every_parameter_of_the_network(alone):
    torch.manual_seed(0)
    network = SegResNetDS(init_filters=8, norm="INSTANCE", dsdepth=2).train()
    image, target = batch()
    weights = {name: float(alone in (name, None)) for name in terms()}
    deep = ["dice_ce"] if alone in ("dice_ce", None) else []
    value = CompoundLoss(terms=terms(), weights=weights, deep=deep)(network(image), MetaTensor(target))
    value.backward()
    assert type(value) is torch.Tensor
    for name, parameter in network.named_parameters():
        if name.startswith("up_layers.1.head") and not deep:  # the coarser head, of deep supervision alone
            assert parameter.grad is None
        else:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_everything_ignored_is_finite():
    _, target = batch()
    target[:, 0] = 2
    logits = torch.randn(2, 2, 16, 16, 16, requires_grad=True)
    value = CompoundLoss(terms=terms(), weights=dict.fromkeys(terms(), 1.0))(logits, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-4)
    assert (logits.grad == 0).all()


def test_declared_in_json(levels):
    _, target = batch()
    config = {
        "cldice_weight": 0.5,
        "loss": {
            "_target_": "custom.losses.compound.CompoundLoss",
            "terms": {
                "dice_ce": {"_target_": "custom.losses.dice_ce.MaskedDiceCELoss"},
                "cldice": {"_target_": "custom.losses.cldice.SoftClDiceLoss", "iterations": 5},
            },
            "weights": {"dice_ce": 1, "cldice": "@cldice_weight"},
            "deep": ["dice_ce"],
        },
    }
    loss = ConfigParser(config).get_parsed_content("loss")
    loss(levels, target)
    assert loss.weights == {"dice_ce": 1.0, "cldice": 0.5}
    assert set(loss.components) == {"dice_ce", "cldice"}


@pytest.mark.parametrize(
    ("weights", "every", "refused"),
    [
        ({"a": 0.0, "b": 0.0, "gone": 0.0}, {}, True),
        ({"a": 0.0, "b": 0.0, "gone": 1.0}, {}, True),
        ({"a": 0.0, "b": 1.0, "gone": 0.0}, {"b": 32}, True),
        ({"a": 0.0, "b": 1.0, "gone": 0.0}, {"b": 1}, False),
        ({"a": 0.5, "b": 1.0, "gone": 0.0}, {"b": 32}, False),
    ],
)
def test_every_step_has_a_term_to_learn_from(levels, weights, every, refused):
    _, target = batch()
    parts = {"a": Value(), "b": Value(), "gone": Value()}
    parts["gone"].available = False
    if refused:
        with pytest.raises(DataError, match="loss_weights: found steps without any term"):
            CompoundLoss(terms=parts, weights=weights, every=every)
    else:
        loss = CompoundLoss(terms=parts, weights=weights, every=every)
        logits = levels[0].clone().requires_grad_()
        for _ in range(2):
            (gradient,) = torch.autograd.grad(loss(logits, target), logits)
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"a": 1.0}}, "a weight for each term"),
        ({"weights": {"a": 1.0, "b": 1.0, "c": 1.0}}, "a weight for each term"),
        ({"weights": {"a": 1.0, "b": 1.0}, "deep": ["dice"]}, "'dice'"),
        ({"weights": {"a": 1.0, "b": 1.0}, "every": {"betti": 4}}, "'betti'"),
    ],
)
def test_refuses_names_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        CompoundLoss(terms={"a": Value(), "b": Value()}, **options)
