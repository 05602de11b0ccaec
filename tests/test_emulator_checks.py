"""What the emulator must find, each in the smallest kernel that has it; and what is no mistake."""

import os
import re
import subprocess
import sys
from pathlib import Path

import emulator
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

HEAD = """
.version 8.5
.target sm_90a
.address_size 64
.file 1 "kernel.cu"
{functions}
.visible .entry kernel(.param .u64 out) {{
  .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .pred %p<10>; .reg .b16 %rs<4>;
  .shared .align 16 .b8 tile[1024];
  .shared .align 8 .b64 bar;
  ld.param.u64 %rd0, [out];
  mov.u32 %r0, %tid.x;
  shl.b32 %r1, %r0, 2;
  mov.u32 %r2, tile;
  add.u32 %r3, %r2, %r1;   // the thread's own word
  xor.b32 %r4, %r1, 128;
  add.u32 %r5, %r2, %r4;   // that of a thread of another warp
  xor.b32 %r6, %r1, 4;
  add.u32 %r7, %r2, %r6;   // that of the next lane
  mov.u32 %r8, bar;
  cvt.u64.u32 %rd1, %r1;
  add.u64 %rd2, %rd0, %rd1;  // out[tid]
  setp.eq.u32 %p0, %r0, 0;
  .loc 1 77 3
  {body}
  ret;
}}
"""
WORDS = 256


def run(body, threads=64, blocks=1, cluster=1, seed=0, functions="", **how):
    """Run a body; return what it left in out, which began as -1."""
    out = np.full(WORDS, -1, np.int32)
    runtime = emulator.runtime()
    runtime.register_buffer(out.ctypes.data, out.nbytes, True)
    try:
        emulator.launch(
            HEAD.format(body=body, functions=functions), "kernel", (blocks, 1, 1), (threads, 1, 1),
            cluster=(cluster, 1, 1), arguments=[("ptr", out.ctypes.data)], seed=seed, **how,
        )  # fmt: skip
    finally:
        runtime.unregister_buffer(out.ctypes.data)
    return out


UNFENCED_INIT = "@%p0 mbarrier.init.shared::cta.b64 [%r8], {count};\n bar.sync 0;\n"
INIT = UNFENCED_INIT.replace(" bar.sync", "fence.mbarrier_init.release.cluster;\n bar.sync")
COPY = "cp.async.ca.shared.global [%r3], [%rd2], 4;\n cp.async.commit_group;\n"
BULK = """
  @!%p0 bra after;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r8], {expected};
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], 64, [%r8];
after:
"""
WAIT = """
again: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r8], {parity};
  @!%p1 bra again;
"""

BULK_STORE = """
  @!%p0 bra after;
  cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r2], 64;
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
after:
"""

