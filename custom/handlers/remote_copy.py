"""Copies of a run's files in a bucket, from which another machine can resume it."""

import logging
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..data.remote import filesystem
from ..errors import DataError
from ..system.distributed import gather, rank
from ..system.files import write_whole
from .checkpoints import WEIGHTS, different_settings, made_from

logger = logging.getLogger(__name__)


@without_effect()
class RemoteCopy:
    """Keeps copies of a run's folders at a URL, each at ``<url>/<name>/``.

    When training starts, files that are missing here are downloaded, or all files if the bucket has the newer
    checkpoint, so that :class:`Checkpoints` can resume a run of another machine. From then on a background thread
    uploads new and changed files, checkpoints last, so that the weights that belong to a checkpoint are always there
    too. Hidden files, which are still being written, are left out. If an upload fails, a warning is logged and the next
    round tries again.

    List it before :class:`Checkpoints`.

    Example: ``{"_target_": "custom.handlers.RemoteCopy", "folders": {"models": "models"}, "url": "gs://bucket/run1"}``

    Args:
        url: an fsspec URL; None copies nothing.

    Raises:
        DataError: the package for the URL's file system is not installed; when training starts: the bucket holds
            another run than the local folders.
    """

    def __init__(self, *, folders: Mapping[str, str], url: str | None = None, interval_s: float = 15.0) -> None:
        self.folders = {name: Path(folder) for name, folder in folders.items()}
        self.url = url
        self.interval_s = interval_s
        self._uploaded: dict[str, tuple[int, int]] = {}
        """Size and modification time of uploaded files, by path relative to the URL."""
        self._ended = threading.Event()

    def attach(self, engine: Engine) -> None:
        if self.url is not None:
            engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if rank() == 0:
            self.download()
            self._ended.clear()
            thread = threading.Thread(target=self._run, name="remote copy", daemon=True)
            thread.start()
            # added now, so that they run after all other handlers, which may still write
            for end in (Events.TERMINATE, Events.COMPLETED):
                engine.add_event_handler(end, self._finish, thread)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._finish_and_raise, thread)
        gather(None)  # the other ranks wait for the download

    def download(self) -> None:
        """Download files that are missing here, or all of them if the bucket has the newer checkpoint."""
        system = filesystem(self.url)
        system.invalidate_cache()
        root = system._strip_protocol(self.url).rstrip("/")
        there = {remote[len(root) :].lstrip("/"): remote for remote in sorted(system.find(root))}
        there = {key: remote for key, remote in there.items() if "/" in key and key.partition("/")[0] in self.folders}
        self._refuse_another_run(system, there)
        further = _newest(there) > _newest(self._here())
        for key, remote in there.items():
            name, _, relative = key.partition("/")
            local = self.folders[name] / relative
            if further or not local.exists():
                logger.info("fetching %s", remote)
                write_whole(local, lambda file, remote=remote: system.get_file(remote, str(file)))
                self._uploaded[key] = _version(local)

    def _refuse_another_run(self, system: Any, there: Mapping[str, str]) -> None:
        """Raise if local and remote checkpoints are of different runs, which would overwrite each other."""
        here = self._here()
        ours, theirs = (max(filter(_is_checkpoint, keys), key=_name, default=None) for keys in (here, there))
        if ours is None or theirs is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            fetched = Path(folder, "checkpoint.pt")
            system.get_file(there[theirs], str(fetched))
            mine, other = made_from(here[ours]), made_from(fetched)
        if mine and other and (different := different_settings(other, mine)):
            found = f"another run than that of {here[ours]} ({different})"
            raise DataError.of(self.url, found, "another --output_dir or another --model_dir")

    def upload(self) -> None:
        """Upload new and changed files, and delete checkpoints and weights that no longer exist here."""
        system = filesystem(self.url)
        root = system._strip_protocol(self.url).rstrip("/")
        files = self._here()
        for key in sorted(files, key=_is_checkpoint):
            try:
                version = _version(files[key])
                if self._uploaded.get(key) != version:
                    system.put_file(str(files[key]), f"{root}/{key}")
                    self._uploaded[key] = version
            except FileNotFoundError:  # an old checkpoint, deleted meanwhile
                continue
        for key in self._uploaded.keys() - files.keys():
            if _is_checkpoint(key) or _name(key) in WEIGHTS:  # old weights would be taken for those of the new run
                system.rm_file(f"{root}/{key}")
                del self._uploaded[key]

    def _here(self) -> dict[str, Path]:
        """The local files by path relative to the URL."""
        return {
            f"{name}/{path.relative_to(folder).as_posix()}": path
            for name, folder in self.folders.items()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def _run(self) -> None:
        while not self._ended.wait(self.interval_s):
            self._try_to_upload()

    def _try_to_upload(self) -> None:
        try:
            self.upload()
        except Exception as error:  # fsspec's packages raise various types
            logger.warning("%s: not up to date (%s: %s)", self.url, type(error).__name__, error)

    def _finish(self, _: Engine, thread: threading.Thread) -> None:
        self._ended.set()
        thread.join()
        self._try_to_upload()

    def _finish_and_raise(self, engine: Engine, error: BaseException, thread: threading.Thread) -> None:
        self._finish(engine, thread)
        raise error


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _newest(keys: Iterable[str]) -> str:
    return max((_name(key) for key in keys if _is_checkpoint(key)), default="")


def _name(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _is_checkpoint(key: str) -> bool:
    return _name(key).startswith("step_")
