"""Values that depend on nothing but input, model and windows; nothing computed, read or lost that need not be."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from monai.inferers import SlidingWindowInferer
from scipy import ndimage

from custom.errors import DataError
from custom.ops.windows import even_starts, nnunet_weights
from custom.scroll import worker
from custom.scroll.engine import predict_scroll
from custom.scroll.model import Bundle
from custom.scroll.ome_zarr import open_image, write_image
from custom.scroll.space import Space
from custom.scroll.worker import predict_block

from .tiny_scroll import CONFIG, ROI, SHAPE, SMALL, STRIDE, grouped, tree, write_bundle, write_version_2


def level(path, number=0) -> np.ndarray:
    return zarr.open_array(str(path), path=str(number), mode="r")[...]


def test_probabilities_are_those_of_monais_inferer(undisturbed, volume, bundle):
    grey = torch.from_numpy(volume)[None, None] / 255 * 2 - 1
    overlap = [1 - step / size for step, size in zip(STRIDE, ROI, strict=True)]
    network = bundle.network()
    monai = SlidingWindowInferer(ROI, 1, overlap, mode="gaussian")
    with torch.no_grad():
        expected = monai(grey, lambda windows: network(windows).softmax(1))[0, 1].numpy() * 255
    found = level(undisturbed)
    # Windows without any scanned voxel are not predicted, which their neighbours' margins feel.
    far = np.ones(SHAPE, bool)
    far[: 14 + 8, : 20 + 12, : 14 + 12] = False
    assert np.abs(found - expected)[far].max() < 0.51
    scanned = ndimage.maximum_filter(volume, 3) > 0
    assert found[~scanned].max() == 0
    assert found[scanned].std() > 20
    dark = scanned & (volume == 0) & far  # these make no hole
    assert dark.sum() > 10 and found[dark].min() > 0


@pytest.mark.parametrize("block", [(16, 16, 16), (32, 16, 32), (16, 32, 32)])
def test_blocks_do_not_matter(predict, undisturbed, tmp_path, block):
    predict(output=tmp_path / "out", block=block)
    assert tree(tmp_path / "out") == tree(undisturbed)


def test_order_does_not_matter(predict, undisturbed, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(
        "custom.scroll.engine._predict_blocks", lambda client, job, *_, **__: (jobs.append(job), ([], {}))[1]
    )
    monkeypatch.setattr("custom.scroll.engine._write_coarse_levels", lambda *_: {})
    predict(output=tmp_path / "out", block=(16, 32, 16))
    (job,) = jobs
    for box in reversed(job.plan.blocks()):
        predict_block(job, box, "cpu", lambda voxels: None)
    monkeypatch.undo()
    assert predict(output=tmp_path / "out")["blocks_done_now"] == 0
    assert tree(tmp_path / "out") == tree(undisturbed)


@pytest.mark.parametrize("options", [{"threads": 3}, {"threads": 2, "block": (16, 16, 32)}])
def test_threads_do_not_matter(predict, undisturbed, tmp_path, options):
    predict(output=tmp_path / "out", **options)
    assert tree(tmp_path / "out") == tree(undisturbed)


def test_batches_are_always_full(predict, tmp_path, monkeypatch):
    """A network whose answer depends on how many windows it gets, as libraries' algorithms do."""
    seen = set()
    monkeypatch.setattr(worker.Predictor, "__init__", with_batches_of_two(seen))
    worker._load.cache_clear()
    predict(output=tmp_path / "a", block=(32, 32, 32))
    predict(output=tmp_path / "b", block=(16, 16, 16))
    worker._load.cache_clear()
    assert seen == {2}
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def with_batches_of_two(seen):
    original = worker.Predictor.__init__

    def init(self, *args):
        original(self, *args)
        self.inferer.sw_batch_size = 2
        self.network.register_forward_hook(lambda module, args, output: seen.add(len(args[0])))

    return init


