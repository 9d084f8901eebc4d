# ruff: noqa: E402, F821
# Cells of the notebook that predicts and submits. "# %%" starts a cell; "only=" restricts it to one bundle.

# %% [markdown] only=vesuvius
# # Papyrus surfaces in scrolls: predict and submit
#
# Predicts every volume in `test_images` and writes `submission.zip`.

# %% [markdown] only=liver
# # Liver and tumours in CT: predict and submit
#
# Predicts every CT volume of the test set and writes `submission.csv`.

# %% [markdown]
# Runs without internet access and finishes within the time limit of a session.
#
# **Inputs** (Add Input, on the right): the competition's data, and the dataset with the bundle and its wheels.
# **Accelerator**: 2 x T4 (each predicts a part of the volumes), or any other.

# %% [markdown]
# ## Settings
#
# Change only this cell. `OPTIONS` accepts any key of the bundle's `configs/inference.json`.

# %% tags=parameters only=vesuvius
BUNDLE = "vesuvius_surface_3d"
HOURS = 8.5  # from here to the end of the notebook; a session has 9
RESERVE_MINUTES = 20  # part of HOURS, for writing and verifying the submission
IMAGES = None  # folder of the volumes; None: the competition's test_images
WEIGHTS = None  # None: those of the bundle, otherwise the only models/model.pt among the inputs
CONFIGS = ["inference"]  # files in configs/; later ones override earlier ones
OPTIONS = {"tta": ["depth", "vertical", "horizontal"]}  # up to 8 views of each volume, if time allows

# %% tags=parameters only=liver
BUNDLE = "liver_tumor_2d"
HOURS = 8.5  # from here to the end of the notebook; a session has 9
RESERVE_MINUTES = 20  # part of HOURS, for writing and verifying the submission
IMAGES = None  # folder of the volumes; None: the first folder "test" that contains volumes
WEIGHTS = None  # None: those of the bundle, otherwise the only models/model.pt among the inputs
CONFIGS = ["inference"]  # files in configs/; later ones override earlier ones
OPTIONS = {"tta": ["horizontal"]}  # additional views of each slice, if time allows
ID_TEMPLATE = "{volume}_{slice}"  # id of a row; {number} is the number at the end of the volume's name
FIRST_SLICE = 0
TRANSPOSE = False  # True: the second axis of the file contains the rows of a slice

# %% include=setup

# %% [markdown]
# ## Predict
#
# One process runs on each usable GPU, as far as main memory allows. A P100 may be too old for Kaggle's torch; in this
# case the CPU is used. The remaining time is divided equally among the remaining volumes (their **share**). Each is
# predicted without test-time augmentation first, then with as many further views as fit into its share. Volumes that
# are not finished in time are named below and get an empty entry in the submission.

# %% only=vesuvius
ENDING = ".tif"
IMAGES = IMAGES or next(iter(find("test_images")), None)

# %% only=liver
ENDING = ".nii.gz"
folders = [path for path in find("test") if any(path.rglob("*.nii*"))]
if IMAGES is None and folders:  # the folder that contains all of them
    IMAGES = Path(os.path.commonpath([path.parent for path in folders[0].rglob("*.nii*")]))

# %%
from custom.competition.timed_inference import predict_in_time
from custom.data import find_images

if IMAGES is None:
    raise RuntimeError(f"No test volumes below {INPUT}: add the competition's data, or set IMAGES.")
if WEIGHTS is None and not (ROOT / "models" / "model.pt").is_file():
    candidates = find("models/model.pt")
    if len(candidates) != 1:
        raise RuntimeError(f"The bundle has no weights; WEIGHTS is to be one of {[str(path) for path in candidates]}")
    WEIGHTS = candidates[0]
PREDICTIONS = TEMPORARY / "predictions"
cases = find_images(IMAGES)
print(f"{len(cases)} volumes in {IMAGES}")
outcomes = predict_in_time(
    bundle_root=ROOT,
    dataset_dir=IMAGES,
    output_dir=PREDICTIONS,
    seconds=3600 * HOURS - 60 * RESERVE_MINUTES - (time.monotonic() - STARTED),
    configs=CONFIGS,
    options=OPTIONS | ({"checkpoint": str(WEIGHTS)} if WEIGHTS else {}),
)

# %% [markdown]
# ## Submission
#
# The submission is written, read again, and compared with the predictions.

# %%
from custom.competition.submission import check_ids, fill_missing, write_liver, write_vesuvius

unpredicted = fill_missing(cases, PREDICTIONS, ENDING)
print(f"{len(unpredicted)} of {len(cases)} volumes have an empty entry: {', '.join(unpredicted) or 'none'}")

# %% only=vesuvius
SUBMISSION = WORKING / "submission.zip"
write_vesuvius(PREDICTIONS, SUBMISSION)

# %% only=liver
SUBMISSION = WORKING / "submission.csv"
write_liver(PREDICTIONS, SUBMISSION, id_template=ID_TEMPLATE, first_slice=FIRST_SLICE, transpose=TRANSPOSE)
if samples := find("sample_submission.csv"):
    print(f"{check_ids(SUBMISSION, samples[0])} ids, the same as in {samples[0].name}")

# %% [markdown]
# ## Check the predictions visually
#
# For each volume, the slice with the largest predicted area, without and with the prediction.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from custom.data.volumes import read_volume, to_canonical

# %% only=vesuvius
GREY = (0, 255)
COLOURS = {1: ("surface", "orangered")}

# %% only=liver
GREY = (-100, 200)  # HU
COLOURS = {1: ("liver", "limegreen"), 2: ("tumour", "magenta")}


# %%
def show(case, axes):
    image, prediction = (
        to_canonical(read_volume(path)).array if ENDING == ".nii.gz" else read_volume(path).array
        for path in (case["image"], PREDICTIONS / (case["id"] + ENDING))
    )
    index = int(np.argmax((prediction > 0).sum((1, 2)))) if prediction.any() else len(prediction) // 2
    axes[0].set_title(f"{case['id']}, slice {index} of {len(prediction)}", fontsize=10)
    words = ["nothing found"] if not prediction.any() else []
    for axis in axes:
        axis.imshow(image[index], cmap="gray", vmin=GREY[0], vmax=GREY[1])
        axis.axis("off")
    for value, (name, colour) in COLOURS.items():
        mask = prediction[index] == value
        axes[1].imshow(np.ma.masked_where(~mask, mask), cmap=ListedColormap([colour]), alpha=0.5)
        if (prediction == value).any():
            words.append(f"{name} {100 * (prediction == value).mean():.1f} % of the volume")
    axes[1].set_title("\n".join(words), fontsize=10)


chosen = [case for case in cases if case["id"] not in unpredicted][:3] or cases[:1]
figure, rows = plt.subplots(len(chosen), 2, figsize=(8, 4.2 * len(chosen)), squeeze=False, layout="constrained")
for case, axes in zip(chosen, rows, strict=True):
    show(case, axes)
plt.show()

# %% [markdown]
# ## Result

# %%
shutil.rmtree(TEMPORARY, ignore_errors=True)
print(f"{SUBMISSION}: {SUBMISSION.stat().st_size / 1e6:.2f} MB")
print(f"volumes predicted: {len(cases) - len(unpredicted)} of {len(cases)}")
print(f"wall time: {time.monotonic() - STARTED:.0f} s, of {3600 * HOURS:.0f} s allowed")
