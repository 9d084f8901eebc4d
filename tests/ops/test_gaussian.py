import numpy as np
import pytest
import torch
from scipy import ndimage

from custom.ops.gaussian import gaussian


@pytest.mark.parametrize(("edge", "mode"), [(True, "nearest"), (False, "constant")])
@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_equals_scipy(edge, mode, sigma):
    image = np.random.default_rng(0).random((7, 9, 3))
    expected = ndimage.gaussian_filter(image, (sigma, 0, 2 * sigma), mode=mode, radius=(2, 0, 2))
    result = gaussian(torch.from_numpy(image), {0: sigma, 2: 2 * sigma}, radius=2, edge=edge)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