@pytest.mark.parametrize("region", ["3:25,5:30,0:26", "17:18,:,20:"])
def test_a_region_has_the_values_of_the_whole(predict, undisturbed, tmp_path, region):
    predict(output=tmp_path / "out", region=region)
    box = tuple(slice(*[int(n) if n else None for n in span.split(":")]) for span in region.split(","))
    assert np.array_equal(level(tmp_path / "out"), level(undisturbed)[box])


def test_version_2_of_zarr_and_a_bare_array(predict, undisturbed, volume, tmp_path):
    write_version_2(tmp_path / "v2", volume, 20)
    zarr.create_array(str(tmp_path / "bare"), data=volume, chunks=(8, 8, 8), shards=(16, 16, 16))
    for name in ("v2", "bare"):
        predict(input=str(tmp_path / name), output=tmp_path / f"{name}-out")
        assert np.array_equal(level(tmp_path / f"{name}-out"), level(undisturbed)), name


@pytest.mark.parametrize("size", [(5, 30, 9), (8, 12, 12), (6, 7, 8)])
def test_volumes_smaller_than_a_window(predict, bundle, volume, tmp_path, size):
    box = tuple(slice(-length, None) for length in size)
    small = np.ascontiguousarray(volume[box])
    write_image(str(tmp_path / "small"), small, chunk=4)
    predict(input=str(tmp_path / "small"), output=tmp_path / "out", block=(16, 16, 16))
    grey = torch.from_numpy(small)[None, None] / 255 * 2 - 1
    network = bundle.network()
    with torch.no_grad():
        expected = bundle.windows()(grey, network)[0, 0].numpy() * 255
    assert np.abs(level(tmp_path / "out") - expected).max() < 0.51


def test_mask(predict, undisturbed, tmp_path):
    predict(output=tmp_path / "out", threshold=0.5)
    found, probability = level(tmp_path / "out"), level(undisturbed)
    clear = np.abs(probability.astype(int) - 127.5) > 1
    assert np.array_equal(found[clear], probability[clear] > 127)
    assert set(np.unique(found)) == {0, 1}


def test_a_second_run_does_what_is_missing(predict, undisturbed, tmp_path):
    out = tmp_path / "out"
    assert predict(output=out)["blocks_done_now"] > 0
    again = predict(output=out)
    assert (again["blocks_done_now"], again["voxels"], again["chunks_fetched"]) == (0, 0, 0)
    for name in ("0/c/1/1/0", "1/c/1/1/0", ".progress/0/1.1.0", ".progress/0/0.0.1"):
        (out / name).unlink()
    again = predict(output=out, block=(32, 16, 16))
    assert again["blocks_done_now"] == 2
    assert again["voxels"] == 12 * 16 * 16 + 16 * 16 * 10  # a layer of each block: one at the far border of z, one of x
    assert tree(out) == tree(undisturbed)


def test_what_ends_with_a_chunk_counts_in_the_block_after_it(predict, tmp_path):
    """The scan ends with plane 15, a chunk, a shard and a window: plane 16 is next to it in whatever block."""
    volume = np.zeros((32, 16, 16), np.uint8)
    volume[:16] = 200
    write_image(str(tmp_path / "in"), volume, chunk=8)
    for name, block in (("one", (32, 16, 16)), ("two", (16, 16, 16))):
        predict(input=str(tmp_path / "in"), output=tmp_path / name, block=block)
    found = level(tmp_path / "two")
    assert found[16].any() and not found[17:].any()
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    shutil.rmtree(tmp_path / "one" / "0" / "c" / "1")  # as when it was interrupted after the first layer of shards
    assert predict(input=str(tmp_path / "in"), output=tmp_path / "one", block=(32, 16, 16))["blocks_done_now"] == 1
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_reads_are_those_of_the_plan(predict, volume, tmp_path):
    write_image(str(tmp_path / "full"), np.maximum(volume, 1), chunk=8)
    for block, chunks in (((32, 32, 32), 4 * 4 * 4), ((16, 32, 16), None)):
        summary = predict(input=str(tmp_path / "full"), output=tmp_path / f"{block[0]}", block=block)
        assert summary["chunks_fetched"] == summary["planned"]["chunks"]
        assert summary["chunks_fetched"] == chunks or chunks is None
        assert summary["windows"] == summary["windows_predicted"] == summary["planned"]["windows"]


