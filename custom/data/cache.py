"""Lossless cache of memory-mapped volumes for training.

The operating system keeps the parts in use in memory, and frees them when memory runs short.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ..configuration import without_effect
from ..errors import DataError
from ..system.identity import sha256
from ..system.processes import end_with_parent
from .cached_volume import MODALITIES, CachedVolume, build_volume, why_outdated
from .cases import Case
from .plausibility import check_values, warn_of_identity
from .remote import fetch, identities, is_url
from .volumes import read_shape, stem

_ONE_PROCESS_BYTES = 5e8
"""Below this size, building in this process is faster than starting workers."""

_ABANDONED = 24 * 3600.0
"""Seconds after which another machine's partial volume is considered abandoned."""

_FULL_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}

logger = logging.getLogger(__name__)


@without_effect("cache_dir", "trust_values", "num_workers", "max_size_gb", "progress")
class VolumeCache(Sequence[CachedVolume]):
    """Sequence of cases as memory-mapped arrays; missing and outdated volumes are built on construction.

    Each case has a folder ``<id>-<hash of sources and settings>`` in ``cache_dir``, which appears when it is complete.
    An interrupted build continues with the next case; a volume whose source changed (size, time, hash or etag) is
    rebuilt; several processes that build the same cache share the work.

    Example: ``volumes = VolumeCache(cases=find_cases("/data/lits"), cache_dir="cache", modality="ct", num_workers=4)``

    Args:
        cases: from :func:`custom.data.find_cases` or :func:`custom.data.fold_cases`. ``id`` defaults to the image's
            file name, ``group`` to the id, ``label`` to None.
        cache_dir: a local folder; created if missing.
        modality: "scroll" (uint8 or uint16, unchanged) or "ct" (int16 HU, reoriented to
            :data:`custom.data.volumes.CANONICAL`; the -3024 outside the field of view is kept). TIFF stacks keep their
            axis order; files with an affine are reoriented in both modalities.
        label_values: the allowed label values.
        grey_values: for "scroll", the two ends of the intensity range that will be scaled; None skips the check of
            values. For "ct" values are in HU.
        trust_values: whether to skip the checks of values and affines (:mod:`custom.data.plausibility`).
        ignore_label: if most labelled cases have this label value, cases without it are excluded with a warning. This
            recognises the withdrawn cases of the Kaggle competition "Vesuvius Challenge - Surface Detection", whose
            labels have no unlabelled region.
        num_workers: number of processes that build; 0 builds in this process.
        max_size_gb: largest size of the cached cases on disk (10^9 bytes).
        progress: whether to show a progress bar while building.

    Raises:
        DataError: a case cannot be used (volumes finished before it are kept), its values are implausible, or there is
            too little space on the disk or within ``max_size_gb``.
    """

    def __init__(
        self,
        *,
        cases: Sequence[Case],
        cache_dir: str | os.PathLike,
        modality: str,
        label_values: Sequence[int] = (0, 1, 2),
        grey_values: Sequence[float] | None = None,
        trust_values: bool = False,
        ignore_label: int | None = None,
        num_workers: int = 0,
        max_size_gb: float | None = None,
        progress: bool = True,
    ) -> None:
        if modality not in MODALITIES:
            raise ValueError(f"modality is one of {MODALITIES}, got {modality!r}")
        self.cache_dir = _make_folder(Path(cache_dir).expanduser().absolute())
        self.progress = progress
        names = [case.get("id", stem(case["image"])) for case in cases]
        cases = [{"id": name, "group": name, "label": None, **case} for name, case in zip(names, cases, strict=True)]
        jobs = _plan(cases, self.cache_dir, modality, label_values)
        _remove_abandoned(self.cache_dir)
        ready, todo = [], []
        for job in jobs:
            (ready if _is_ready(job) else todo).append(job)
        check = functools.partial(_check_plausibility, grey_values=grey_values, trust_values=trust_values)
        for job in ready:
            check(job)
        if todo:
            estimate = sum(_estimate(job) for job in todo)
            downloads = max(_download_bytes(job) for job in todo) * max(num_workers, 1)
            present = sum(job.volume.bytes for job in ready)
            _check_space(self.cache_dir, len(todo), estimate, downloads, present, max_size_gb)
            _build(todo, num_workers if estimate >= _ONE_PROCESS_BYTES else 0, progress, check)
        logger.info("%s: %d volumes ready, %d of them built now", self.cache_dir, len(jobs), len(todo))
        volumes = [job.volume for job in jobs]
        self._volumes = volumes if ignore_label is None else _without_withdrawn(volumes, ignore_label)

    def __len__(self) -> int:
        return len(self._volumes)

    def __getitem__(self, index: int | slice) -> CachedVolume | list[CachedVolume]:
        return self._volumes[index]

    def verify(self) -> list[str]:
        """Hash every file again, and return the paths of damaged ones, so that their folders can be deleted."""
        bar = tqdm(self._volumes, desc="verify", unit="volume", disable=not self.progress)
        files = ((path, entry) for volume in bar for path, entry in volume.files().items())
        return [path for path, entry in files if not os.path.isfile(path) or sha256(path) != entry["sha256"]]


