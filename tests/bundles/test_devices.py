"""A GPU gives what the CPU gives in float32: every configuration's training step, and every inferer.

Without a GPU, a pretended one stands in: it computes the same, and refuses a mix of devices.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from monai.utils import set_determinism

from scripts.pretended_gpu import PretendedGPU, Record, why_not

from custom import inferers, losses
from custom.inferers import AutocastInferer, NnunetInferer

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SURFACE, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"
REAL = torch.cuda.is_available()
TOLERANCE = 2e-3 if REAL else 1e-6
"""Difference, as a share of the largest value."""
ELSEWHERE = {
    *("evaluate", "export_onnx", "inference", "inference_deploy", "inference_onnx", "metadata", "probabilities"),
    "smoke",
}
"""Configurations that do not train in one process, or whose steps are those of train.json."""
SMALL = {
    SURFACE: {"network_def#init_filters": 4},
    LIVER: {"network_def#decoder_channels": [16, 16, 8, 8, 8]},
}
OWN_NETWORK = {
    "light_unet": {"network_def#features": [4, 4, 4, 8, 8, 4]},
    "exp001_full": {"network_def#init_filters": 8, "patch_size": [16, 32, 32]},
    "swin_unetr": {"network_def#feature_size": 12, "patch_size": [32, 32, 64]},
    **{name: {} for name in ("v1_baseline", "v3_context", "v4_resnet_elastic")},
    "v2_unetplusplus": {"network_def#backbone": "efficientnet-b0"},
    "v5_wide_context": {"network_def#architecture#features_per_stage": [4, 4, 4, 8, 8, 8]},
}
"""Configurations whose network is their point."""
SIZES = {SURFACE: {"patch_size": [32, 32, 32], "batch_size": 1}, LIVER: {"slice_size": [64, 64], "batch_size": 2}}
WAITS = 0
"""How often the host may wait for the GPU in a training step, logs and terms with an interval left out."""

pytestmark = pytest.mark.skipif(not REAL and why_not() is not None, reason=f"needs a GPU: {why_not()}")


def declared() -> list[tuple[str, str]]:
    """All bundles with all configurations that train."""
    files = [
        (bundle, path.stem) for bundle in (SURFACE, LIVER) for path in (BUNDLES / bundle / "configs").glob("*.json")
    ]
    return sorted(pair for pair in files if pair[1] not in ELSEWHERE and not pair[1].startswith("multi_gpu"))


@pytest.fixture
def gpu() -> Iterator[Record | None]:
    """A GPU in full float32: convolutions without TF32, whose products have 10 bits."""
    if REAL:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield None
    else:
        with PretendedGPU("real") as record:
            yield record


@pytest.fixture(scope="module")
def folder(make_folder) -> Path:
    return make_folder("devices")


def assert_alike(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    for a, b in zip(found, expected, strict=True):
        a, b = a.detach().float().cpu(), b.detach()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def trainer_of(phantoms, folder: Path, bundle: str, name: str, device: str):
    options = {"dataset_dir": str(phantoms[bundle].data), "n_folds": 3, "num_workers": 0, **SIZES[bundle]}
    options |= {key: str(folder / bundle / key) for key in ("cache_dir", "model_dir", "output_dir")}
    options |= {"precision": "float32", "device": f"$torch.device('{device}')", "bundle_root": str(BUNDLES / bundle)}
    network = OWN_NETWORK.get(name, SMALL[bundle])
    options |= network.get(bundle, network)
    files = phantoms[bundle].configs(*dict.fromkeys(["train", name]))
    flow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)
    for id in ("module", "module#network"):  # convolutions with channels last, which only a GPU gets, round differently
        if "memory_format" in str(flow.parser.get(id, "")) and isinstance(flow.parser[id], str):
            flow.parser[id] = "$@network_def.to(@device)"
    set_determinism(seed=0)  # as its initialization does, which also checks the options, as others test
    return flow.parser.get_parsed_content("train#trainer")


def step(trainer) -> None:
    trainer.state.batch = next(iter(trainer.data_loader))
    trainer.state.output = trainer._iteration(trainer, trainer.state.batch)


@pytest.mark.parametrize(("bundle", "name"), declared(), ids=lambda value: value)
def test_a_training_step(phantoms, folder, bundle, name, request):
    """Loss and gradients of its networks, losses, activations that are recomputed, and what else it declares."""

    def work(device: str) -> list[torch.Tensor]:
        trainer = trainer_of(phantoms, folder, bundle, name, device)
        step(trainer)
        assert trainer.state.output["loss"].device.type == device
        return [trainer.state.output["loss"], *(p.grad for p in trainer.network.parameters() if p.grad is not None)]

    expected = work("cpu")
    request.getfixturevalue("gpu")
    assert_alike(work("cuda"), expected)


@pytest.mark.parametrize("bundle", SIZES)
def test_a_training_step_does_not_wait_more_than_it_has_to(phantoms, folder, bundle, gpu):
    if gpu is None:
        pytest.skip("only a pretended GPU counts its waits")
    trainer = trainer_of(phantoms, folder, bundle, "train", "cuda")
    step(trainer)  # with terms that have an interval
    gpu.reset()
    step(trainer)
    assert sum(gpu.waits.values()) <= WAITS, gpu.waits


def test_every_loss_is_declared_by_a_configuration():
    """And is tested above by its training step."""
    texts = [(BUNDLES / bundle / "configs" / f"{name}.json").read_text() for bundle, name in declared()]
    offered = [name for name, what in vars(losses).items() if isinstance(what, type)]
    missing = [name for name in offered if not any(f"custom.losses.{name}" in text for text in texts)]
    assert not missing


def inference(bundle: str) -> ConfigParser:
    config = ConfigParser.load_config_file(BUNDLES / bundle / "configs" / "inference.json")
    parser = ConfigParser({**config, "precision": "float32"})
    parser.update(SMALL[bundle] | ({"patch_size": [16, 32, 32]} if bundle == SURFACE else {}))
    return parser


def network(bundle: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return inference(bundle).get_parsed_content("network_def").eval()


@pytest.mark.parametrize("bundle", SIZES)
def test_inferers(bundle, request):
    """With test-time augmentation; whole volumes may stay in main memory."""
    parser = inference(bundle)
    parser.update({"tta": ["depth", "horizontal"]} if bundle == SURFACE else {"context_mm": None})
    shape = (1, 1, 18, 40, 34) if bundle == SURFACE else (1, 1, 3, 40, 34)
    volume, original = torch.randn(shape, generator=torch.Generator().manual_seed(0)), network(bundle)
    inferer = parser.get_parsed_content("inferer")
    expected = inferer(volume, original)
    request.getfixturevalue("gpu")
    copied = deepcopy(original).to("cuda")
    for where in ("cpu", "cuda"):
        assert_alike([inferer(volume.to(where), copied)], [expected])


def test_a_model_of_nnunet(request):
    """As ``scripts.import_nnunet`` declares it, with resampling."""
    torch.manual_seed(0)
    network, affine = torch.nn.Conv3d(1, 2, 3, padding=1), torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0]))
    volume = MetaTensor(torch.randn(1, 1, 10, 24, 20), affine=affine)
    windows = {"roi_size": [16, 16, 16], "overlap": 0.5, "tta": ["depth"], "precision": "float32"}
    inferer = NnunetInferer(spacing=[1, 1, 1], activation="softmax", **windows)
    expected = inferer(volume, network)
    request.getfixturevalue("gpu")
    copied = deepcopy(network).to("cuda")
    for where in ("cpu", "cuda"):
        assert_alike([inferer(volume.to(where), copied)], [expected.as_tensor()])


def test_every_inferer_is_declared_by_a_configuration():
    """And is tested above; models of nnU-Net are declared where they are imported."""
    texts = [(BUNDLES / bundle / "configs" / f"{name}.json").read_text() for bundle, name in declared()]
    missing = [name for name in inferers.__all__ if not any(f"custom.inferers.{name}" in text for text in texts)]
    assert missing == ["NnunetInferer"]


@pytest.mark.parametrize("bundle", SIZES)
def test_probabilities_in_bfloat16(bundle, request):
    shape = (1, 1, 16, 32, 32) if bundle == SURFACE else (1, 5, 64, 64)
    image, original = torch.randn(shape, generator=torch.Generator().manual_seed(0)), network(bundle)
    with torch.no_grad():
        expected = AutocastInferer(precision="float32")(image, original).sigmoid()
        request.getfixturevalue("gpu")
        found = AutocastInferer(precision="bfloat16")(image.to("cuda"), deepcopy(original).to("cuda")).sigmoid()
    assert_alike([found], [expected], 0.05)
