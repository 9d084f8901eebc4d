"""Cases are finished in processes as they are in this one; what goes wrong there is said in one line."""

import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad

from custom.errors import DataError
from custom.handlers import CaseMetrics, Panels
from custom.handlers.case_items import Postprocessing, packed, unpacked
from custom.handlers.case_workers import CaseError, CaseWorkers
from custom.metrics import LiverMetrics
from custom.transforms import CleanLiverd, ClearOutsided, PostprocessSurfaced, RegionsToLabeld

CPU = torch.device("cpu")
AFFINE = np.diag([0.8, 0.9, 5.0, 1.0])


def described(array, name):
    return MetaTensor(torch.from_numpy(array), affine=AFFINE, meta={"id": name, "filename_or_obj": f"{name}.nii.gz"})


def volumes(seed):
    """Image, label and probabilities of two regions."""
    generator = np.random.default_rng(seed)
    label = np.zeros((1, 6, 16, 16), np.uint8)
    label[0, 1:5, 3:13, 3:13] = 1
    label[0, 2:4, 5:9, 5:9] = 2
    regions = np.concatenate([label > 0, label > 1]) * 0.6 + generator.random((2, 6, 16, 16)) * 0.4
    return {"image": regions[:1].astype(np.float32), "label": label, "pred": regions.astype(np.float32)}


SURFACE = PostprocessSurfaced("pred", threshold_low=0.5, threshold_high=0.9, min_component_voxels=3)
LIVER = Compose([RegionsToLabeld("pred"), CleanLiverd("pred")])


def evaluated(metric, postprocessing, workers, folder):
    """Metrics and files of an evaluation of five volumes."""

    def step(engine, seed):
        item = {key: described(array, f"case{9 - seed}") for key, array in volumes(seed).items()}
        engine.state.batch = [{"id": f"case{9 - seed}", "image": item.pop("image"), "label": item.pop("label")}]
        return [{**item, "image": None, "label": None}]  # the batch's own are used

    engine = Engine(step)
    handler = CaseMetrics(metric=metric, postprocessing=postprocessing, output_dir=str(folder), workers=workers)
    handler.attach(engine, "key")
    Panels(output_dir=str(folder), n_cases=2).attach(engine)
    return engine.run(range(5)).metrics