def test_nothing_is_predicted_where_nothing_was_scanned(predict, tmp_path):
    volume = np.zeros((40, 40, 40), np.uint8)
    volume[2, 3, 36] = 9
    write_image(str(tmp_path / "empty"), volume, chunk=8)
    summary = predict(input=str(tmp_path / "empty"), output=tmp_path / "out", block=(48, 48, 48))
    by_hand = [range(0, 40 - 8 + 1, 4), (0, 9, 18, 27, 28), (0, 9, 18, 27, 28)]
    holding = [
        all(a <= p < a + n for a, p, n in zip(corner, (2, 3, 36), ROI, strict=True))
        for corner in itertools.product(*by_hand)
    ]
    assert summary["windows_predicted"] == sum(holding) == 2
    written = [name for name in tree(tmp_path / "out") if name.startswith("0/c/")]
    assert written == ["0/c/0/0/2"]
    assert summary["chunks_fetched"] == 1  # the others are absent, and nothing is asked twice


def test_a_failed_block_is_reported_and_the_others_are_done(predict, undisturbed, scroll, tmp_path, monkeypatch):
    original = worker._ShardLayers.predict

    def failing(run, *args):
        if run.box[1] == (16, 32):
            raise RuntimeError("no\nluck")
        return original(run, *args)

    monkeypatch.setattr("custom.scroll.engine.RETRIES", 0)
    monkeypatch.setattr(worker._ShardLayers, "predict", failing)
    summary = predict(output=tmp_path / "out", block=(32, 16, 32))
    assert summary["failed"] == {"0:28,16:32,0:26": "RuntimeError: no luck"}
    assert summary["blocks_done_now"] == 1
    monkeypatch.undo()
    assert predict(output=tmp_path / "out", block=(32, 16, 32))["blocks_done_now"] == 1
    assert tree(tmp_path / "out") == tree(undisturbed)


def bundle_of(folder, weight, bias, **inferer):
    """A network that looks at voxels one by one: logits 0, and ``weight`` x + ``bias`` with x from -1 to 1."""
    write_bundle(folder, inferer=CONFIG["inferer"] | inferer)
    state = {"weight": torch.zeros(2, 1, 3, 3, 3), "bias": torch.tensor([0.0, bias])}
    state["weight"][1, 0, 1, 1, 1] = weight
    torch.save(state, folder / "models" / "model.pt")
    return Bundle.read(str(folder))


@pytest.mark.parametrize("block", [(32, 32, 32), (16, 16, 16)])
def test_windows_that_overflow_are_predicted_again_in_float32(predict, tmp_path, caplog, block):
    """Logits of 6e4 x + 1e4: x = 1 is too much for float16, x = 0.18 and -0.2 are not."""
    volume = np.full(SHAPE, 102, np.uint8)
    volume[5:20, 6:25, 10:20] = 150
    volume[17, 16, 12] = 255
    write_image(str(tmp_path / "in"), volume, chunk=8)
    bundle = bundle_of(tmp_path / "b", 6e4, 1e4, precision="float16")
    summary = predict(input=str(tmp_path / "in"), output=tmp_path / "out", bundle=bundle, block=block)
    assert np.array_equal(level(tmp_path / "out"), 255 * (volume > 127))
    assert "is not finite: it is made again in float32" in caplog.text
    if block == (32, 32, 32):
        by_hand = [range(0, 28 - 8 + 1, 4), (0, 9, 18, 20), (0, 9, 14)]
        holding = [sum(a <= p < a + n for a in at) for at, p, n in zip(by_hand, (17, 16, 12), ROI, strict=True)]
        assert summary["windows_predicted"] - summary["windows"] == np.prod(holding)