WRONG = {
    "a race of two warps, read": (
        "st.shared.u32 [%r3], %r0;\n ld.shared.u32 %r9, [%r5];",
        "race: reads what the store of PTX line .* with no barrier|nobody has written",
    ),
    "a race of two warps, written twice": (
        "st.shared.u32 [%r3], %r0;\n st.shared.u32 [%r5], %r0;",
        "race: overwrites what the store",
    ),
    "a race of two warps, overwritten while read": (
        "st.shared.u32 [%r3], %r0;\n bar.sync 0;\n ld.shared.u32 %r9, [%r5];\n"
        "st.shared.u32 [%r3], 7;",
        "race: overwrites what the load|race: reads what the store",
    ),
    "a race of two lanes": (
        "st.shared.u32 [%r3], %r0;\n ld.shared.u32 %r9, [%r7];",
        "race: reads what the store",
    ),
    "shuffles order no memory": (
        "st.shared.u32 [%r3], %r0;\n shfl.sync.idx.b32 %r9, %r0, 0, 31, -1;\n"
        "ld.shared.u32 %r9, [%r7];",
        "race: reads what the store",
    ),
    "an arrival orders the lanes of its own warp no more than others": (
        INIT.format(count=64) + "st.shared.u32 [%r3], %r0;\n"
        "mbarrier.arrive.shared::cta.b64 _, [%r8];\n ld.shared.u32 %r9, [%r7];",
        "race: reads what the store",
    ),
    "one lane arrives for its warp": (
        INIT.format(count=1) + "st.shared.u32 [%r3], %r0;\n"
        "@%p0 mbarrier.arrive.shared::cta.b64 _, [%r8];\n"
        + WAIT.format(parity=0)
        + "ld.shared.u32 %r9, [%r7];",
        "race: reads what the store",
    ),
    "a shuffle that its guard keeps some lanes from": (
        "setp.lt.u32 %p1, %r0, 16;\n @%p1 shfl.sync.idx.b32 %r9, %r0, 3, 31, -1;",
        "its guard leaves out lanes|hang",
    ),
    "uninitialised shared memory": ("ld.shared.u32 %r9, [%r3];", "nobody has written"),
    "a copy that was not waited for, read": (
        COPY + "ld.shared.u32 %r9, [%r3];\n cp.async.wait_group 0;",
        "has yet to write",
    ),
    "a copy that was not waited for, overwritten": (
        COPY + "st.shared.u32 [%r3], %r0;\n cp.async.wait_group 0;",
        "is to write, with no wait",
    ),
    "a copy that is waited for, and read by another lane": (
        COPY + "cp.async.wait_group 0;\n ld.shared.u32 %r9, [%r7];",
        "race: reads what the store|has yet to write",
    ),
    "a copy at the exit": (COPY, "exits, and has not waited for the cp.async of PTX line"),
    "a global address outside": ("ld.global.u32 %r9, [%rd0+1024];", "outside all buffers"),
    "a global address before": ("st.global.u32 [%rd0+-4], %r0;", "outside all buffers"),
    "a shared address outside": ("ld.shared.u32 %r9, [%r2+70000];", "is outside the block's"),
    "a misaligned vector": (
        "ld.global.v4.u32 {%r9,%r10,%r11,%r12}, [%rd2];",
        "not a multiple of 16",
    ),
    "a barrier that not all lanes reach together": (
        "setp.lt.u32 %p1, %r0, 16;\n @%p1 bra skip;\n bar.sync 0;\nskip:",
        r"hang[\s\S]*bar.sync 0: lanes ffff0000 wait for lanes that must execute it with them",
    ),
    "a barrier that a warp never reaches": (
        "setp.lt.u32 %p1, %r0, 32;\n @%p1 bra skip;\n bar.sync 1, 64;\nskip: bar.sync 0;",
        r"hang: nothing can go on[\s\S]*wait for barrier 1 \(64 threads\)",
    ),
    "barriers of different sizes": (
        "setp.lt.u32 %p1, %r0, 32;\n selp.u32 %r9, 64, 96, %p1;\n bar.sync 1, %r9;",
        "expects (64|96) threads, where others expect (96|64)",
    ),
    "an mbarrier that is not there": (
        "mbarrier.arrive.shared::cta.b64 _, [%r8];",
        "there is no mbarrier",
    ),
    "an mbarrier used before a barrier": (
        "@%p0 mbarrier.init.shared::cta.b64 [%r8], 64;\n mbarrier.arrive.shared::cta.b64 _, [%r8];",
        "race: uses the mbarrier|there is no mbarrier",
    ),
    "an mbarrier read as memory": (
        INIT.format(count=64) + "ld.shared.u64 %rd5, [%r8];",
        "reads an mbarrier",
    ),
    "a phase that never ends": (
        INIT.format(count=65) + "mbarrier.arrive.shared::cta.b64 _, [%r8];" + WAIT.format(parity=0),
        r"hang[\s\S]*phase of parity 0 of the mbarrier",
    ),
    "more arrivals than are expected": (
        INIT.format(count=63) + "mbarrier.arrive.shared::cta.b64 _, [%r8];",
        "arrives 1 times where the mbarrier awaits|left in mid-phase",
    ),
    "a phase left half way": (
        INIT.format(count=65) + "mbarrier.arrive.shared::cta.b64 _, [%r8];",
        "left in mid-phase: 1 of 65",
    ),
    "a bulk copy that brings more than was said": (
        INIT.format(count=1) + BULK.format(expected=32) + WAIT.format(parity=0),
        "hang|mid-phase",
    ),
    "a bulk copy read in the wrong phase": (
        INIT.format(count=1)
        + BULK.format(expected=64)
        + WAIT.format(parity=1)
        + "ld.shared.u32 %r9, [%r2];",
        "has yet to write|nobody has written|race|hang",
    ),
    "a bulk store of what was not fenced": (
        "st.shared.u32 [%r3], %r0;\n bar.sync 0;\n" + BULK_STORE,
        "no fence.proxy.async",
    ),
    "a bulk store of what was written after the fence": (
        "fence.proxy.async.shared::cta;\n st.shared.u32 [%r3], %r0;\n bar.sync 0;\n" + BULK_STORE,
        "no fence.proxy.async",
    ),
    "a bulk store of what only one lane has fenced": (
        "st.shared.u32 [%r3], %r0;\n @%p0 fence.proxy.async.shared::cta;\n bar.sync 0;\n"
        + BULK_STORE,
        "no fence.proxy.async",
    ),
    "a bulk copy that nobody waits for": (
        INIT.format(count=1) + BULK.format(expected=64),
        "nobody has waited for the copy of PTX line",
    ),
    "a trap": ("@%p0 trap;", "lane 0: .*trapped"),
    "a loop without end": ("again: bra again;", "hang: still running after 10001"),
    "a count of registers that is none": (
        "setmaxnreg.dec.sync.aligned.u32 240;\n setmaxnreg.inc.sync.aligned.u32 248;\n"
        "setp.lt.u32 %p1, %r0, 32;\n @%p1 bra more;\n exit;\n"
        "more: setmaxnreg.dec.sync.aligned.u32 24;\n setmaxnreg.inc.sync.aligned.u32 260;",
        "a count must be a multiple of 8 from 24 to 256, not 260",
    ),
    "registers taken that were not held": (
        "setmaxnreg.dec.sync.aligned.u32 256;",
        "has 255|has 248|asks for 256",
    ),
    "an unknown instruction": (
        "tcgen05.wait::ld.sync.aligned;",
        "PTX line .*tcgen05.*does not know",
    ),
    "an unknown modifier": ("add.sat.rn.u32 %r9, %r0, %r0;", "PTX line .*add.sat.rn.u32"),
    "an undeclared name": ("mov.u32 %r9, %nobody;", "'%nobody' was not declared"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_is_found(name):
    body, message = WRONG[name]
    for seed in range(4):
        with pytest.raises(emulator.runtime().EmulatorError) as error:
            run(body, seed=seed, max_instructions=10_000)
        assert re.search(message, str(error.value)), str(error.value)


def test_an_mbarrier_of_a_cluster_is_fenced_before_a_bulk_copy_counts_at_it():
    body = UNFENCED_INIT.format(count=1) + BULK.format(expected=64) + WAIT.format(parity=0)
    run(body)  # of one block, it need not be
    with pytest.raises(emulator.runtime().EmulatorError, match="with no fence.mbarrier_init"):
        run(body, blocks=2, cluster=2)


def test_an_error_names_its_place():
    with pytest.raises(emulator.runtime().EmulatorError) as error:
        run("ld.global.u32 %r9, [%rd0+4096];", threads=32)
    expected = (
        r"kernel kernel, block 0,0,0, warp 0, lane 0: PTX line 25 \(kernel.cu:77\): ld.global"
    )
    assert re.search(expected, str(error.value)), str(error.value)


RIGHT = {
    "barriers of the block": (
        "st.shared.u32 [%r3], %r0;\n bar.sync 0;\n ld.shared.u32 %r9, [%r5];\n"
        "bar.sync 0;\n st.shared.u32 [%r3], 7;\n st.global.u32 [%rd2], %r9;",
        lambda t: t ^ 32,
    ),
    "a barrier of the warp": (
        "st.shared.u32 [%r3], %r0;\n bar.warp.sync -1;\n ld.shared.u32 %r9, [%r7];\n"
        "st.global.u32 [%rd2], %r9;",
        lambda t: t ^ 1,
    ),
    "a copy, waited for": (
        "st.global.u32 [%rd2], %r0;\n" + COPY + "cp.async.wait_group 0;\n bar.sync 0;\n"
        "ld.shared.u32 %r9, [%r7];\n add.u32 %r9, %r9, 100;\n bar.sync 0;\n"
        "st.global.u32 [%rd2], %r9;",
        lambda t: 100 + (t ^ 1),
    ),
    "an mbarrier in place of a barrier": (
        INIT.format(count=64) + "st.shared.u32 [%r3], %r0;\n"
        "mbarrier.arrive.shared::cta.b64 %rd5, [%r8];\n" + WAIT.format(parity=0)
        + "ld.shared.u32 %r9, [%r5];\n st.global.u32 [%rd2], %r9;",
        lambda t: t ^ 32,
    ),
    "one value stored by all": (
        "mov.u32 %r9, 5;\n st.shared.u32 [%r2], %r9;\n bar.sync 0;\n ld.shared.u32 %r9, [%r2];\n"
        "st.global.u32 [%rd2], %r9;",
        lambda t: 5 + 0 * t,
    ),
    "lanes that part and meet": (
        "and.b32 %r9, %r0, 3;\n mov.u32 %r10, 0;\n"
        "loop: setp.eq.u32 %p1, %r9, 0;\n @%p1 bra done;\n"
        "add.u32 %r10, %r10, %r9;\n sub.u32 %r9, %r9, 1;\n bra loop;\n"
        "done: bar.sync 0;\n st.global.u32 [%rd2], %r10;",
        lambda t: (t & 3) * ((t & 3) + 1) // 2,
    ),
    "lanes that wait for each other in a shuffle": (
        "setp.lt.u32 %p1, %r0, 7;\n @%p1 bra one;\n mov.u32 %r9, 3;\n bra both;\n"
        "one: mov.u32 %r9, 4;\nboth: shfl.sync.idx.b32 %r10, %r9, 0, 31, -1;\n"
        "st.global.u32 [%rd2], %r10;",
        lambda t: np.where(t < 32, 4, 3),
    ),
    "lanes that exit before a barrier": (
        "setp.ge.u32 %p1, %r0, 40;\n @%p1 exit;\n bar.sync 0;\n st.global.u32 [%rd2], %r0;",
        lambda t: np.where(t < 40, t, -1),
    ),
    "named barriers, a producer and a consumer": (
        "setp.lt.u32 %p1, %r0, 32;\n @%p1 bra producer;\n bar.sync 3, 64;\n"
        "ld.shared.u32 %r9, [%r5];\n"
        "st.global.u32 [%rd2], %r9;\n bra end;\n"
        "producer: st.shared.u32 [%r3], %r0;\n bar.arrive 3, 64;\nend:",
        lambda t: np.where(t < 32, -1, t - 32),
    ),
    "votes of a barrier": (
        "setp.lt.u32 %p1, %r0, 10;\n bar.red.popc.u32 %r9, 0, %p1;\n st.global.u32 [%rd2], %r9;",
        lambda t: 10 + 0 * t,
    ),
    "sums of atomics": (
        "@%p0 st.shared.u32 [%r2], 0;\n bar.sync 0;\n"
        "atom.shared.add.u32 %r9, [%r2], 2;\n bar.sync 0;\n"
        "ld.shared.u32 %r9, [%r2];\n st.global.u32 [%rd2], %r9;",
        lambda t: 128 + 0 * t,
    ),
    "a path that ends before a barrier": (
        "setp.ge.u32 %p1, %r0, 40;\n @%p1 bra early;\n bar.sync 0;\n st.global.u32 [%rd2], %r0;\n"
        "exit;\nearly: mul.lo.u32 %r9, %r0, 9;\n st.global.u32 [%rd2], %r9;",
        lambda t: np.where(t < 40, t, 9 * t),
    ),
    "masks of their own for parts of a warp": (
        "and.b32 %r9, %r0, 24;\n mov.u32 %r10, 255;\n shl.b32 %r10, %r10, %r9;\n"
        "redux.sync.max.u32 %r9, %r0, %r10;\n st.global.u32 [%rd2], %r9;",
        lambda t: t | 7,
    ),
    "a fence between the stores and a bulk store": (
        "st.shared.u32 [%r3], %r0;\n fence.proxy.async.shared::cta;\n bar.sync 0;\n" + BULK_STORE,
        lambda t: np.where(t < 16, t, -1),
    ),
    "a bulk copy that counts at an mbarrier, shown by a proxy fence": (
        "st.global.u32 [%rd2], %r0;\n"
        + UNFENCED_INIT.format(count=1).replace(" bar", "fence.proxy.async.shared::cta;\n bar")
        + BULK.format(expected=64) + WAIT.format(parity=0)
        + "setp.ge.u32 %p2, %r0, 16;\n @%p2 exit;\n ld.shared.u32 %r9, [%r3];\n"
        "st.global.u32 [%rd2+256], %r9;",
        lambda t: t,
    ),
    "a copy with a cache policy": (
        "createpolicy.fractional.L2::evict_first.b64 %rd7, 1.0;\n st.global.u32 [%rd2], %r0;\n"
        "cp.async.ca.shared.global.L2::cache_hint [%r3], [%rd2], 4, %rd7;\n"
        "cp.async.commit_group;\n cp.async.wait_group 0;\n"
        "ld.shared.u32 %r9, [%r3];\n st.global.u32 [%rd2], %r9;",
        lambda t: t,
    ),
    "a copy that ignores its source where a predicate holds": (
        "setp.lt.u32 %p1, %r0, 10;\n st.global.u32 [%rd2], %r0;\n"
        "cp.async.ca.shared.global [%r3], [%rd2], 4, %p1;\n"
        "cp.async.commit_group;\n cp.async.wait_group 0;\n"
        "ld.shared.u32 %r9, [%r3];\n st.global.u32 [%rd2], %r9;",
        lambda t: np.where(t < 10, 0, t),
    ),
    "a number with a point, and directives with no space between": (
        "{.reg.b32 f; mov.f32 f, 1.5; cvt.rzi.s32.f32 f, f; st.global.u32 [%rd2], f;}",
        lambda t: 1 + 0 * t,
    ),
    "a label in two scopes": (
        "{ .reg .pred q; setp.eq.u32 q, %r0, 0; @q bra in; mov.u32 %r9, 1; in: }\n"
        "{ .reg .pred q; setp.ne.u32 q, %r0, 0; @q bra in; mov.u32 %r9, 2; in: }\n"
        "st.global.u32 [%rd2], %r9;",
        lambda t: np.where(t == 0, 2, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_is_no_mistake(name):
    body, expected = RIGHT[name]
    threads = np.arange(64)
    for seed in range(20):
        assert (run(body, seed=seed)[:64] == expected(threads)).all()


FUNCTIONS = """
.func (.param .b32 result) twice(.param .b32 x) {
  .reg .b32 %r<3>;
  ld.param.b32 %r1, [x];
  add.u32 %r2, %r1, %r1;
  st.param.b32 [result], %r2;
  ret;
}
"""
CALL = """{ .param .b32 a; .param .b32 b;
  st.param.b32 [a], %r0; call.uni (b), twice, (a); ld.param.b32 %r9, [b]; }
  st.global.u32 [%rd2], %r9;"""


def test_registers_are_given_out_once():
    """Nine warps begin with 224 each of 65536; all of them with 256 are too many."""
    with pytest.raises(emulator.runtime().EmulatorError, match=r"hang[\s\S]* registers, of which"):
        run("setmaxnreg.inc.sync.aligned.u32 256;", threads=288)
    some_give = """setp.lt.u32 %p1, %r0, 128;
      @%p1 bra give;
      setmaxnreg.inc.sync.aligned.u32 256; exit;
    give: setmaxnreg.dec.sync.aligned.u32 40;"""
    run(some_give, threads=288)


def test_calls():
    assert (run(CALL, functions=FUNCTIONS)[:64] == 2 * np.arange(64)).all()


def test_an_assertion_of_the_kernel():
    functions = ".extern .func __assertfail(.param .b64 m);"
    body = "{ .param .b64 m; st.param.b64 [m], 0; @%p0 call.uni __assertfail, (m); }"
    with pytest.raises(emulator.runtime().EmulatorError, match="an assertion of the kernel failed"):
        run(body, functions=functions)


def test_blocks_of_a_cluster_share_memory():
    body = """
      mov.u32 %r9, %cluster_ctarank;
      st.shared.u32 [%r3], %r9;
      barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
      xor.b32 %r10, %r9, 1;
      mapa.shared::cluster.u32 %r11, %r3, %r10;
      ld.shared::cluster.u32 %r12, [%r11];
      barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
      shl.b32 %r13, %r9, 7; cvt.u64.u32 %rd3, %r13; add.u64 %rd4, %rd2, %rd3;
      st.global.u32 [%rd4], %r12;"""
    for seed in range(10):
        out = run(body, threads=32, blocks=2, cluster=2, seed=seed)
        assert (out[:32] == 1).all() and (out[32:64] == 0).all()
    without = body.replace("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;", "", 1)
    with pytest.raises(emulator.runtime().EmulatorError, match="race|nobody has written"):
        run(without, threads=32, blocks=2, cluster=2)


def test_a_seed_repeats_what_happened():
    body = "atom.global.add.u32 %r9, [%rd0], 1;\n st.global.u32 [%rd2+512], %r9;"
    first = [run(body, seed=seed)[128:192].tolist() for seed in range(6)]
    assert first == [run(body, seed=seed)[128:192].tolist() for seed in range(6)]
    assert len({tuple(order) for order in first}) > 3


def test_trace_prints_what_a_warp_does(capfd):
    run(
        "add.u32 %r9, %r0, 5;\n setp.lt.u32 %p1, %r0, 35;\n @%p1 mov.b64 %rd9, {%r9, %r0};",
        trace="0:1",
    )
    err = capfd.readouterr().err
    assert re.search(r"0:1 ffffffff/ffffffff PTX line 25 \(kernel.cu:77\): add.u32", err)
    added = " ".join(f"{32 + lane + 5:x}" for lane in range(32))
    assert f"\n    %r9: {added}\n    %r0: 20 21 " in err
    gone = " -" * 29 + "\n"
    parts = f"%rd9: 2000000025 2100000026 2200000027{gone}"
    parts += f"    %r9: 25 26 27{gone}    %r0: 20 21 22{gone}"
    assert "0:1 00000007/ffffffff PTX line 27" in err and parts in err


@pytest.mark.parametrize("trace", ["0", "0:1:2", "0,0:1", "a:b", ":", "01:1"])
def test_a_trace_that_names_no_warp(trace):
    with pytest.raises(ValueError, match="trace must be .block:warp.*%ctaid.x.*got"):
        run("", trace=trace)


@pytest.mark.parametrize(("name", "value"), [("SEED", "x"), ("SEED", "-1"), ("TRACE", "3")])
def test_environment_variables_that_are_wrong(name, value):
    environment = os.environ | {f"EMULATOR_{name}": value}
    command = [sys.executable, "-c", "import emulator"]
    where = Path(emulator.__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True)
    assert done.returncode and f"EMULATOR_{name} must be" in done.stderr
    assert done.stderr.rstrip().endswith(f"got '{value}'")


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        (None, "must be bytes or a tuple .kind, value., got None"),
        ("u8", "must be bytes or a tuple .kind, value., got 'u8'"),
        (("u64", -1), "must have a value that its kind can hold, got .'u64', -1.: error"),
        (("word", 1), "must be of one of the kinds .* u64 .*, got .'word', 1."),
        (("u32", 1), "must have 8 bytes, got 4"),
    ],
)
def test_arguments_that_do_not_fit(argument, error):
    with pytest.raises(emulator.runtime().EmulatorError, match=rf"arguments\[0\] {error}"):
        emulator.launch(
            HEAD.format(body="", functions=""), "kernel", (1, 1, 1), (32, 1, 1),
            arguments=[argument],
        )  # fmt: skip
