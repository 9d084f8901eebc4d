import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, ScaleIntensityRanged
from torch.utils.data import Dataset

from custom.data import loader as loader_module
from custom.data.datasets import PatchDataset
from custom.data.loader import LoaderError, StreamLoader, VolumeLoader, plan_workers, tensor_bytes
from custom.errors import DataError
from custom.transforms import BatchCompose, RandNoised

REPOSITORY = Path(__file__).resolve().parents[2]


class Numbers(Dataset):
    """Item k is k; item ``bad`` does what ``act`` says. In a module, so that workers can import it."""

    def __init__(self, bad=None, act=None, length=10):
        self.bad, self.act, self.length = bad, act, length

    def __len__(self):
        return self.length

    def __getitem__(self, k):
        if k == self.bad:
            if self.act == "data error":
                try:
                    raise DataError.of("volume-7.nii", "a hole", "none")
                except DataError as error:
                    raise RuntimeError("applying transform Rand") from error
            if self.act == "bug":
                raise KeyError("oops")
            if self.act == "hang":
                time.sleep(3600)
            if self.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return {
            "image": torch.tensor([k]),
            "id": f"case_{k}",
            "process": os.getpid(),
            "threads": torch.get_num_threads(),
        }


def numbers(loader, n):
    """The items of the first n batches."""
    return [batch["image"].flatten().tolist() for batch in islice(loader, n)]


def patch_dataset(seed=0):
    rng = np.random.default_rng(1)
    volumes = []
    for name in "abc":
        image = rng.integers(0, 255, (12, 20, 16), dtype=np.uint8)
        label = (image > 200).astype(np.uint8)
        foreground = {1: np.argwhere(label).astype(np.int32)}
        volumes.append(SimpleNamespace(id=name, image=image, label=label, foreground=foreground))
    keys = ["image", "label"]
    transform = Compose(
        [
            ScaleIntensityRanged(keys="image", a_min=0, a_max=255),
            RandFlipd(keys=keys, prob=0.5, spatial_axis=1),
            RandGaussianNoised(keys="image", prob=0.7),
        ]
    )
    return PatchDataset(data=volumes, patch_size=(8, 8, 8), seed=seed, transform=transform)


def workers_alive():
    return [process for process in torch.multiprocessing.active_children() if process.is_alive()]


def equal(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch):
    """A machine on which no worker is left out for want of cores."""
    monkeypatch.setattr(loader_module, "usable_cores", lambda: 16)


@pytest.fixture
def warm():
    """The server that workers are forked from has its imports done."""
    next(iter(StreamLoader(dataset=Numbers(), batch_size=1, num_workers=1)))


# the stream


def test_batches_follow_one_another_without_end():
    loader = StreamLoader(dataset=Numbers(length=4), batch_size=3)
    assert numbers(loader, 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert len(loader) == 1


def test_iterating_again_goes_on():
    loader = StreamLoader(dataset=Numbers(), batch_size=2)
    loader.step = 5
    assert numbers(loader, 2) == [[10, 11], [12, 13]]
    assert loader.step == 7
    assert numbers(loader, 1) == [[14, 15]]


def each_rank(monkeypatch, world_size, make):
    """What ``make`` returns on every rank."""
    made = []
    for rank in range(world_size):
        with monkeypatch.context() as patch:
            patch.setattr("custom.system.distributed.rank", lambda rank=rank: rank)
            patch.setattr("custom.system.distributed.world_size", lambda: world_size)
            made.append(make())
    return made


def test_all_ranks_together_have_the_items_of_one_large_batch(monkeypatch):
    ranks = each_rank(monkeypatch, 3, lambda: StreamLoader(dataset=Numbers(), batch_size=2))
    steps = zip(*[numbers(loader, 3) for loader in ranks], strict=True)
    whole = numbers(StreamLoader(dataset=Numbers(), batch_size=6), 3)
    assert [[*a, *b, *c] for a, b, c in steps] == whole


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 8])
def test_workers_make_the_same_batches_bit_for_bit(workers):
    here = list(islice(StreamLoader(dataset=patch_dataset(), batch_size=2), 10))
    there = list(islice(StreamLoader(dataset=patch_dataset(), batch_size=2, num_workers=workers), 10))
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))
    assert not any(equal(a, b) for a, b in zip(here[1:], there[:-1], strict=True))