class _Job(NamedTuple):
    case: Case
    folder: Path
    sources: dict[str, dict[str, Any]]
    modality: str
    label_values: tuple[int, ...]

    @property
    def volume(self) -> CachedVolume:
        return CachedVolume(folder=str(self.folder), id=self.case["id"], group=self.case["group"])


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"a folder that cannot be made ({error.strerror})"
        raise DataError.of(folder, found, "a cache_dir to write to") from None
    return folder


def _plan(cases: Sequence[Case], cache_dir: Path, modality: str, label_values: Sequence[int]) -> list[_Job]:
    known = identities([path for case in cases for path in (case["image"], case["label"]) if path])
    jobs = []
    for case in cases:
        sources = {kind: known[case[kind]] for kind in ("image", "label") if case[kind]}
        settings = [*(source["path"] for source in sources.values()), modality, *label_values]
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]", "_", case["id"])
        jobs.append(_Job(case, cache_dir / f"{name}-{digest}", sources, modality, tuple(label_values)))
    return jobs


def _is_ready(job: _Job) -> bool:
    if not job.folder.is_dir():
        return False
    reason = why_outdated(job.folder, job.sources)
    if reason is not None:
        logger.warning("%s: the cached volume %s; it is rebuilt", job.folder, reason)
    return reason is None


def _check_plausibility(job: _Job, *, grey_values: Sequence[float] | None, trust_values: bool) -> None:
    """Check values and affine once per start, by the statistics in the manifest."""
    volume = job.volume
    is_ct = job.modality == "ct"
    if trust_values or not (is_ct or grey_values):
        return
    check_values(volume.image_path, volume.values, grey_values=None if is_ct else grey_values)
    if is_ct:
        warn_of_identity(volume.image_path, volume.original_affine, volume.original_shape)


def _estimate(job: _Job) -> int:
    """Estimated bytes of a case, from the header if it is quick to read, otherwise from the file size."""
    path, size = job.case["image"], job.sources["image"]["size"] or 0
    header = None if is_url(path) else read_shape(path)
    if header is None:
        compressed = path.lower().endswith((".gz", ".nrrd", ".mha"))
        return size * (3 if compressed else 2)  # CT is compressed to half at best; a label takes half of int16
    shape, dtype = header
    itemsize = 4 if dtype.kind == "f" else 2 if job.modality == "ct" else min(dtype.itemsize, 2)
    return math.prod(shape) * (itemsize + bool(job.case["label"]))


def _download_bytes(job: _Job) -> int:
    """Bytes of the local copies of a remote case while it is built."""
    return sum(source["size"] or 0 for source in job.sources.values() if is_url(source["path"]))


def _check_space(
    cache_dir: Path, number: int, estimate: int, downloads: int, present: int, max_size_gb: float | None
) -> None:
    what = f"{number} more volumes"
    if max_size_gb is not None and present + estimate > max_size_gb * 1e9:
        found = f"{(present + estimate) / 1e9:.3g} GB needed for the cache with {what}"
        raise DataError.of(cache_dir, found, f"at most max_size_gb = {max_size_gb:g}")
    free = shutil.disk_usage(cache_dir).free
    if estimate + downloads > free:
        expected = f"{(estimate + downloads) / 1e9:.3g} GB for {what}; set cache_dir to a larger disk"
        raise DataError.of(cache_dir, f"{free / 1e9:.3g} GB free", expected)


