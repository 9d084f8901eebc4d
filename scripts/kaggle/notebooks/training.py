# ruff: noqa: E402, F821
# Cells of the notebook that trains over several sessions. "# %%" starts a cell; "only=" restricts it to one bundle.

# %% [markdown] only=vesuvius
# # Papyrus surfaces in scrolls: train over several sessions

# %% [markdown] only=liver
# # Liver and tumours in CT: train over several sessions

# %% [markdown]
# Trains without internet access, and saves everything and stops before the session ends.
#
# **Inputs** (Add Input, on the right): the competition's data, and the dataset with the bundle and its wheels.
# **To continue in another session**: add the output of this notebook's last version as an input and save a new one.

# %% [markdown]
# ## Settings
#
# Change only this cell. `OPTIONS` accepts any key of the bundle's `configs/train.json`, and must not change between
# sessions.

# %% tags=parameters only=vesuvius
BUNDLE = "vesuvius_surface_3d"
HOURS = 8.5  # from here to the end of the notebook; a session has 9
DATA = None  # folder of the dataset; None: the one that contains train_images
CACHE = None  # folder for the uncompressed copy, about 52 GB for all volumes; None: a temporary folder
CONFIGS = ["train"]  # files in configs/; later ones override earlier ones, for example ["train", "low_memory"]
OPTIONS = {"batch_size": 1, "accumulation_steps": 2, "num_workers": 2}

# %% tags=parameters only=liver
BUNDLE = "liver_tumor_2d"
HOURS = 8.5  # from here to the end of the notebook; a session has 9
DATA = None  # folder of the dataset; None: the one with train/ or volume-*.nii
CACHE = None  # folder for the uncompressed copy; None: a temporary folder
CONFIGS = ["train"]  # files in configs/; later ones override earlier ones, for example ["train", "v1_baseline"]
OPTIONS = {"batch_size": 8, "num_workers": 2}

# %% include=setup

# %% [markdown]
# ## Resume an earlier session
#
# The newest checkpoint among the inputs, with everything else that the run has written, is copied to the output of this
# session.

# %%
checkpoints = sorted(find("models/checkpoints/step_*.pt"), key=lambda path: path.name)
here = sorted(path.name for path in WORKING.glob("models/checkpoints/step_*.pt"))  # if the notebook is run again
if here and (not checkpoints or checkpoints[-1].name <= here[-1]):
    print(f"going on after step {int(here[-1][5:-3])}, from {WORKING}")
elif checkpoints:
    before = checkpoints[-1].parents[2]
    for folder in ("models", "training"):
        if (before / folder).is_dir():
            shutil.copytree(before / folder, WORKING / folder, dirs_exist_ok=True)
    print(f"going on after step {int(checkpoints[-1].stem.split('_')[1])}, from {before}")
else:
    print("no checkpoint among the inputs: the training starts anew")

# %% [markdown]
# ## Train
#
# One process runs on each GPU. The training monitors its time and ends with a checkpoint before the session ends;
# interrupting this cell has the same effect.

# %% only=vesuvius
DATA = DATA or next((path.parent for path in find("train_images")), None)

# %% only=liver
volumes = [path for path in find("volume-*.nii*") if "test" not in path.relative_to(INPUT).parts]
folder = volumes[0].parent if volumes else None
DATA = DATA or (folder.parents[1] if folder and folder.parent.name == "train" else folder)

# %%
if DATA is None:
    raise RuntimeError(f"No training volumes below {INPUT}: add the competition's data, or set DATA.")
if GPUS:  # only a computation shows whether this torch supports the GPU
    check = "from custom.competition.timed_worker import choose_device; print(*choose_device())"
    answer = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True).stdout
    if not answer.startswith("cuda"):
        print(f"TRAINING ON THE CPU, choose another accelerator: {answer}")
        GPUS, os.environ["CUDA_VISIBLE_DEVICES"] = [], ""
configs = [*CONFIGS, "multi_gpu_train"] if len(GPUS) > 1 else CONFIGS
options = {
    "config_file": [str(ROOT / "configs" / f"{name}.json") for name in configs],
    "bundle_root": ROOT,
    "dataset_dir": DATA,
    "cache_dir": CACHE or TEMPORARY / "cache",
    "model_dir": WORKING / "models",
    "output_dir": WORKING / "training",
    "resume": True,
    "budget_hours": round(0.99 * HOURS - (time.monotonic() - STARTED) / 3600, 5),  # the rest is for the cells below
    **OPTIONS,
}
launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(GPUS)}"] if len(GPUS) > 1 else []
command = [*launcher, "-m", "monai.bundle", "run", "training", *(f"--{key}={value}" for key, value in options.items())]
print("python", *(f'"{word}"' if set(word) & set(" '[{") else word for word in command), "\n", flush=True)
process = subprocess.Popen(
    [sys.executable, "-u", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
)
shown = 0.0
while True:
    try:
        for line in process.stdout:
            is_progress = "%|" in line
            if line.strip() and not (is_progress and time.monotonic() - shown < 60):  # one progress line per minute
                print(line, end="")
                shown = time.monotonic() if is_progress else shown
        break
    except KeyboardInterrupt:  # the training receives it too, saves its state and ends
        print("interrupted: waiting for the checkpoint")
if process.wait() != 0:
    raise RuntimeError(f"the training ended with exit code {process.returncode}: see above")

# %% [markdown]
# ## Results

# %%
import csv

from IPython.display import Image, display

for picture in [WORKING / "training" / "curves.png", *sorted(WORKING.glob("training/panels/*.png"))[-1:]]:
    if picture.is_file():
        print(picture.relative_to(WORKING))
        display(Image(filename=str(picture)))
table = WORKING / "training" / "metrics.csv"
rows = list(csv.DictReader(table.open())) if table.is_file() else []
if not rows:
    print("no epoch is complete yet")
print(*(", ".join(f"{key} {value}" for key, value in row.items() if value) for row in rows[-3:]), sep="\n")

# %% [markdown]
# ## Saved files
#
# `models/model.pt` contains the best weights so far: the inference notebook finds them if this notebook's output is
# among its inputs. The next session resumes from `models/checkpoints`.

# %%
shutil.rmtree(TEMPORARY, ignore_errors=True)
for path in sorted(WORKING.glob("models/**/*.pt")):
    print(f"{path.relative_to(WORKING)}: {path.stat().st_size / 1e6:.1f} MB")
steps = [int(path.stem.split("_")[1]) for path in WORKING.glob("models/checkpoints/step_*.pt")]
print(f"steps done: {max(steps, default=0)}")
print(f"wall time: {time.monotonic() - STARTED:.0f} s, of {3600 * HOURS:.0f} s allowed")
