"""What leaves the repository is whole, runs by itself, and is the same each time."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch
from monai.apps.utils import HashCheckError
from monai.bundle import ConfigParser, download_large_files

from scripts.bundles import archive, documents, vendoring
from scripts.bundles.configs import check_version, read_json
from scripts.bundles.weights import read_weights
from scripts.export_bundle import export_bundle
from scripts.phantoms import write_scrolls

from custom.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {
    "liver_tumor_2d": {"network_def#backbone": "resnet10", "network_def#decoder_channels": [8, 8, 8, 8, 8]},
    "vesuvius_surface_3d": {"network_def#init_filters": 8},
}
BUNDLES = sorted(SMALL)


def small_network(name: str) -> torch.nn.Module:
    config = json.loads((REPOSITORY / "bundles" / name / "configs" / "inference.json").read_text())
    parser = ConfigParser(config)
    for key, value in SMALL[name].items():
        parser[key] = value
    torch.manual_seed(0)
    return parser.get_parsed_content("network_def")


def export_small(name: str, folder: Path, **options) -> Path:
    """Export a bundle with the random weights of a small network."""
    variant, weights = folder / "small.json", folder / "weights.pt"
    variant.write_text(json.dumps(SMALL[name]))
    if not weights.exists():
        torch.save(small_network(name).state_dict(), weights)
    options = {"output": str(folder / "dist"), "weights": str(weights), "variant": str(variant), **options}
    return export_bundle(name, **options)


@pytest.fixture(scope="module")
def exported(make_folder) -> dict[str, Path]:
    """The folders of both bundles, exported."""
    zips = {name: export_small(name, make_folder(name)) for name in BUNDLES}
    return {name: path.parent / name for name, path in zips.items()}


@pytest.fixture(params=BUNDLES)
def bundle(request, exported) -> Path:
    return exported[request.param]


def test_nothing_points_back_to_the_repository(bundle):
    for path in archive.files_of(bundle):
        assert not path.is_symlink()
        if path.suffix in (".json", ".py", ".md", ".conf"):
            text = path.read_text()
            assert not re.search(r"(?<![\w./])custom[./]", text), path
            assert str(REPOSITORY) not in text
            for target in re.findall(r"\]\(([^)\s#]+)", text) if path.suffix == ".md" else ():
                assert "://" in target or (path.parent / target).is_file(), f"{path}: {target}"
    assert (bundle / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()


def test_configurations_are_those_of_the_repository_but_for_the_packages_name(bundle):
    """By a walk over the values, and with the layout that they have in the repository."""

    def strings(value, key=""):
        if isinstance(value, dict):
            return [found for name, item in value.items() for found in strings(item, name)]
        if isinstance(value, list):
            return [found for item in value for found in strings(item)]
        is_code = isinstance(value, str) and (key.endswith("_target_") or value.startswith("$"))
        return [(is_code, value)]

    for source in (REPOSITORY / "bundles" / bundle.name / "configs").glob("*.json"):
        path = bundle / "configs" / source.name
        if source.stem not in ("train", "inference", "metadata"):  # into which the variant went
            assert len(path.read_text().splitlines()) == len(source.read_text().splitlines())
            before, after = (strings(json.loads(file.read_text())) for file in (source, path))
            assert after == [(code, value.replace("custom", "scripts") if code else value) for code, value in before]


def test_every_component_and_every_import_is_there(bundle):
    """By a walk of its own over the configurations and the exported files."""
    package = bundle / "scripts"

    def defines(module: Path, name: str) -> bool:
        nodes = ast.walk(ast.parse(module.read_text()))
        names = {getattr(node, "name", None) or getattr(node, "id", None) for node in nodes}
        return name in names | {alias.asname or alias.name for alias in aliases(module)}

    def aliases(module: Path):
        tree = ast.walk(ast.parse(module.read_text()))
        return [alias for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names]

    def found(folder: Path, dotted: list[str]) -> Path | None:
        base = folder.joinpath(*dotted)
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

    targets = set()
    for path in (bundle / "configs").glob("*.json"):
        targets |= set(re.findall(r'"scripts\.([\w.]+)"', path.read_text()))
    assert len(targets) > 25
    for target in targets:
        *module, name = target.split(".")
        assert defines(found(package, module), name), target

    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = path.parents[node.level - 1]
                module = node.module.split(".") if node.module else []
                for alias in node.names:
                    source = found(folder, [*module, alias.name]) or found(folder, module)
                    assert source is not None, f"{path}: {ast.unparse(node)}"
                    assert source.stem == alias.name or alias.name == source.parent.name or defines(source, alias.name)


def test_only_what_is_needed_is_there(exported):
    liver, surface = (exported[name] / "scripts" for name in BUNDLES)
    assert (liver / "networks" / "unetplusplus.py").exists()
    assert not (surface / "networks" / "unetplusplus.py").exists()
    assert (surface / "losses" / "cldice.py").exists()
    assert not (liver / "losses" / "cldice.py").exists()
    for package in (liver, surface):
        assert not (package / "data" / "phantoms").exists()
        assert not (package / "scroll").exists()


def test_where_the_repository_is_installed_too_the_bundles_package_is_taken(bundle):
    """That of the repository has no __init__.py, and gives way to one that has."""
    found = PathFinder.find_spec("scripts", [str(REPOSITORY), str(bundle)])
    assert Path(found.origin) == bundle / "scripts" / "__init__.py"


@pytest.mark.slow
def test_a_bundle_predicts_from_its_own_folder(exported, tmp_path):
    """As the zoo documents it: python -m monai.bundle run --config_file configs/inference.json."""
    images = write_scrolls(tmp_path / "data", n_train=1, n_test=1, size=32) / "test_images"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"),
            *("--dataset_dir", str(images), "--output_dir", str(tmp_path / "out")),
            *("--patch_size", "[16,32,32]", "--overlap", "0"),
        ],
        cwd=exported["vesuvius_surface_3d"],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.tif")] == [path.name for path in images.iterdir()]


@pytest.mark.slow
def test_a_zip_is_the_same_bytes_each_time(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    first.mkdir()
    second.mkdir(parents=True)
    name = "vesuvius_surface_3d"
    one = export_small(name, first, torchscript=True)
    assert torch.jit.load(one.parent / name / "models" / "model.ts")(torch.rand(1, 1, 32, 16, 16)).shape[1] == 2
    assert str(tmp_path) not in (one.parent / name / "models" / "model.ts").read_bytes().decode("latin1")
    (second / "weights.pt").write_bytes((first / "weights.pt").read_bytes())
    time.sleep(2)  # the resolution of a date in a zip
    monkeypatch.chdir(tmp_path)
    other = export_small(name, second, output="elsewhere/second/dist", torchscript=True)
    assert one.read_bytes() == other.read_bytes()
    assert (one.parent / "SHA256SUMS").read_text() == (other.parent / "SHA256SUMS").read_text()
    assert one.name == "vesuvius_surface_3d_v0.1.0.zip"

    # Other weights under the same name, with an older time: nothing of the earlier export stays.
    state = torch.load(second / "weights.pt")
    torch.save({key: value + 1 for key, value in state.items()}, second / "weights.pt")
    os.utime(second / "weights.pt", (1e9, 1e9))
    assert export_small(name, second).read_bytes() != one.read_bytes()
    exported = torch.load(other.parent / name / "models" / "model.pt")
    assert all(torch.equal(exported[key], value + 1) for key, value in state.items())
    assert not (other.parent / name / "models" / "model.ts").exists()
    assert "model.ts" not in (other.parent / "SHA256SUMS").read_text()


def test_sums_are_those_of_the_files(bundle):
    lines = (bundle.parent / "SHA256SUMS").read_text().splitlines()
    for line in lines:
        value, name = line.split("  ")
        assert hashlib.sha256((bundle.parent / name).read_bytes()).hexdigest() == value
    assert {line.split("  ")[1] for line in lines} == {
        path.relative_to(bundle.parent).as_posix() for path in bundle.parent.rglob("*") if path.is_file()
    } - {"SHA256SUMS"}


def test_the_zip_holds_the_folder(bundle):
    (path,) = bundle.parent.glob("*.zip")
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        names = file.namelist()
        assert names == sorted(names)
        assert {name: file.read(name) for name in names} == {
            found.relative_to(bundle.parent).as_posix(): found.read_bytes() for found in archive.files_of(bundle)
        }


def test_a_variant_becomes_part_of_the_configurations(exported):
    for name, folder in exported.items():
        for config in ("train", "inference"):
            parser = ConfigParser(json.loads((folder / "configs" / f"{config}.json").read_text()))
            for key, value in SMALL[name].items():
                assert parser[key] == value


def test_a_variant_changes_the_channels_in_the_metadata(tmp_path):
    export_bundle("liver_tumor_2d", output=str(tmp_path), variant="v3_context")
    configs = tmp_path / "liver_tumor_2d" / "configs"
    image = json.loads((configs / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 3
    assert image["channel_def"] == {"0": "image", "1": "image", "2": "image"}
    inference = json.loads((configs / "inference.json").read_text())
    assert inference["network_def"]["in_channels"] == 3
    assert "hypothesis" not in inference and "batch_size" not in inference


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "multiple", "small"),
    [("swin_unetr", 64, {"feature_size": 12}), ("light_unet", 32, {"features": [4, 4, 4, 8, 8, 4]})],
)
def test_a_variant_changes_the_sizes_in_the_metadata(tmp_path, variant, multiple, small):
    """SwinUNETR halves its input five times, BasicUNet four times; normalisation needs two positions at the end."""
    options = json.loads((REPOSITORY / "bundles/vesuvius_surface_3d/configs" / f"{variant}.json").read_text())
    options["network_def"] |= small
    (tmp_path / "small.json").write_text(json.dumps(options))
    export_bundle("vesuvius_surface_3d", output=str(tmp_path), variant=str(tmp_path / "small.json"))
    metadata = json.loads((tmp_path / "vesuvius_surface_3d" / "configs" / "metadata.json").read_text())
    formats = metadata["network_data_format"]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert tensor["spatial_shape"] == [f"{multiple}*n"] * 3


def test_without_weights_a_bundle_is_exported_to_be_trained(tmp_path):
    own = REPOSITORY / "bundles" / "vesuvius_surface_3d" / "models" / "model.pt"
    if own.exists():
        pytest.skip("the repository's bundle has weights")
    path = export_bundle("vesuvius_surface_3d", output=str(tmp_path))
    assert path.is_file() and not (tmp_path / "vesuvius_surface_3d" / "models").exists()


def test_averaged_weights_are_taken_from_a_checkpoint(tmp_path):
    network = {"a": torch.tensor([1.0])}
    average = {"n_averaged": torch.tensor(3), "module.a": torch.tensor([2.0])}
    path = tmp_path / "step_00000010.pt"
    torch.save({"objects": {"network": network, "ema": average, "optimizer": {}}, "iteration": 10}, path)
    assert read_weights(path) == {"a": torch.tensor([2.0])}
    torch.save({"objects": {"network": network, "ema": {}, "optimizer": {}}, "iteration": 10}, path)
    assert read_weights(path) == {"a": torch.tensor([1.0])}


def test_exported_weights_are_flat_and_the_networks_own(bundle):
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    expected = small_network(bundle.name).state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_weights_trained_with_other_settings_are_refused(tmp_path):
    config = read_json(REPOSITORY / "bundles" / "liver_tumor_2d" / "configs" / "inference.json")
    network = ConfigParser(config).get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"window#0": -500, "context_mm": 5.0}}))
    with pytest.raises(DataError, match=r"found weights trained with other settings \(window#0: -500, now -100\), "):
        export_bundle("liver_tumor_2d", output=str(tmp_path / "dist"), weights=str(tmp_path / "model.pt"))
    (tmp_path / "wide.json").write_text(json.dumps({"window": [-500, 200]}))
    options = {"weights": str(tmp_path / "model.pt"), "variant": str(tmp_path / "wide.json")}
    assert export_bundle("liver_tumor_2d", output=str(tmp_path / "dist"), **options).is_file()


def test_weights_of_another_network_are_refused_before_anything_is_written(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"weights\.pt: found weights of another network .* --variant"):
        export_bundle("vesuvius_surface_3d", output=str(tmp_path / "dist"), weights=str(tmp_path / "weights.pt"))
    assert list((tmp_path / "dist").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nothing"}, "bundle nothing: found no such folder .* liver_tumor_2d or vesuvius_surface_3d"),
        ({"variant": "nothing"}, "variant nothing: found no such file"),
        ({"weights": "nothing.pt"}, "nothing.pt: found no such file"),
    ],
)
def test_what_is_not_there_is_named(options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        export_bundle(**{"name": "liver_tumor_2d", "output": str(tmp_path), **options})


def test_nothing_that_was_trained_is_overwritten(tmp_path, monkeypatch):
    """Neither the bundle itself, nor an export in which runs have left something."""
    monkeypatch.setattr("scripts.export_bundle.BUNDLES", tmp_path)
    shutil.copytree(REPOSITORY / "bundles" / "liver_tumor_2d" / "configs", tmp_path / "liver_tumor_2d" / "configs")
    with pytest.raises(DataError, match=r"liver_tumor_2d: found the bundle itself, expected .* another --output"):
        export_bundle("liver_tumor_2d", output=str(tmp_path))
    exported = tmp_path / "dist" / "liver_tumor_2d"
    shutil.copytree(tmp_path / "liver_tumor_2d", exported)
    (exported / "models" / "checkpoints").mkdir(parents=True)
    with pytest.raises(DataError, match=r"found models/checkpoints, which exports do not contain"):
        export_bundle("liver_tumor_2d", output=str(tmp_path / "dist"))
    assert (exported / "models" / "checkpoints").is_dir()


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path):
    (tmp_path / "liver_tumor_2d").mkdir()
    (tmp_path / "liver_tumor_2d" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="found a folder that is not a bundle"):
        export_bundle("liver_tumor_2d", output=str(tmp_path))
    assert (tmp_path / "liver_tumor_2d" / "thesis.txt").read_text() == "mine"


def test_monai_reads_the_list_of_large_files(tmp_path, monkeypatch):
    """MONAI's own command finds every file with its checksum, and therefore asks no server."""
    monkeypatch.setattr("scripts.export_bundle.LARGE", 10**6)
    path = export_small("vesuvius_surface_3d", tmp_path, large_files_url="https://example.org/v0.1.0/")
    bundle = path.parent / "vesuvius_surface_3d"
    (entry,) = ConfigParser.load_config_file(bundle / "large_files.yml")["large_files"]
    assert entry["path"] == "models/model.pt"
    assert entry["url"] == "https://example.org/v0.1.0/models/model.pt"
    assert entry["hash_val"] == hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    monkeypatch.setattr("monai.apps.utils.urlretrieve", None)
    download_large_files(str(bundle))
    (bundle / "models" / "model.pt").write_bytes(b"another")
    with pytest.raises(HashCheckError):
        download_large_files(str(bundle))


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"version": "0.2.0", "changelog": {"0.1.0": "first"}}, "version 0.2.0 without an entry in its changelog"),
        (
            {"version": "0.1.0", "changelog": {"0.1.0": "a", "0.10.0": "b"}},
            "version 0.1.0 and a changelog up to 0.10.0",
        ),
        ({"version": "latest", "changelog": {"latest": "a"}}, "version latest"),
        ({}, "version None"),
    ],
)
def test_a_version_the_changelog_does_not_lead_to_is_refused(metadata, found):
    with pytest.raises(DataError, match=re.escape(f"found {found}, expected")):
        check_version(metadata, Path("metadata.json"))


