"""What counts as a lack of memory: the messages of torch 2.13, cuDNN 9 and cuBLAS."""

from types import SimpleNamespace

import pytest
import torch

from custom.inferers.out_of_memory import lacks_memory, predict_in_halves


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a ..."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_librarys_own_words(error):
    def predict(batch):
        if len(batch) > 2:
            raise error
        return batch + 1

    inferer = SimpleNamespace(sw_batch_size=5)
    assert lacks_memory(error)
    assert predict_in_halves(predict, torch.arange(5), "items", inferer).tolist() == [1, 2, 3, 4, 5]
    assert inferer.sw_batch_size == 2
    with pytest.raises(type(error)):
        predict_in_halves(lambda _: predict(torch.arange(3)), torch.arange(1), "items", inferer)


def test_other_errors_are_raised_at_once():
    calls = []

    def predict(batch):
        calls.append(len(batch))
        raise RuntimeError("expected scalar type Float")

    assert not lacks_memory(MemoryError("the buffer is too large")) and not lacks_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="scalar type"):
        predict_in_halves(predict, torch.arange(4), "items", SimpleNamespace(sw_batch_size=4))
    assert calls == [4]
