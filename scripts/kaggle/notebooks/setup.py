# ruff: noqa: F821
# The first cells of both notebooks. "# %%" starts a cell; "only=" restricts it to one bundle.

# %% [markdown]
# ## Packages and bundle
#
# Nothing is downloaded. torch, numpy, scipy, scikit-image and matplotlib are taken from Kaggle's image. Packages that
# are missing there, or needed in another version, are installed from the dataset's wheels into a separate folder. The
# bundle (network, configuration, code and weights) is in the same dataset, as a zip file or already unpacked by Kaggle.

# %%
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path

STARTED = time.monotonic()
INPUT = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING", "/kaggle/working"))
TEMPORARY = Path(tempfile.mkdtemp(prefix="bundle_"))  # deleted at the end


def find(pattern):
    """Paths below the input folder that match the pattern, those nearest to it first."""
    return [path for depth in range(6) for path in sorted(INPUT.glob("*/" * depth + pattern))]


def is_missing(requirement):
    name, version = requirement.split("==")
    try:
        return metadata.version(name) != version
    except metadata.PackageNotFoundError:
        return True


def unpacked_bundle():
    if archives := find(f"{BUNDLE}_v*.zip"):
        digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        if digest not in (archives[0].parent / "SHA256SUMS").read_text():
            raise RuntimeError(f"{archives[0]} is damaged: its SHA-256 is {digest}. Upload the dataset again.")
        zipfile.ZipFile(archives[0]).extractall(TEMPORARY)
        return TEMPORARY / BUNDLE
    if folders := find(f"{BUNDLE}/configs/metadata.json"):
        return folders[0].parents[1]
    raise RuntimeError(f"No {BUNDLE} below {INPUT}: add the dataset with the bundle to this notebook (Add Input).")


ROOT = unpacked_bundle()
lists = find("wheels/requirements.txt")
wanted = [line for line in lists[0].read_text().split() if is_missing(line)] if lists else []
if wanted:
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(TEMPORARY / "packages")]
    subprocess.run([sys.executable, *install, "--find-links", str(lists[0].parent), *wanted], check=True)
places = [str(ROOT), str(TEMPORARY / "packages")]
sys.path[:0] = places
os.environ["PYTHONPATH"] = os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])  # for child processes
print(f"bundle: {ROOT}\ninstalled from wheels: {', '.join(wanted) or 'nothing, all is there'}")

# %% [markdown]
# ## Machine

# %%
query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
found = subprocess.run(query, capture_output=True, text=True).stdout if shutil.which("nvidia-smi") else ""
GPUS = [line.split(", ") for line in found.splitlines() if line.count(", ") == 2]
for number, (name, memory, capability) in enumerate(GPUS):
    print(f"GPU {number}: {name}, {memory}, compute capability {capability}")
memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
print(f"{'' if GPUS else 'no GPU, '}{os.cpu_count()} CPU cores, {memory:.0f} GiB of memory")
print(f"free disk: {shutil.disk_usage(TEMPORARY).free / 2**30:.0f} GiB, of which the output may take 20")
