"""Two processes train as one would, and decide together."""

import csv
import json
import os
import signal
import time

import pytest
import torch

from custom.system.distributed import any_rank, gather, rank, unwrapped, world_size

OPTIONS = {"epochs": 2, "steps": 5, "resume": True}


def weights(path):
    return torch.load(path, weights_only=True)


def finish(processes):
    status, output = processes.wait()
    assert status == 0, output
    return output


def test_alone():
    network = torch.nn.Linear(1, 1)
    assert (rank(), world_size(), any_rank(True), any_rank(False)) == (0, 1, True, False)
    assert gather("a") == ["a"]
    assert unwrapped(network) is network


@pytest.mark.slow
def test_gradients_of_two_ranks_are_those_of_one_with_twice_the_batch(processes, tmp_path):
    """With plain gradient descent at rate 1 the weights move by the gradient."""
    options = {"plain": True, "epochs": 1, "steps": 1, "accumulation": 1, "schedule": "constant", "max_norm": None}
    processes.start(folder=tmp_path / "one", batch_size=2, **options)
    finish(processes)
    processes.start(folder=tmp_path / "two", ranks=2, batch_size=1, **options)
    finish(processes)
    one, two = (weights(tmp_path / name / "model_final.pt") for name in ("one", "two"))
    assert list(one) == list(two)  # the network's own names
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=0)


def test_every_rank_evaluates_what_is_saved(processes, tiny_run, tmp_path):
    """Each has seen other batches, and so has other statistics of them."""
    processes.start(folder=tmp_path, ranks=2, **OPTIONS)
    finish(processes)
    network = tiny_run.Network().eval()
    network.load_state_dict(weights(tmp_path / "model.pt"))
    items = [tiny_run.Items()[k] for k in range(1000, 1004)]
    with torch.no_grad():
        errors = [float((network(item["image"][None]) - item["label"]).square()) for item in items]
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert min(float(row["mse"]) for row in rows) == pytest.approx(sum(errors) / 4, rel=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_and_the_run_continues(processes, tmp_path):
    processes.start(folder=tmp_path / "whole", ranks=2, **OPTIONS)
    finish(processes)
    cut = tmp_path / "cut"
    processes.start(folder=cut, ranks=2, step_s=0.2, **OPTIONS)
    while not (cut / "checkpoints" / "step_00000002.pt").exists():
        time.sleep(0.01)
    os.kill(json.loads((cut / "ranks").read_text())[1], signal.SIGTERM)
    output = finish(processes)
    assert output.count("Stopped by a signal to another rank after") == 1  # one of them says so
    assert not (cut / "model_final.pt").exists()
    processes.start(folder=cut, ranks=2, **OPTIONS)
    finish(processes)
    for name in ("model.pt", "model_final.pt"):
        whole, found = weights(tmp_path / "whole" / name), weights(cut / name)
        assert all(torch.equal(whole[key], found[key]) for key in whole), name


@pytest.mark.slow
def test_another_number_of_ranks_is_another_run(processes, tmp_path):
    processes.start(folder=tmp_path, ranks=2, **OPTIONS)
    finish(processes)
    processes.start(folder=tmp_path, **OPTIONS)
    status, output = processes.wait()
    assert status == 1 and "number of ranks: 2, now 1" in output


def test_a_fault_on_one_rank_stops_both(processes, tmp_path):
    """Item 13 is the second of the second rank's batch in the second step of batches of 4."""
    processes.start(folder=tmp_path, ranks=2, faulty=13, **OPTIONS)
    status, output = processes.wait()
    assert status == 1
    assert output.count("error: case13: found voxels that are not finite") == 2
    record = json.loads((tmp_path / "non_finite.json").read_text())
    assert [[batch["id"] for batch in step] for step in record] == [[["case13"]]]


@pytest.mark.slow
def test_a_rank_that_dies_takes_the_other_along(processes, tmp_path):
    processes.start(folder=tmp_path, ranks=2, step_s=0.2, **OPTIONS)
    while not (tmp_path / "checkpoints" / "step_00000002.pt").exists():
        time.sleep(0.01)
    os.kill(json.loads((tmp_path / "ranks").read_text())[1], signal.SIGKILL)
    status, output = processes.wait()
    assert status != 0
    assert output.count("error: ") == 1, output
    processes.start(folder=tmp_path, ranks=2, **OPTIONS)
    finish(processes)
