"""A real CT turned every way: what is predicted lies where it was seen, in the file's own order."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from nibabel import orientations

CONFIG = "bundles/liver_tumor_2d/configs/inference.json"
LOW, HIGH = 25, 75  # HU between which liver lies in this scan, without contrast
WINDOW = (-100, 200)


class Threshold(torch.nn.Module):
    """A network that calls everything between LOW and HIGH liver, and nothing tumour."""

    def forward(self, image):
        hounsfield = image * (WINDOW[1] - WINDOW[0]) + WINDOW[0]
        inside = (hounsfield >= LOW - 0.5) & (hounsfield <= HIGH + 0.5)
        liver = torch.where(inside, 10.0, -10.0)
        return torch.cat([liver, torch.full_like(liver, -10.0)], dim=1)


@pytest.fixture(scope="module")
def scan(real_liver):
    """The 3 mm CT and its label, every other voxel in the plane; in RAS."""
    image, label = (nibabel.load(real_liver / f"ct3mm_{kind}.nii.gz") for kind in ("image", "liver"))
    return image.slicer[::2, ::2], label.slicer[::2, ::2]


def predict(path, output, request):
    flow = ConfigWorkflow(
        str(request.config.rootpath / CONFIG),
        workflow_type="infer",
        dataset_dir=str(path),
        output_dir=str(output),
        clean_liver=False,
        tta=[],
        n_context=0,
        window=list(WINDOW),
        **{"handlers#0#_disabled_": True, "inferer#precision": "float32"},
    )
    flow.initialize()
    flow.network_def = Threshold()
    flow.initialize()
    flow.run()


@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
def test_predictions_keep_the_files_own_order(scan, axes, tmp_path, request):
    turned = {}
    for flips in product([1, -1], repeat=3):
        turn = np.array(list(zip(axes, flips, strict=True)), float)
        image, label = (volume.as_reoriented(turn) for volume in scan)
        name = "".join(orientations.aff2axcodes(image.affine))
        turned[name] = image, np.asarray(label.dataobj) > 0
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    assert len(turned) == 8
    predict(tmp_path, tmp_path / "out", request)
    for name, (image, liver) in turned.items():
        found = nibabel.load(tmp_path / "out" / f"{name}.nii.gz")
        predicted, values = (np.asarray(volume.dataobj) for volume in (found, image))
        np.testing.assert_array_equal(predicted, (values >= LOW) & (values <= HIGH))
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
        assert predicted[liver].mean() > 0.5 > 3 * predicted[~liver].mean(), name