def test_a_block_that_is_not_finite_in_float32_either_fails(predict, tmp_path, monkeypatch):
    monkeypatch.setattr("custom.scroll.engine.RETRIES", 0)
    bundle = bundle_of(tmp_path / "b", 1.0, np.nan, precision="float16")
    summary = predict(output=tmp_path / "out", bundle=bundle, block=(32, 32, 32))
    (error,) = summary["failed"].values()
    assert error.startswith("DataError: the network's prediction: found values that are not finite")
    assert not [name for name in tree(tmp_path / "out") if "/c/" in name or ".progress" in name]


def test_refuses_to_go_on_with_another_prediction(predict, undisturbed, bundle):
    with pytest.raises(DataError, match=r"found a prediction with kind 'probability', expected 'mask'"):
        predict(output=undisturbed, threshold=0.5)
    with pytest.raises(DataError, match=r"a prediction with region"):
        predict(output=undisturbed, region="0:16,0:16,0:16")


def other_bundle(folder, **changes):
    return Bundle.read(str(write_bundle(folder, **changes)))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"inferer": {"overlap": (0.5, 0.25, 0.3)}}, "windows stride"),
        ({"inferer": {"tta": ["depth"]}}, "windows views"),
        ({"inferer": {"precision": "bfloat16"}}, "precision"),
        ({"inferer": {"activation": "sigmoid"}}, "windows activation"),
        ({"network_def": {"padding_mode": "@mode"}, "mode": "reflect"}, "model network"),
    ],
)
def test_refuses_to_go_on_with_other_settings(predict, undisturbed, tmp_path, changes, name):
    entries = {key: CONFIG[key] | value if key in CONFIG else value for key, value in changes.items()}
    with pytest.raises(DataError, match=rf"found a prediction with {name}.*--overwrite True to begin anew"):
        predict(output=undisturbed, bundle=other_bundle(tmp_path / "b", **entries))


def nnunet(folder, **windows):
    """A bundle with the normalisation and the windows of an nnU-Net model."""
    normalisation = {"mean": 110.0, "std": 30.0, "percentile_00_5": 5.0, "percentile_99_5": 250.0}
    load, channel, _ = CONFIG["preprocessing"]["transforms"]
    scale = {"_target_": "custom.transforms.NormalizeNnunetd", "keys": "image", "scheme": "CTNormalization"}
    steps = {"_target_": "Compose", "transforms": [load, channel, scale | {"properties": normalisation}]}
    inferer = {"_target_": "custom.inferers.NnunetInferer", "spacing": [1, 1, 1], "roi_size": ROI, "overlap": 0.5}
    inferer |= {"activation": "softmax", "channels": [1], "precision": "float32"}
    return other_bundle(folder, preprocessing=steps, inferer=inferer | windows)


def test_refuses_to_go_on_with_windows_that_nnunet_would_place_elsewhere(predict, tmp_path):
    """Steps of 6.6 and 6.72 voxels, both 6 when rounded, make five and four windows of 12 voxels in 32 rows."""
    bundles = [nnunet(tmp_path / name, overlap=[0.5, share, 0.5]) for name, share in (("a", 0.45), ("b", 0.44))]
    predict(output=tmp_path / "out", bundle=bundles[0])
    assert predict(output=tmp_path / "out", bundle=bundles[0])["blocks_done_now"] == 0
    with pytest.raises(DataError, match=r"found a prediction with windows stride \[4\.0, 6\.60*\d?, 6\.0\], expected"):
        predict(output=tmp_path / "out", bundle=bundles[1])


