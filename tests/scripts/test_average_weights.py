"""The mean, tensor by tensor, of networks that fit together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.average_weights import average_weights

from custom.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]


def save(path, seed, channels=2):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, channels, 3), torch.nn.BatchNorm3d(channels))
    network[1].num_batches_tracked += seed
    torch.save(network.state_dict(), path)
    return str(path)


def test_every_tensor_is_the_mean(tmp_path):
    paths = [save(tmp_path / f"{seed}.pt", seed) for seed in (1, 2, 3)]
    average_weights(*paths, output=str(tmp_path / "new" / "soup.pt"))
    soup = torch.load(tmp_path / "new" / "soup.pt", weights_only=True)
    first, second, third = (torch.load(path, weights_only=True) for path in paths)
    assert list(soup) == list(first)
    for key, value in soup.items():
        assert value.dtype == first[key].dtype
        if key == "1.num_batches_tracked":
            assert value == 1
        else:
            torch.testing.assert_close(value, (first[key] + second[key] + third[key]) / 3)


def test_the_mean_is_made_anew(tmp_path):
    path, output = save(tmp_path / "a.pt", 1), tmp_path / "soup.pt"
    average_weights(path, path, output=str(output))
    save(tmp_path / "a.pt", 2)
    os.utime(path, (1e9, 1e9))
    average_weights(path, path, output=str(output))
    assert torch.equal(torch.load(output)["0.weight"], torch.load(path)["0.weight"])


def test_equal_networks_do_not_change(tmp_path):
    path = save(tmp_path / "a.pt", 0)
    average_weights(path, path, path, output=str(tmp_path / "soup.pt"))
    soup = torch.load(tmp_path / "soup.pt", weights_only=True)
    assert all(torch.equal(soup[key], value) for key, value in torch.load(path, weights_only=True).items())


def test_what_does_not_fit_is_refused(tmp_path):
    first, other = save(tmp_path / "a.pt", 0), save(tmp_path / "b.pt", 0, channels=3)
    for paths, message in (
        ((first, other), r"b\.pt: found [0-9a-z ,]* keys \(0\..*expected the network of .*a\.pt"),
        ((first, str(tmp_path / "c.pt")), r"c\.pt: found no such file"),
        ((first,), "found 1 files of weights, expected two or more"),
    ):
        with pytest.raises(DataError, match=message):
            average_weights(*paths, output=str(tmp_path / "soup.pt"))
    assert not (tmp_path / "soup.pt").exists()


def test_the_command_line_ends_with_1_and_one_line(tmp_path):
    command = [
        sys.executable,
        "scripts/average_weights.py",
        str(tmp_path / "a.pt"),
        "b.pt",
        f"--output={tmp_path}/c.pt",
    ]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {tmp_path}/a.pt: found no such file")