def _build(todo: list[_Job], num_workers: int, progress: bool, check: Callable[[_Job], None]) -> None:
    with tqdm(total=len(todo), desc="cache", unit="volume", disable=not progress) as bar:
        # Volumes that other processes are building come last; by then they are mostly finished.
        for wait in (False, True):
            left = []
            for job, notes in _run(todo, num_workers, wait):
                if notes is None:
                    left.append(job)
                    continue
                bar.update()
                for note in notes:
                    logger.warning(note)
                check(job)
            todo = left


def _run(jobs: list[_Job], num_workers: int, wait: bool) -> Iterator[tuple[_Job, list[str] | None]]:
    """Yield each job with its notes, or with None if another process is building it; in no particular order."""
    if num_workers == 0 or len(jobs) < 2:
        yield from ((job, _build_one(job, wait)) for job in jobs)
        return
    # Not fork: locks held by the parent's threads (ITK, fsspec) would never be released in the child.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # import once, not in every process
    workers = min(num_workers, len(jobs))
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        futures = {pool.submit(_build_one, job, wait): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            message = "a process that builds the cache died, probably for lack of memory; use fewer num_workers, or 0"
            raise RuntimeError(message) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _build_one(job: _Job, wait: bool) -> list[str] | None:
    with _lock(job.folder, wait=wait, without_locks=True) as mine:
        if not mine:
            return None
        if job.folder.is_dir() and why_outdated(job.folder, job.sources) is None:
            return []  # built by another process in the meantime
        downloads = job.folder.parent / ".downloads" / job.folder.name
        try:
            paths = {kind: source["path"] for kind, source in job.sources.items()}
            for kind, path in paths.items():
                if is_url(path):
                    paths[kind] = str(fetch(path, downloads / kind, job.sources[kind]))
            settings = {"modality": job.modality, "label_values": job.label_values}
            notes = build_volume(job.folder, job.sources, paths, **settings)
        except OSError as error:
            if error.errno not in _FULL_DISK:
                raise
            free = shutil.disk_usage(job.folder.parent).free
            found = f"a full disk ({error.strerror}, {free / 1e9:.3g} GB free) at case {job.case['id']}"
            raise DataError.of(job.folder.parent, found, "room; set cache_dir to a larger disk") from None
        shutil.rmtree(downloads, ignore_errors=True)
        return notes


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool, without_locks: bool) -> Iterator[bool]:
    """Lock a cached volume for this process; yields whether that succeeded.

    The kernel releases the lock when the process dies. ``without_locks`` is the result on file systems without locks:
    there building continues (the final rename is atomic), cleaning does not. In a folder that cannot be written to,
    cleaning does not succeed, and building raises.
    """
    lock = folder.parent / ".locks" / folder.name
    try:
        lock.parent.mkdir(exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        if not without_locks:
            yield False
            return
        found = f"a folder that cannot be written to ({error.strerror})"
        raise DataError.of(folder.parent, found, "a cache_dir to write to") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        except OSError as error:
            logger.warning("%s: no file locks (%s); processes that share it may do work twice", folder.parent, error)
            held = without_locks
        yield held


def _remove_abandoned(cache_dir: Path) -> None:
    """Delete partial volumes of killed builds, except those that a running process is building."""
    for partial in cache_dir.glob("*.partial-*"):
        folder = partial.with_name(partial.name.split(".partial-", 1)[0])
        with _lock(folder, wait=False, without_locks=False) as mine, contextlib.suppress(FileNotFoundError):
            here = f"-{socket.gethostname()}-" in partial.name
            if mine and (here or time.time() - partial.stat().st_mtime > _ABANDONED):
                shutil.rmtree(partial, ignore_errors=True)


def _without_withdrawn(volumes: list[CachedVolume], ignore_label: int) -> list[CachedVolume]:
    labelled = [volume for volume in volumes if volume.has_label]
    without = [volume for volume in labelled if not volume.label_histogram[:, ignore_label].any()]
    if not without or 2 * len(without) >= len(labelled):
        return volumes
    names = ", ".join(volume.id for volume in without)
    logger.warning("%d cases have no label %d though most do, and are left out: %s", len(without), ignore_label, names)
    return [volume for volume in volumes if volume not in without]
