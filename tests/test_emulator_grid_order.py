"""What a programmatic launch may not touch before griddepcontrol.wait, and what it may."""

import emulator
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

HEAD = """
.version 8.5
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 memory) {{
  .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<9>;
  .shared .align 16 .b8 tile[1024];
  ld.param.u64 %rd0, [memory];
  mov.u32 %r0, %tid.x;
  mul.wide.u32 %rd1, %r0, 4;
  add.u64 %rd2, %rd0, %rd1;  // the thread's own word
  setp.eq.u32 %p0, %r0, 0;
  shl.b32 %r1, %r0, 2;
  mov.u32 %r2, tile;
  add.u32 %r3, %r2, %r1;
  {body}
  ret;
}}
"""
THREADS, WORDS = 64, 256
# The grid before: it writes a word for each thread, and reads the one 64 words further on.
WRITTEN, READ, OTHER = "[%rd2]", "[%rd2+256]", "[%rd2+512]"
BEFORE = f"ld.global.u32 %r4, {READ};\n st.global.u32 {WRITTEN}, %r4;"
LOAD, WAIT = "ld.global.u32 %r4, {};\n", "griddepcontrol.wait;\n"
STORE = "st.global.u32 {}, %r0;\n"

EARLY = {
    "a read": (LOAD.format(WRITTEN), "reads what the grid before it writes"),
    "a read, and then the wait": (LOAD.format(WRITTEN) + WAIT, "reads what the grid before it"),
    "a write": (STORE.format(WRITTEN), "overwrites what the grid before it writes"),
    "a write of what was read": (STORE.format(READ), "overwrites what the grid before it reads"),
    "an atomic update": (
        f"atom.global.add.u32 %r4, {WRITTEN}, 1;",
        "overwrites what the grid before it writes",
    ),
    "a copy": (
        f"cp.async.ca.shared.global [%r3], {WRITTEN}, 4;\n cp.async.wait_all;\n" + WAIT,
        "reads what the grid before it writes",
    ),
    "a wait of another thread": (
        f"@%p0 {WAIT}" + LOAD.format(WRITTEN),
        "reads what the grid before it writes",
    ),
    "a wait after the barrier": (
        f"bar.sync 0;\n @%p0 {WAIT}" + LOAD.format(WRITTEN),
        "reads what the grid before it writes",
    ),
}
IN_ORDER = {
    "a wait first": WAIT + LOAD.format(WRITTEN) + STORE.format(WRITTEN) + STORE.format(READ),
    "a wait of one thread, and a barrier": f"@%p0 {WAIT} bar.sync 0;\n" + LOAD.format(WRITTEN),
    "a read of what was read": LOAD.format(READ) + WAIT,
    "what the grid before leaves alone": STORE.format(OTHER) + LOAD.format(OTHER),
}


def run(*launches):
    """Launch bodies, with whether each may begin before the last has ended; None synchronises."""
    memory = np.zeros(WORDS, np.int32)
    with emulator.device(emulator.H100) as runtime:
        runtime.register_buffer(memory.ctypes.data, memory.nbytes, True)
        try:
            for launch in (*launches, None):
                if launch is None:
                    emulator.synchronize()
                    continue
                body, overlaps = launch
                runtime.enqueue(
                    HEAD.format(body=body), "kernel", (1, 1, 1), (THREADS, 1, 1),
                    arguments=[("ptr", memory.ctypes.data)], overlaps=overlaps,
                )  # fmt: skip
        finally:
            runtime.unregister_buffer(memory.ctypes.data)


def fails(message):
    return pytest.raises(emulator.runtime().EmulatorError, match=message)


@pytest.mark.parametrize("name", EARLY)
def test_what_comes_before_the_wait_is_found(name):
    body, message = EARLY[name]
    with fails(message):
        run((BEFORE, False), (body, True))
    run((BEFORE, False), (body, False))
    run((BEFORE, False), None, (body, True))


@pytest.mark.parametrize("body", IN_ORDER.values(), ids=IN_ORDER)
def test_what_is_in_order(body):
    run((BEFORE, False), (body, True))


def test_a_grid_that_does_not_wait_leaves_it_to_the_next():
    idle = LOAD.format(OTHER)
    with fails("launch 2 .*reads what the grid before it writes"):
        run((BEFORE, False), (idle, True), (LOAD.format(WRITTEN), True))
    run((BEFORE, False), (idle, True), (LOAD.format(WRITTEN), False))
    run((BEFORE, False), (idle, False), (LOAD.format(WRITTEN), True))