def test_the_newest_version_is_the_one():
    assert check_version({"version": "0.10.0", "changelog": {"0.9.0": "a", "0.10.0": "b"}}, Path()) == "0.10.0"


def test_documents_stay_within_the_bundle(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "picture.png").touch()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "own.py").touch()
    page = tmp_path / "docs" / "README.md"
    page.write_text(
        "[in](picture.png) ![in](picture.png) [web](https://a.org/b) [part](#x) "
        "[out](../../README.md) ![out](gone.png)\n"
        "`python scripts/report.py RUN` and `scripts/own.py`\n"
    )
    documents.keep_within(tmp_path)
    assert page.read_text() == (
        "[in](picture.png) ![in](picture.png) [web](https://a.org/b) [part](#x) out *out*\n"
        "`python scripts/report.py RUN` in the source repository and `scripts/own.py`\n"
    )


def test_what_a_document_imports_comes_along(tmp_path):
    (tmp_path / "README.md").write_text("`from custom.data import write_volume`, see `custom.ops.run_length`")
    vendoring.vendor_for(tmp_path)
    assert "from .writing import write_volume" in (tmp_path / "scripts" / "data" / "__init__.py").read_text()
    assert (tmp_path / "scripts" / "ops" / "run_length.py").is_file()
    assert not (tmp_path / "scripts" / "losses").exists()


def test_a_component_that_is_not_there_is_named(tmp_path):
    (tmp_path / "train.json").write_text('{"_target_": "custom.losses.Nothing"}')
    with pytest.raises(DataError, match=r"train\.json: found custom\.losses\.Nothing"):
        vendoring.vendor_for(tmp_path)


def test_the_command_line(tmp_path):
    script = [sys.executable, "scripts/export_bundle.py"]
    done = subprocess.run([*script, "nothing", f"--output={tmp_path}"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: bundle nothing: found no such folder")
