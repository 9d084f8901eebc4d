import numpy as np
import torch
from scipy import stats

from custom.ops.randomness import normal_noise

CPU = torch.device("cpu")


def test_noise_is_standard_normal_and_independent():
    noise = normal_noise((1, 50, 61, 70), 12345, CPU)
    assert noise.dtype == torch.float32
    assert noise.shape == (1, 50, 61, 70)
    values = noise.flatten().double().numpy()
    assert stats.kstest(values[:20_000], "norm").pvalue > 0.01
    assert abs(values.mean()) < 0.01
    assert abs(stats.kurtosis(values)) < 0.03
    assert abs(values).max() < 6
    other = normal_noise((1, 50, 61, 70), 12346, CPU).flatten().double().numpy()
    half = len(values) // 2
    pairs = [(values[lag:], values[:-lag]) for lag in (1, 2, 61, 70, half)] + [(values, other)]
    assert all(abs(np.corrcoef(*pair)[0, 1]) < 0.012 for pair in pairs)


def test_noise_depends_on_its_key_alone():
    keys = [0, 1, 2**32, 2**63 - 1]
    noise = [normal_noise((7,), key, CPU) for key in keys]
    assert all(torch.equal(first, normal_noise((7,), key, CPU)) for first, key in zip(noise, keys, strict=True))
    assert len({tuple(values.tolist()) for values in noise}) == len(keys)