def test_workers_are_other_processes_with_one_thread_and_stay_the_same():
    loader = StreamLoader(dataset=Numbers(), batch_size=2, num_workers=2)
    batches = list(islice(loader, 12))
    processes = {process for batch in batches for process in batch["process"].tolist()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {threads for batch in batches for threads in batch["threads"].tolist()} == {1}


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_and_threads_of_the_training_are_left_alone(workers):
    torch.set_num_threads(2)
    try:
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        batches = list(islice(StreamLoader(dataset=patch_dataset(), batch_size=2, num_workers=workers), 3))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.random.get_state()[1].tolist() == before[2]
        assert torch.get_num_threads() == 2
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
        threads = next(iter(StreamLoader(dataset=Numbers(), batch_size=1, num_workers=workers)))["threads"]
        assert threads.tolist() == [1]
    finally:
        torch.set_num_threads(1)
    assert len(batches) == 3


# a trainer's stream


class Recorder(torch.nn.Module):
    """A network of one parameter that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, image):
        self.seen.append(image.clone())
        return image * self.weight


def trainer(folder, *, epochs, resume=None, stop_at=None, num_workers=0):
    loader = StreamLoader(dataset=patch_dataset(), batch_size=2, num_workers=num_workers)
    network = Recorder()
    engine = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        epoch_length=4,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1e-3),
        loss_function=torch.nn.L1Loss(),
        decollate=False,
        train_handlers=[loader],
    )
    CheckpointSaver(save_dir=str(folder), save_dict={"trainer": engine}, save_interval=1, epoch_level=False).attach(
        engine
    )
    if resume is not None:
        CheckpointLoader(load_path=str(resume), load_dict={"trainer": engine}).attach(engine)
    if stop_at is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop_at), lambda engine: engine.terminate())
    return engine, network, loader


@pytest.mark.parametrize("stop_at", [1, 4, 6, 11])
def test_a_restored_trainer_sees_the_batches_it_would_have_seen(tmp_path, stop_at):
    engine, network, _ = trainer(tmp_path / "whole", epochs=3)
    engine.run()
    expected = network.seen
    assert len(expected) == 12

    engine, first, _ = trainer(tmp_path / "parts", epochs=3, stop_at=stop_at)
    engine.run()
    assert len(first.seen) == stop_at
    checkpoint = tmp_path / "parts" / f"trainer_iteration={stop_at}.pt"
    engine, second, loader = trainer(tmp_path / "parts", epochs=3, resume=checkpoint)
    engine.run()
    seen = first.seen + second.seen
    assert len(seen) == 12
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert engine.state.iteration == loader.step == 12


def test_a_trainer_keeps_the_same_workers_over_its_epochs(tmp_path):
    engine, network, loader = trainer(tmp_path, epochs=3, num_workers=1)
    iterators = []
    original = loader._affordable_workers
    loader._affordable_workers = lambda made: iterators.append(1) or original(made)
    engine.run()
    assert len(iterators) == 1
    expected = islice(StreamLoader(dataset=patch_dataset(), batch_size=2), 12)
    assert all(torch.equal(a, b["image"]) for a, b in zip(network.seen, expected, strict=True))


# what goes wrong


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_error_stays_one_line(workers):
    loader = StreamLoader(dataset=Numbers(bad=5, act="data error"), batch_size=2, num_workers=workers)
    batches = iter(loader)
    assert [next(batches)["id"] for _ in range(2)] == [["case_0", "case_1"], ["case_2", "case_3"]]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == "volume-7.nii: found a hole, expected none"
    assert not workers_alive()


def test_a_data_error_in_the_first_item_is_found_before_workers_start(monkeypatch):
    monkeypatch.setattr(loader_module, "start_method", lambda: pytest.fail("workers were started"))
    loader = StreamLoader(dataset=Numbers(bad=0, act="data error"), batch_size=2, num_workers=2)
    with pytest.raises(DataError, match="volume-7"):
        next(iter(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_keep_their_type_and_place(workers):
    batches = iter(StreamLoader(dataset=Numbers(bad=3, act="bug"), batch_size=2, num_workers=workers))
    next(batches)
    with pytest.raises(KeyError, match="oops") as caught:
        next(batches)
    text = str(caught.value) + "".join(str(entry) for entry in caught.traceback)
    assert "__getitem__" in text
    assert not workers_alive()


def test_a_hanging_worker_is_an_error_with_advice(warm, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # torch's patience with the worker
    loader = StreamLoader(dataset=Numbers(bad=5, act="hang"), batch_size=1, num_workers=1, timeout_s=2)
    with pytest.raises(LoaderError, match=r"timeout_s=2.*timed out.*num_workers=0") as caught:
        numbers(loader, 6)
    assert "/dev/shm" in str(caught.value)


def test_a_hanging_thread_is_an_error(monkeypatch):
    monkeypatch.setattr(loader_module, "JOIN_S", 0.1)
    loader = StreamLoader(dataset=Numbers(bad=5, act="hang"), batch_size=1, timeout_s=0.2)
    with pytest.raises(LoaderError, match=r"timeout_s=0\.2"):
        numbers(loader, 6)


def test_a_killed_worker_is_an_error_with_advice(warm):
    loader = StreamLoader(dataset=Numbers(bad=5, act="die"), batch_size=1, num_workers=1, timeout_s=2)
    with pytest.raises(LoaderError, match=r"1 worker processes.*num_workers=0"):
        numbers(loader, 6)
    assert not workers_alive()


# shared memory


@pytest.mark.parametrize(
    ("free", "expected"),
    [(10_000, (4, 2)), (1250, (4, 2)), (1249, (4, 1)), (750, (4, 1)), (749, (3, 1)), (375, (1, 1)), (374, (0, 2))],
)
def test_workers_that_shared_memory_allows(free, expected):
    """100 bytes a batch: 4 workers with 2 batches each and 2 in use are 1000 bytes, 80 % of 1250."""
    assert plan_workers(4, 2, 100, free) == expected


@pytest.mark.parametrize(("voxels", "planned"), [(2 * 72 * 136 * 136 * 2, (4, 2)), (8 * 512 * 512 * 3, (4, 1))])
def test_dockers_shared_memory_suffices_for_the_batches_of_both_bundles(voxels, planned):
    """Sent to a GPU as uint8 images and labels, or as int16 images and uint8 labels."""
    assert plan_workers(4, 2, voxels, 64 * 2**20) == planned


def test_too_little_shared_memory_is_logged_and_the_batches_come_from_a_thread(monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "shared_memory_free", lambda: 100)
    batches = list(islice(StreamLoader(dataset=Numbers(), batch_size=4, num_workers=2), 2))
    assert {process for batch in batches for process in batch["process"].tolist()} == {os.getpid()}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "/dev/shm" in caplog.text
    assert "num_workers=0" in caplog.text


@pytest.mark.parametrize(("cores", "ranks", "expected"), [(16, 1, 4), (4, 1, 3), (4, 2, 1), (1, 1, 1)])
def test_workers_and_training_share_the_cores(monkeypatch, cores, ranks, expected):
    monkeypatch.setattr(loader_module, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    loader = StreamLoader(dataset=Numbers(), batch_size=1, num_workers=4)
    assert loader._affordable_workers(Numbers())[0] == expected


def test_the_training_has_no_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(loader_module, "usable_cores", lambda: 2)
    torch.set_num_threads(3)
    try:
        next(iter(StreamLoader(dataset=Numbers(), batch_size=1)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_refuses_a_transform_of_items_and_of_batches():
    """An override file of an earlier version lists all transforms in train#preprocessing."""
    dataset = patch_dataset()
    normalize = dataset.transform.transforms[0]
    expected = "train#preprocessing: found ScaleIntensityRanged, also in train#batch_transforms"
    for transform in (normalize, Compose([normalize])):
        dataset.transform = transform
        with pytest.raises(DataError, match=expected):
            StreamLoader(dataset=dataset, batch_size=1, transform=BatchCompose([normalize]))
        StreamLoader(dataset=dataset, batch_size=1, transform=BatchCompose([RandNoised("image")]))


def test_refuses_batches_without_items():
    with pytest.raises(DataError, match="batch_size: found 0, expected 1 or more"):
        StreamLoader(dataset=Numbers(), batch_size=0)


def test_ranks_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", "/")
    whole = loader_module.shared_memory_free()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_module.shared_memory_free() == pytest.approx(whole / 4, rel=0.05)
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", "/no such folder")
    assert loader_module.shared_memory_free() is None


def test_bytes_of_an_item():
    item = {"image": torch.zeros(2, 3), "warp": {"m": torch.zeros(5, dtype=torch.uint8)}, "id": "a", "k": 3}
    assert tensor_bytes([item, item]) == 2 * (24 + 5)


def test_workers_leave_ctrl_c_to_the_trainer():
    """A terminal sends it to all processes, and the trainer still needs batches."""
    batches = iter(StreamLoader(dataset=Numbers(), batch_size=1, num_workers=1, prefetch_factor=1))
    next(batches)
    workers = workers_alive()
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert numbers(batches, 6) == [[1], [2], [3], [4], [5], [6]]


# the thread


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


class Counting(Numbers):
    made = 0

    def __getitem__(self, k):
        self.made += 1
        return super().__getitem__(k)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_thread_is_as_many_batches_ahead_as_it_may_and_ends_with_the_iterator(depth):
    dataset = Counting()
    threads = threading.active_count()
    batches = iter(StreamLoader(dataset=dataset, batch_size=1, prefetch_factor=depth))
    for taken in (1, 2):
        next(batches)
        wait_for(lambda taken=taken: dataset.made == taken + depth)
        time.sleep(0.05)
        assert dataset.made == taken + depth
    assert threading.active_count() == threads + 1
    batches.close()
    assert threading.active_count() == threads


def test_an_iterator_that_is_dropped_takes_its_thread_with_it():
    threads = threading.active_count()
    for _ in range(3):
        next(iter(StreamLoader(dataset=Numbers(), batch_size=1)))
    wait_for(lambda: threading.active_count() == threads)


# whole volumes


def test_volumes_come_once_in_order_and_shared_out_among_ranks():
    assert numbers(VolumeLoader(dataset=Numbers(length=5)), 99) == [[0], [1], [2], [3], [4]]
    loaders = [VolumeLoader(dataset=Numbers(length=5), rank=rank, world_size=2) for rank in range(2)]
    assert [numbers(loader, 99) for loader in loaders] == [[[0], [2], [4]], [[1], [3], [0]]]
    assert [len(loader) for loader in loaders] == [3, 3]
    assert numbers(loaders[1], 99) == [[1], [3], [0]]
    assert [numbers(VolumeLoader(dataset=Numbers(length=1), rank=r, world_size=2), 9) for r in (0, 1)] == [[[0]], [[0]]]


def test_only_one_volume_is_read_ahead():
    dataset = Counting()
    volumes = iter(VolumeLoader(dataset=dataset))
    next(volumes)
    wait_for(lambda: dataset.made == 2)
    time.sleep(0.05)
    assert dataset.made == 2
    volumes.close()


def test_an_unreadable_volume_is_an_error():
    with pytest.raises(DataError, match="volume-7"):
        list(VolumeLoader(dataset=Numbers(bad=2, act="data error")))


# programs of their own

SCRIPT = """
from itertools import islice
import torch
from custom.data.loader import StreamLoader

if __name__ == "__main__":
    numbers = torch.utils.data.TensorDataset(torch.arange(1000))
    loader = StreamLoader(dataset=numbers, batch_size=2, num_workers=1)
    print([batch[0].tolist() for batch in islice(loader, 3)])
    unfinished = iter(StreamLoader(dataset=numbers, batch_size=2))
    next(unfinished)
"""


def run(command, folder):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_script_with_workers_that_leaves_another_stream_running_ends_cleanly(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(["script.py"], tmp_path)
    assert done.stdout == "[[0, 1], [2, 3], [4, 5]]\n"
    assert "Error" not in done.stderr


@pytest.mark.slow
def test_workers_under_monai_bundle(tmp_path):
    config = {
        "imports": ["$import torch", "$from itertools import islice"],
        "loader": {
            "_target_": "custom.data.loader.StreamLoader",
            "dataset": "$torch.utils.data.TensorDataset(torch.arange(1000))",
            "batch_size": 2,
            "num_workers": 2,
        },
        "run": ["$print([batch[0].tolist() for batch in islice(@loader, 3)])"],
    }
    (tmp_path / "train.json").write_text(json.dumps(config))
    done = run(["-m", "monai.bundle", "run", "--config_file", "train.json", "--bundle_root", "."], tmp_path)
    assert "[[0, 1], [2, 3], [4, 5]]" in done.stdout
    assert done.stdout.count("[[0, 1]") == 1
    assert "Traceback" not in done.stderr
