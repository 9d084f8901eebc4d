"""Every variant of the surface bundle trains, infers and exports by its override file alone."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import list_data_collate

from custom.ops.target_layout import TARGET_CHANNELS

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "vesuvius_surface_3d" / "configs"
NETWORKS = {
    "light_unet": {"network_def#features": [4, 4, 4, 8, 8, 4]},
    "exp001_full": {"network_def#init_filters": 8, "patch_size": [16, 32, 32]},
    "swin_unetr": {"network_def#feature_size": 12, "patch_size": [32, 64, 64]},
}
"""What makes each network small enough for a test."""
VARIANTS = [*NETWORKS, "smoke", "low_memory", "loss_dice_ce"]


def load(*names: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files([str(CONFIGS / f"{name}.json") for name in names]))


@pytest.fixture
def bundle(phantoms):
    return phantoms["vesuvius_surface_3d"]


@pytest.fixture
def options(bundle):
    """As small as the other tests, whatever the network is called."""
    return {key: value for key, value in bundle.options.items() if not key.startswith("network_def")}


def prepared(bundle, options, tmp_path, *names: str) -> ConfigWorkflow:
    folders = {"cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / "out"), "model_dir": str(tmp_path)}
    flow = ConfigWorkflow(
        bundle.configs("train", *names), workflow_type="train", bundle_root=str(bundle.root), **options | folders
    )
    flow.initialize()
    return flow


@pytest.mark.parametrize("name", VARIANTS)
def test_an_override_holds_only_what_differs(name):
    whole = load("train")
    for key, value in ConfigParser.load_config_file(CONFIGS / f"{name}.json").items():
        assert whole[key] != value, f"{name}.json repeats {key}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_and_predicts(bundle, options, tmp_path, name):
    options = options | NETWORKS[name]
    flow = prepared(bundle, options, tmp_path, name)
    trainer = flow.parser.get_parsed_content("train#trainer")
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    trainer.run()
    assert trainer.state.iteration == 4
    changed = [not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True)]
    assert np.mean(changed) > 0.9
    assert (tmp_path / "model.pt").exists()

    inference = options | {"dataset_dir": str(bundle.images), "model_dir": str(tmp_path), "output_dir": str(tmp_path)}
    inference = {key: value for key, value in inference.items() if "#" in key or key in load("inference").get()}
    flow = ConfigWorkflow(
        bundle.configs("inference", name), workflow_type="infer", bundle_root=str(bundle.root), **inference
    )
    flow.initialize()
    flow.run()
    assert len(list(tmp_path.glob("*.tif"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, *NETWORKS])
def test_a_network_exports(tmp_path, name):
    """The networks are traced, which SwinUNETR needs: its attention cannot be scripted."""
    parser = load("inference", *([name] if name else []))
    small = NETWORKS[name] if name else {"network_def#init_filters": 8, "patch_size": [16, 32, 32]}
    parser.update(small)
    network = parser.get_parsed_content("network_def").eval()
    image = torch.rand(1, 1, *parser.get_parsed_content("patch_size"))
    with torch.no_grad():
        expected = network(image)
        assert isinstance(expected, torch.Tensor)
        assert expected.shape == (1, 2, *image.shape[2:])
        traced = torch.jit.trace(network, image)
        torch.testing.assert_close(traced(image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [None, *NETWORKS])
def test_patch_and_overlap_are_legal(name):
    """MONAI's SwinUNETR halves the patch five times, SegResNetDS three times, on blocks four times; BasicUNet pads."""
    parser = load("train", *([name] if name else []))
    network = parser["network_def#_target_"].rpartition(".")[2]
    divisor = {"SwinUNETR": 32, "SpaceToDepthSegResNetDS": 16, "SegResNetDS": 8}.get(network, 1)
    assert all(size % divisor == 0 for size in parser["patch_size"])
    overlap = parser["overlap"]
    assert all(0 <= share < 1 for share in (overlap if isinstance(overlap, list) else [overlap]))


def test_the_seeds_configurations():
    full, smoke, default = load("train", "exp001_full"), load("train", "smoke"), load("train")
    knobs = ("steps_per_epoch", "epochs", "batch_size", "num_workers")
    assert [full[knob] for knob in knobs] == [4000, 32, 2, 4]
    assert all(full["loss_weights"].values())
    assert smoke["steps_per_epoch"] == 10
    assert default["steps_per_epoch"] == 2000


