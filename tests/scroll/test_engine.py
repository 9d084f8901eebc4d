"""Values that depend on nothing but input, model and windows; nothing computed, read or lost that need not be."""

import itertools

import numpy as np
import pytest
import torch
import zarr
from monai.inferers import SlidingWindowInferer
from scipy import ndimage

from custom.errors import DataError
from custom.scroll import worker
from custom.scroll.engine import predict_scroll
from custom.scroll.model import Bundle
from custom.scroll.ome_zarr import write_image
from custom.scroll.worker import predict_block

from .tiny_scroll import ROI, SHAPE, SMALL, STRIDE, tree, write_bundle


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
    monkeypatch.setattr("custom.scroll.engine._Run.blocks", lambda run: (jobs.append(run.job), ([], {}))[1])
    monkeypatch.setattr("custom.scroll.engine._Run.coarse_levels", lambda run: {})
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
        self.inferer.batch_size = 2
        self.network.register_forward_hook(lambda module, args, output: seen.add(len(args[0])))

    return init


@pytest.mark.parametrize("region", ["3:25,5:30,0:26", "17:18,:,20:"])
def test_a_region_has_the_values_of_the_whole(predict, undisturbed, tmp_path, region):
    predict(output=tmp_path / "out", region=region)
    box = tuple(slice(*[int(n) if n else None for n in span.split(":")]) for span in region.split(","))
    assert np.array_equal(level(tmp_path / "out"), level(undisturbed)[box])


def test_version_2_of_zarr_and_a_bare_array(predict, undisturbed, volume, tmp_path):
    write_image(str(tmp_path / "v2"), volume, chunk=20, zarr_format=2)
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
    original = worker._Run.predict

    def failing(run, *args):
        if run.box[1] == (16, 32):
            raise RuntimeError("no\nluck")
        return original(run, *args)

    monkeypatch.setattr("custom.scroll.engine.RETRIES", 0)
    monkeypatch.setattr(worker._Run, "predict", failing)
    summary = predict(output=tmp_path / "out", block=(32, 16, 32))
    assert summary["failed"] == {"0:28,16:32,0:26": "RuntimeError: no luck"}
    assert summary["blocks_done_now"] == 1
    monkeypatch.undo()
    assert predict(output=tmp_path / "out", block=(32, 16, 32))["blocks_done_now"] == 1
    assert tree(tmp_path / "out") == tree(undisturbed)


def test_refuses_to_go_on_with_another_prediction(predict, undisturbed, bundle):
    with pytest.raises(DataError, match=r"found a prediction with kind 'probability', expected 'mask'"):
        predict(output=undisturbed, threshold=0.5)
    with pytest.raises(DataError, match=r"a prediction with region"):
        predict(output=undisturbed, region="0:16,0:16,0:16")


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
        predict_scroll(
            input=scroll, output=str(tmp_path / "out"), bundle=bundle, scheduler="tcp://127.0.0.1:9", **SMALL
        )


def test_preprocessing_that_looks_beyond_a_voxel_is_refused(tmp_path):
    folder = write_bundle(tmp_path / "b", preprocessing={"_target_": "NormalizeIntensityd", "keys": "image"})
    with pytest.raises(DataError, match=r"NormalizeIntensityd.*expected ScaleIntensityRanged alone"):
        Bundle.read(str(folder)).intensity()
