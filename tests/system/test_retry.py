from types import SimpleNamespace

import pytest

from custom.errors import DataError
from custom.system import retry as module


def test_pauses_grow(monkeypatch):
    pauses = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))

    def fail():
        raise OSError("reset")

    with pytest.raises(DataError, match="x://y: found no usable answer at try 6"):
        module.retry(fail, "x://y")
    for pause, longest in zip(pauses, (0.5, 1, 2, 4, 8), strict=True):
        assert longest / 2 <= pause <= longest
    pauses.clear()

    def forbid():
        raise PermissionError("no")

    with pytest.raises(DataError, match="at try 1"):
        module.retry(forbid, "x://y")
    assert pauses == []
