"""Tensor maps, as the stand-in driver encodes them."""

import ctypes
from functools import cache

import emulator


@cache
def driver():
    function = ctypes.CDLL(emulator.runtime().__file__, emulator.LOADING).cuTensorMapEncodeTiled
    number, pointer = ctypes.c_uint32, ctypes.c_void_p
    function.argtypes = [pointer, number, number, *[pointer] * 5, *[number] * 4]
    return function


def encode(
    data_type, address, sizes, strides, box, steps=None, rank=None, interleave=0,
    swizzle=0, l2_promotion=0, oob_fill=0, device=emulator.H100, misaligned=0,
):  # fmt: skip
    """The 128 bytes of a tensor map; ValueError with the words for a rule that is broken."""
    room = (ctypes.c_char * 256)()
    at = -(-ctypes.addressof(room) // 64) * 64 + misaligned
    sizes, strides = ((ctypes.c_uint64 * len(values))(*values) for values in (sizes, strides))
    steps = steps or [1] * len(box)
    box, steps = ((ctypes.c_uint32 * len(values))(*values) for values in (box, steps))
    rank = len(sizes) if rank is None else rank
    with emulator.device(device) as runtime:
        if driver()(at, data_type, rank, address, sizes, strides, box, steps, interleave, swizzle,
                    l2_promotion, oob_fill):  # fmt: skip
            raise ValueError(runtime.last_failure())
    return ctypes.string_at(at, 128)