def test_every_term_reaches_the_network_through_the_loader(bundle, options, tmp_path):
    """One batch of the bundle's own loader: each term alone gives gradients, all together their weighted sum."""
    options = options | {"loss#every#betti": 1, "network_def#init_filters": 8}
    parser = prepared(bundle, options, tmp_path, "exp001_full").parser
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    assert batch["label"].shape[1] == len(TARGET_CHANNELS)
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    total = loss(network.train()(batch["image"]), batch["label"])
    assert set(loss.components) == set(load("train")["loss_weights"]) == set(loss.weights)
    weighted = sum(loss.weights[name] * value for name, value in loss.components.items())
    assert float(total) == pytest.approx(float(weighted), rel=1e-5)
    for name in loss.weights:
        network.zero_grad()
        output = network(batch["image"])
        loss.terms[name](output if name in loss.deep else output[0], batch["label"]).backward()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None), name
        assert next(network.parameters()).grad.abs().sum() > 0, name


def test_dice_and_cross_entropy_alone(bundle, options, tmp_path):
    loss = load("train", "loss_dice_ce").get_parsed_content("loss")
    logits, target = torch.randn(1, 2, 8, 8, 8), torch.randint(0, 3, (1, 3, 8, 8, 8)).float()
    total = loss(logits, target)
    assert list(loss.components) == ["dice_ce"]
    assert float(total) == pytest.approx(float(loss.components["dice_ce"]))


def test_low_memory_keeps_less_and_computes_the_same(bundle, options, tmp_path):
    options = options | {"network_def#init_filters": 8}
    kept, gradients = {}, {}
    for names in ([], ["low_memory"]):
        parser = prepared(bundle, options, tmp_path, *names).parser
        trainer = parser.get_parsed_content("train#trainer")
        image = torch.linspace(-1, 1, 16 * 32 * 32).reshape(1, 1, 16, 32, 32)
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(_keep, saved), _same):
            output = trainer.network.train()(image)[0]
        output.square().sum().backward()
        weights = {parameter.data_ptr() for parameter in trainer.network.parameters()}
        kept[len(names)] = sum(tensor.nbytes for tensor in saved if tensor.data_ptr() not in weights)
        gradients[len(names)] = [parameter.grad for parameter in trainer.network.parameters()]
    assert kept[1] < 0.6 * kept[0]
    for plain, recomputed in zip(gradients[0], gradients[1], strict=True):
        assert (plain is None) == (recomputed is None)
        if plain is not None:
            torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize(("patch", "planes"), [([16, 24, 32], 0), ([16, 32, 32], 1), ([32, 32, 32], 3)])
def test_quarter_turns_are_made_in_square_planes_only(patch, planes):
    parser = load("train")
    parser["patch_size"] = patch
    transforms = parser.get_parsed_content("train#batch_transforms").transforms
    (symmetries,) = (transform for transform in transforms if type(transform).__name__ == "RandSymmetriesd")
    assert len(symmetries.planes) == planes
    assert type(transforms[-1]).__name__ == "SurfaceTargetsd"


def test_every_augmentation_can_be_turned_off():
    """With all probabilities at 0 an item is the patch itself."""
    parser = load("train")
    for name in parser["augmentation"]:
        for key in ("flip_prob", "rotate_prob") if name == "symmetries" else ("prob",):
            parser[f"augmentation#{name}#{key}"] = 0.0
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 32), dtype=np.uint8)
    label = np.zeros_like(image)
    label[0, 7:9] = 1
    item = {"image": torch.from_numpy(image), "label": torch.from_numpy(label), "seed": 0}
    item = parser.get_parsed_content("train#preprocessing")(item)
    batch = parser.get_parsed_content("train#batch_transforms")(list_data_collate([item]))
    np.testing.assert_allclose(batch["image"][0], image / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(batch["label"][0, :1], label)


def test_probabilities_are_written_in_255_steps(bundle, tmp_path):
    parser = load("inference", "probabilities")
    parser["output_dir"] = str(tmp_path)
    scale = parser.get_parsed_content("postprocessing").transforms[0]
    values = scale({"pred": torch.tensor([0.0, 0.001, 0.5, 0.999, 1.0])})["pred"].numpy().astype(np.uint8)
    np.testing.assert_array_equal(values, [0, 0, 128, 255, 255])


def test_the_configs_name_no_term_twice():
    weights = json.loads((CONFIGS / "train.json").read_text())["loss"]["terms"]
    assert set(weights) == set(load("train")["loss_weights"])


def _keep(saved: list[torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    saved.append(tensor)
    return tensor


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
