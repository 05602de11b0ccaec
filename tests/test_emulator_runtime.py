"""The stand-in CUDA runtime: what it launches, when, and what it refuses as CUDA does."""

import ctypes

import emulator
import pytest
import torch
from emulator.cuda_ops import CudaOps, address, poisoned

from green_kernels.ops import int8_matmul, quantize_rows

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

NO_ERROR, INVALID_VALUE, INVALID_DEVICE, INVALID_HANDLE, LAUNCH_FAILURE = 0, 1, 101, 400, 719


@pytest.fixture
def cuda():
    """The C functions, on an A100."""
    with emulator.device(emulator.A100):
        yield ctypes.CDLL(emulator.runtime().__file__, mode=emulator.LOADING)


def quantize(x, x_q, scale, stream=0):
    return emulator.kernels().quantize_rows_cuda(
        x=address(x), dtype=0, x_q=address(x_q), x_q_stride=x.shape[1], scale=address(scale),
        M=x.shape[0], K=x.shape[1], stream=stream,
    )  # fmt: skip


def rows():
    x = torch.randn(3, 40)
    return x, poisoned(3, 40, dtype=torch.int8), poisoned(3, dtype=torch.float32)


def test_nothing_runs_before_somebody_waits(cuda):
    x, x_q, scale = rows()
    with emulator.buffers(x_q, scale, readonly=[x]):
        assert quantize(x, x_q, scale) is None
        assert torch.equal(x_q, poisoned(3, 40, dtype=torch.int8))
        emulator.synchronize()
    assert torch.equal(x_q, quantize_rows.reference(x)[0])


def test_streams_are_queues_of_their_own(cuda):
    streams = [ctypes.c_void_p(), ctypes.c_void_p()]
    for stream in streams:
        assert cuda.cudaStreamCreate(ctypes.byref(stream)) == NO_ERROR
    work = [rows(), rows()]
    tensors = [tensor for each in work for tensor in each]
    with emulator.buffers(*tensors):
        for each, stream in zip(work, streams, strict=True):
            assert quantize(*each, stream.value) is None
        assert cuda.cudaStreamSynchronize(streams[1]) == NO_ERROR
        assert torch.equal(work[1][1], quantize_rows.reference(work[1][0])[0])
        assert torch.equal(work[0][1], poisoned(3, 40, dtype=torch.int8))
        assert cuda.cudaStreamSynchronize(streams[0]) == NO_ERROR
        assert torch.equal(work[0][1], quantize_rows.reference(work[0][0])[0])
    assert cuda.cudaStreamDestroy(streams[0]) == NO_ERROR
    assert cuda.cudaStreamDestroy(streams[0]) == INVALID_HANDLE
    assert cuda.cudaStreamSynchronize(streams[0]) == INVALID_HANDLE


def test_what_a_kernel_does_wrong_breaks_all_that_follows(cuda):
    x, x_q, scale = rows()
    with emulator.buffers(x_q, readonly=[x]):  # but not scale
        assert quantize(x, x_q, scale) is None
        with pytest.raises(
            emulator.runtime().EmulatorError, match="launch 0 of seed .* outside all"
        ):
            emulator.synchronize()
    assert cuda.cudaDeviceSynchronize() == LAUNCH_FAILURE
    assert quantize(x, x_q, scale) == "unspecified launch failure"
    assert cuda.cudaGetLastError() == cuda.cudaGetLastError() == LAUNCH_FAILURE


def test_errors_are_told_once(cuda):
    assert cuda.cudaSetDevice(77) == INVALID_DEVICE
    assert cuda.cudaPeekAtLastError() == INVALID_DEVICE
    assert cuda.cudaGetLastError() == INVALID_DEVICE
    assert cuda.cudaGetLastError() == NO_ERROR
    cuda.cudaGetErrorName.restype = ctypes.c_char_p
    assert cuda.cudaGetErrorName(INVALID_DEVICE) == b"cudaErrorInvalidDevice"


def test_a_device_with_little_shared_memory_refuses_the_kernel():
    small = emulator.A100._replace(name="small", shared_optin=16 * 1024)
    x_q, w_q = (torch.ones(4, 64, dtype=torch.int8) for _ in range(2))
    with pytest.raises(RuntimeError, match="invalid argument"):
        CudaOps(small).int8_matmul(x_q, torch.ones(4), w_q, torch.ones(4))


@pytest.mark.parametrize(
    ("device", "error"),
    [
        (emulator.A100._replace(major=7, minor=5), "no kernel image is available"),
        (emulator.A100._replace(minor=9), None),
        (emulator.H100, None),
        (emulator.RTX_5090, None),
    ],
    ids=["sm_75", "sm_89", "sm_90", "sm_120"],
)
def test_a_device_runs_the_ptx_that_it_can(device, error):
    args = [torch.ones(4, 64, dtype=torch.int8), torch.ones(4)] * 2
    if error:
        with pytest.raises(RuntimeError, match=error):
            CudaOps(device).int8_matmul(*args)
    else:
        assert torch.equal(CudaOps(device).int8_matmul(*args), int8_matmul.reference(*args))


def test_a_grid_that_is_too_large_is_refused():
    with pytest.raises(RuntimeError, match="M [*] N is too large for one launch"):
        with emulator.device(emulator.A100):
            fields = dict.fromkeys(
                ("x_q", "x_scale", "w_q", "w_scale", "bias", "residual", "y", "bias_dtype",
                 "residual_dtype", "y_dtype", "act", "kernel", "tile", "workspace"), 0,
            )  # fmt: skip
            sizes = {
                "x_q_stride": 16,
                "w_q_stride": 16,
                "M": 2**40,
                "N": 2**20,
                "K": 16,
                "splits": 1,
            }
            error = emulator.kernels().int8_matmul_cuda(**fields, **sizes)
            raise RuntimeError(error)