def test_scores_pictures_and_order_are_those_of_one_process(tmp_path):
    folders = [tmp_path / str(workers) for workers in (0, 1)]
    alone, beside = (evaluated(LiverMetrics(), LIVER, int(folder.name), folder) for folder in folders)
    assert alone == beside and 0.5 < alone["key"] <= 1
    assert (folders[0] / "cases.csv").read_text() == (folders[1] / "cases.csv").read_text()
    rows = (folders[1] / "cases.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["case9", "case8", "case7", "case6", "case5"]
    for name in ("case8.png", "case9.png"):
        assert (folders[0] / "panels" / name).read_bytes() == (folders[1] / "panels" / name).read_bytes()
    assert len(list((folders[1] / "panels").iterdir())) == 2


def test_the_two_parts_do_what_the_whole_does():
    for transform in (SURFACE, LIVER, Compose([Lambdad("pred", lambda x: x[:1]), SURFACE])):
        item = {key: torch.from_numpy(array) for key, array in volumes(0).items()}
        parts = Postprocessing.of(transform)
        assert torch.equal(parts.afterwards(parts.on_device(item))["pred"], transform(item)["pred"])
    assert Postprocessing.of(LIVER).on_device(item)["pred"].dtype == torch.uint8
    assert [Postprocessing.of(each).reads_image for each in (LIVER, SURFACE, Lambdad("pred", abs))] == [
        *(False, False),
        True,
    ]
    assert Postprocessing.of(Compose([SURFACE, ClearOutsided("pred")])).reads_image


def test_items_arrive_as_they_were_sent():
    image = described(volumes(0)["image"], "a")
    image.applied_operations = [{"class": "Orientation", "id": 140, "extra_info": {"original_affine": torch.eye(4)}}]
    item = {"image": image, "pred": image[:, ::2], "id": "a", "label": None, "box": (1, torch.arange(3))}
    found = unpacked(packed(item, image=True))
    assert torch.equal(found["image"], image) and torch.equal(found["pred"], item["pred"])
    assert found["image"].meta["filename_or_obj"] == "a.nii.gz" and torch.equal(found["image"].affine, image.affine)
    operation = found["image"].applied_operations[0]
    assert (operation["class"], operation["id"]) == ("Orientation", "none")  # MONAI's word for any instance
    assert torch.equal(operation["extra_info"]["original_affine"], torch.eye(4))
    assert (found["id"], found["label"], found["box"][0]) == ("a", None, 1) and found["box"][1].tolist() == [0, 1, 2]
    without = unpacked(packed(item, image=False))["image"]
    assert (without.shape, without.dtype, without.any()) == (image.shape, image.dtype, False)
    assert torch.equal(without.affine, image.affine)


def bad_file(_):
    raise DataError.of("a.tif", "nothing", "something")


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def bug(_):
    raise UnpicklableError("no\nluck", 2)


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(_):
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (bad_file, DataError, r"^a\.tif: found nothing, expected something$"),
        (bug, CaseError, r"^case-1: UnpicklableError: no luck$"),
        (killed, DataError, r"^case-1.*: found a worker process that was killed, .*, expected fewer workers"),
        (hanging, DataError, r"^case-1: found no result within timeout_s=2, expected more time$"),
    ],
)
def test_what_goes_wrong_in_a_worker(work, kind, message):
    workers = CaseWorkers(None, workers=1, timeout_s=2 if work is hanging else 600)
    workers.submit("case-1", {"pred": torch.zeros(1, 2, 2, 2)}, [work], CPU)
    ((name, results),) = workers.finished(wait=True)
    with pytest.raises(kind) as caught:
        results()
    assert name == "case-1" and re.search(message, str(caught.value))
    workers.timeout_s = 600  # another process has to import torch first
    workers.submit("case-2", {"pred": torch.ones(1, 2, 2, 2)}, [_sum], CPU)  # the others are still finished
    assert [(name, results()) for name, results in workers.finished(wait=True)] == [("case-2", [8.0])]
    workers.close()


def _sum(item):
    return float(item["pred"].sum())


def test_a_score_is_not_shown_under_the_name_of_another():
    with pytest.raises(DataError, match=r"key_metric#mean_dice: found a metric whose key score is tumor_dice"):
        CaseMetrics(metric=LiverMetrics(key="tumor_dice")).attach(Engine(lambda *_: None), "mean_dice")


def test_few_cases_are_unfinished():
    """Whatever is slow, the main process holds no more than one case beside those of the workers."""
    workers = CaseWorkers(None, workers=1)
    for number in range(5):
        workers.submit(str(number), {"pred": torch.full((1,), number)}, [_sum], CPU)
        assert len(workers._running) <= 3
        list(workers.finished())
    workers.close()


@pytest.mark.parametrize(
    ("device", "cores", "free", "sharing", "expected"),
    [
        ("cpu", 8, None, 1, 0),
        ("cuda", 1, None, 1, 1),
        ("cuda", 4, None, 1, 3),
        ("cuda", 64, None, 1, 8),
        ("cuda", 8, None, 2, 3),
        ("cuda", 8, 2.5 * 32e6, 1, 2),
        ("cuda", 8, 1.0, 1, 1),
    ],
)
def test_workers_for_cores_and_memory(monkeypatch, device, cores, free, sharing, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(sharing))
    monkeypatch.setattr("custom.handlers.case_workers.usable_cores", lambda: cores)
    monkeypatch.setattr("custom.handlers.case_workers.free_bytes", lambda: free)
    assert CaseWorkers._affordable(10**6, torch.device(device)) == expected