@pytest.mark.parametrize("size", [(5, 30, 9), (6, 7, 8)])
def test_volumes_smaller_than_a_window_of_nnunet_are_padded_with_zeros_after_scaling(predict, volume, tmp_path, size):
    small = np.ascontiguousarray(volume[tuple(slice(-length, None) for length in size)])
    write_image(str(tmp_path / "in"), small, chunk=4)
    bundle = nnunet(tmp_path / "b", overlap=[0.5, 0.25, 0.25], tta=["depth", "horizontal"])
    predict(input=str(tmp_path / "in"), output=tmp_path / "out", bundle=bundle, block=(16, 16, 16))
    padding = [(max(n - m, 0) // 2, max(n - m, 0) - max(n - m, 0) // 2) for n, m in zip(ROI, size, strict=True)]
    scaled = np.pad((np.clip(small.astype(np.float32), 5, 250) - 110) / 30, padding)
    network, total, weight = bundle.network(), torch.zeros(scaled.shape), torch.zeros(scaled.shape)
    for corner in itertools.product(*(even_starts(m, n, s) for m, n, s in zip(scaled.shape, ROI, STRIDE, strict=True))):
        window = tuple(slice(at, at + n) for at, n in zip(corner, ROI, strict=True))
        for axes in ([], [2], [4], [2, 4]):
            with torch.no_grad():
                logits = network(torch.from_numpy(scaled[window].copy())[None, None].flip(axes)).flip(axes)[0]
            total[window] += (logits[1] - logits[0]) / 4 * nnunet_weights(ROI)
        weight[window] += nnunet_weights(ROI)
    inside = tuple(slice(before, before + length) for (before, _), length in zip(padding, size, strict=True))
    expected = (total / weight).sigmoid()[inside].numpy() * 255
    assert np.abs(level(tmp_path / "out") - expected).max() < 0.51


def test_an_entry_that_the_network_refers_to_counts(predict, tmp_path):
    network = {"network_def": CONFIG["network_def"] | {"padding_mode": "@mode"}}
    modes = {mode: other_bundle(tmp_path / mode, **network, mode=mode) for mode in ("zeros", "reflect")}
    predict(output=tmp_path / "out", bundle=modes["zeros"])
    with pytest.raises(DataError, match="found a prediction with model network mode 'zeros', expected 'reflect'"):
        predict(output=tmp_path / "out", bundle=modes["reflect"])


def test_refuses_to_go_on_with_other_weights_of_the_same_name_and_an_older_time(predict, tmp_path):
    folder = write_bundle(tmp_path / "b")
    predict(output=tmp_path / "out", bundle=Bundle.read(str(folder)))
    weights = torch.load(folder / "models" / "model.pt")
    torch.save({key: value * 2 for key, value in weights.items()}, folder / "models" / "model.pt")
    os.utime(folder / "models" / "model.pt", (1.6e9, 1.6e9))
    with pytest.raises(DataError, match="found a prediction with model sha256"):
        predict(output=tmp_path / "out", bundle=Bundle.read(str(folder)))


def test_refuses_weights_that_changed_after_they_were_named(predict, tmp_path):
    """As when a training still writes them, or another machine has others under the same path."""
    folder = write_bundle(tmp_path / "b")
    bundle = Bundle.read(str(folder))
    weights = torch.load(folder / "models" / "model.pt")
    torch.save({key: value * 2 for key, value in weights.items()}, folder / "models" / "model.pt")
    with pytest.raises(DataError, match=r"model\.pt: found weights .*with which the prediction began"):
        bundle.network()
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(DataError, match=r"model\.pt: found weights that are not there"):
        bundle.network()


def test_refuses_to_go_on_with_another_scroll_of_the_same_name_and_an_older_time(predict, volume, tmp_path):
    where = {"input": str(tmp_path / "in"), "output": tmp_path / "out"}
    write_image(where["input"], volume, chunk=8)
    predict(**where)
    before = tree(where["output"])
    shutil.rmtree(where["input"])
    write_image(where["input"], 255 - volume, chunk=8)
    for file in (tmp_path / "in").rglob("*"):
        os.utime(file, (1.6e9, 1.6e9))
    with pytest.raises(DataError, match=r"out: found a prediction with input (metadata|chunks|content)"):
        predict(**where)
    assert tree(where["output"]) == before
    predict(**where, overwrite=True)
    predict(input=where["input"], output=tmp_path / "fresh")
    assert tree(where["output"]) == tree(tmp_path / "fresh")


def test_goes_on_with_the_same_scroll_in_another_place(predict, scroll, undisturbed, tmp_path):
    shutil.copytree(scroll, tmp_path / "moved", copy_function=shutil.copy2)
    assert predict(input=str(tmp_path / "moved"), output=undisturbed)["blocks_done_now"] == 0


def test_overwriting_spares_what_is_no_prediction(predict, scroll, undisturbed, tmp_path):
    before = tree(Path(scroll))
    for output in (scroll, f"{scroll}/0", Path(scroll).parent):
        with pytest.raises(DataError, match=r"the place of the input|no prediction of a scroll"):
            predict(output=output, overwrite=True)
    with pytest.raises(DataError, match="the place of the input"):
        predict(input=str(undisturbed), output=undisturbed, overwrite=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("kept")
    with pytest.raises(DataError, match="files that are no zarr group"):
        predict(output=tmp_path / "notes", overwrite=True)
    assert tree(Path(scroll)) == before
    assert tree(tmp_path / "notes") == {"a.txt": b"kept"}


def test_an_output_without_its_metadata_is_not_gone_on_with(predict, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "out")
    (tmp_path / "out" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="out: found nothing that opens"):
        predict(output=tmp_path / "out")
    (tmp_path / "out" / "zarr.json").unlink()
    with pytest.raises(DataError, match="files that are no zarr group"):
        predict(output=tmp_path / "out")


@pytest.mark.parametrize("number", [0, 1])
def test_shards_that_were_lost_are_made_again(predict, undisturbed, tmp_path, caplog, number):
    shutil.copytree(undisturbed, tmp_path / "out")
    (tmp_path / "out" / str(number) / "c" / "1" / "1" / "0").unlink()
    assert predict(output=tmp_path / "out")["blocks_done_now"] == 1
    assert f"1 shards of level {number} are gone; they are made again" in caplog.text
    assert tree(tmp_path / "out") == tree(undisturbed)


def test_an_axis_order_of_its_own_changes_nothing(predict, undisturbed, volume, tmp_path):
    """The same scroll as (x, y, z) with a channel: the output lies on it, in z, y, x."""
    group = zarr.create_group(str(tmp_path / "in"))
    zarr.create_array(str(tmp_path / "in"), name="s0", data=volume.T[:, :, :, None], chunks=(9, 8, 7, 1))
    axes = [{"name": "x", "unit": "nanometer"}, {"name": "y", "unit": "micrometer"}, {"name": "z"}, {"name": "c"}]
    steps = [{"type": "scale", "scale": [4, 3, 2, 1]}, {"type": "translation", "translation": [400, 300, 200, 0]}]
    levels = [{"path": "s0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    predict(input=str(tmp_path / "in"), output=tmp_path / "out", region="3:,5:,:")
    assert np.array_equal(level(tmp_path / "out"), level(undisturbed)[3:, 5:])
    written = open_image(str(tmp_path / "out")).space
    assert written == Space((0, 1, 2), (2, 3, 4), (200 + 3 * 2, 300 + 5 * 3, 400), (None, "micrometer", "nanometer"))


def test_missing_chunks_are_counted_by_those_who_read(predict, tmp_path, caplog, monkeypatch):
    """A scroll of more chunks than are looked for beforehand; blocks read some of them twice."""
    monkeypatch.setattr("custom.scroll.volume.LOOKED_FOR", 20)
    write_image(str(tmp_path / "in"), np.full((32, 32, 32), 99, np.uint8), chunk=8)
    for place in ("1/1/1", "1/2/1", "2/0/0"):
        (tmp_path / "in" / "0" / "c" / place).unlink()
    summary = predict(input=str(tmp_path / "in"), output=tmp_path / "out", block=(16, 16, 16))
    assert summary["chunks_missing"] == 3
    assert caplog.messages[-1].endswith(
        "3 of 64 chunks, as far as this run asked for them, are missing; they are read as 0"
    )


def test_a_broken_chunk_fails_its_blocks_by_name(predict, scroll, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr("custom.scroll.engine.RETRIES", 0)
    shutil.copytree(scroll, tmp_path / "in")
    (tmp_path / "in" / "0" / "c" / "3" / "3" / "3").write_bytes(b"<html>")
    summary = predict(input=str(tmp_path / "in"), output=tmp_path / "out", block=(32, 16, 16))
    assert summary["blocks_done_now"] > 0
    (error,) = set(summary["failed"].values())
    assert "in/0/c/3/3/3: found a chunk that cannot be read" in error and "\n" not in error

    shutil.copy(Path(scroll) / "0" / "c" / "3" / "3" / "3", tmp_path / "in" / "0" / "c" / "3" / "3")
    where = {"input": str(tmp_path / "in"), "output": tmp_path / "out", "block": (32, 16, 16)}
    with pytest.raises(DataError, match=r"a prediction with input .* or --same_input True if"):
        predict(**where)
    with pytest.raises(DataError, match="a prediction with kind"):
        predict(**where, threshold=0.5, same_input=True)
    assert predict(**where, same_input=True)["blocks_done_now"] == len(summary["failed"])
    assert predict(**where)["blocks_done_now"] == 0
    assert {name: tree(undisturbed)[name] for name in tree(undisturbed) if name != "zarr.json"} == {
        name: content for name, content in tree(tmp_path / "out").items() if name != "zarr.json"
    }


def test_a_mask_in_the_place_of_a_scroll_is_noticed(predict, volume, tmp_path, caplog):
    write_image(str(tmp_path / "in"), (volume > 120).astype(np.uint8), chunk=8)
    predict(input=str(tmp_path / "in"), output=tmp_path / "out")
    assert "no grey value above 1, expected 0 to 255; is it a mask?" in caplog.text


@pytest.mark.parametrize("values", [{"a_max": 65535}, {"a_min": -1000}])
def test_grey_values_of_other_types_are_refused(tmp_path, values):
    load, channel, scaling = CONFIG["preprocessing"]["transforms"]
    steps = {"_target_": "Compose", "transforms": [load, channel, scaling | values]}
    with pytest.raises(DataError, match="expected 0 to 255, the uint8 of a scroll"):
        other_bundle(tmp_path / "a", preprocessing=steps).intensity()
    check = {"_target_": "custom.transforms.CheckValuesd", "keys": "image", "grey_values": [0, 200]}
    steps = {"_target_": "Compose", "transforms": [load, channel, check, scaling]}
    with pytest.raises(DataError, match="found grey values from 0 to 200"):
        other_bundle(tmp_path / "b", preprocessing=steps).intensity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "0:10,0:10"}, "region: found '0:10,0:10'"),
        ({"region": "0:10,0:10,0:99"}, "within the volume"),
        ({"shard": 24}, "shard: found 24"),
        ({"block": (16, 16, 24)}, "multiples of the shard"),
    ],
)
def test_ill_options(predict, options, message):
    with pytest.raises(ValueError, match=message):
        predict(**options)


def test_no_scheduler(scroll, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("custom.scroll.engine.CONNECT_SECONDS", 1)
    with pytest.raises(DataError, match="no scheduler"):
        places = {"input": scroll, "output": str(tmp_path / "out")}
        predict_scroll(**grouped(**places, bundle=bundle, scheduler="tcp://127.0.0.1:9", **SMALL))


def test_preprocessing_that_looks_beyond_a_voxel_is_refused(tmp_path):
    folder = write_bundle(tmp_path / "b", preprocessing={"_target_": "NormalizeIntensityd", "keys": "image"})
    with pytest.raises(DataError, match=r"NormalizeIntensityd.*expected ScaleIntensityRanged alone"):
        Bundle.read(str(folder)).intensity()
