"""The chooser of CUDA kernels: its choice is possible, the best that it knows, and no cliff."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

plans = pytest.importorskip("green_kernels._C").plans

KB = 1024
GPUS = {
    "A100": plans.Gpu(80, 108, 163 * KB, has_sm90a=False, memory=1555),
    "L40S": plans.Gpu(89, 142, 99 * KB, has_sm90a=False),
    "H200": plans.Gpu(90, 132, 227 * KB, has_sm90a=True, memory=4800),
    "H200 without sm_90a": plans.Gpu(90, 132, 227 * KB, has_sm90a=False),
    "B200": plans.Gpu(100, 148, 227 * KB, has_sm90a=False),
    "RTX 5090": plans.Gpu(120, 170, 99 * KB, has_sm90a=False),
    "one SM": plans.Gpu(90, 1, 227 * KB, has_sm90a=True),
}
any_gpu = st.sampled_from(list(GPUS.values()))
LENGTHS = {"N": st.integers(1, 2**18), "K": st.integers(0, 133144)}


@settings(max_examples=200, deadline=None)
@given(M=st.integers(1, 2**24), gpu=any_gpu, from_float=st.booleans(), **LENGTHS)
def test_the_choice_is_possible_and_the_least_predicted(M, N, K, gpu, from_float):
    chosen = plans.choose(M, N, K, gpu, from_float)
    possible = plans.possible(M, N, K, gpu, from_float)
    assert chosen in possible
    assert 0 <= chosen.tile < plans.TILE_COUNTS[int(chosen.kernel)]
    assert chosen.splits in plans.SPLITS
    times = [plans.time(M, N, K, gpu, plan, from_float) for plan in possible]
    assert plans.time(M, N, K, gpu, chosen, from_float) == min(times) > 0
    if not gpu.has_sm90a:
        assert chosen.kernel == plans.Kernel.mma
    if chosen.quantizes:
        assert from_float and M <= 4


@settings(max_examples=100, deadline=None)
@given(
    M=st.integers(1, 9000), more=st.integers(1, 500), gpu=any_gpu,
    from_float=st.booleans(), **LENGTHS,
)  # fmt: skip
def test_more_rows_never_take_less_time(M, more, N, K, gpu, from_float):
    def time(rows):
        plan = plans.choose(rows, N, K, gpu, from_float)
        return plans.time(rows, N, K, gpu, plan, from_float)

    assert time(M) <= 1.1 * time(M + more)


KERNELS = {  # on an H200: of int8_linear, M, N, K
    "few rows": ((32, 4096, 8192), plans.Kernel.decode),
    "prefill": ((8192, 4096, 4096), plans.Kernel.wgmma),
}


@pytest.mark.parametrize(("problem", "kernel"), KERNELS.values(), ids=KERNELS)
def test_kernels_at_familiar_sizes(problem, kernel):
    assert plans.choose(*problem, GPUS["H200"], True).kernel == kernel


WRONG = {
    "no tile": ((plans.Kernel.mma, plans.TILE_COUNTS[0], 1), "tile must be from 0 to"),
    "a tile before the first": ((plans.Kernel.decode, -1, 1), "tile must be from 0 to .*, got -1"),
    "parts that are none": ((plans.Kernel.decode, 0, 3), "there is no kernel for splits = 3"),
    "a tile that is not split": ((plans.Kernel.wgmma, 0, 2), "there is no kernel for splits = 2"),
}


@pytest.mark.parametrize(("plan", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_plan_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        plans.Plan(*plan)


def test_a_gpu_has_multiprocessors():
    with pytest.raises(ValueError, match="sm_count must be at least 1, got 0"):
        plans.Gpu(90, 0, 227 * KB, has_sm90a=True)


@pytest.fixture
def nothing_asked():
    yield
    plans.ask_for(None)
    plans.set_measured([])


def test_a_plan_that_is_asked_for_comes_first(nothing_asked):
    gpu, asked = GPUS["H200"], plans.Plan(plans.Kernel.wgmma, 6, 1)
    plans.ask_for(asked)
    assert plans.planned(7, 64, 64, gpu, False) == asked
    with pytest.raises(RuntimeError, match="plan wgmma:128x128:1 .* M, N, K = 7, 64, 64 on sm_80"):
        plans.planned(7, 64, 64, GPUS["A100"], False)
    plans.ask_for(plans.Plan(plans.Kernel.decode, 0, 1))  # which rounds x by itself
    with pytest.raises(RuntimeError, match="plan decode:8q:1 .* not possible for int8_matmul of"):
        plans.planned(1, 64, 64, gpu, False)
    plans.ask_for(None)
    assert plans.planned(7, 64, 64, gpu, False) == plans.choose(7, 64, 64, gpu, False)


def test_a_measured_plan_counts_on_its_gpu_for_its_sizes(nothing_asked):
    gpu, better = GPUS["H200"], plans.Plan(plans.Kernel.decode, 2, 8)
    chosen = plans.choose(8, 4096, 8192, gpu, False)
    assert plans.planned(8, 4096, 8192, gpu, False) == chosen != better
    plans.set_measured([(90, 132, 4800, 5, 16, 4096, 8192, False, better)])
    assert plans.planned(8, 4096, 8192, gpu, False) == better
    for M, N, K, other, from_float in (
        (17, 4096, 8192, gpu, False), (8, 4095, 8192, gpu, False), (8, 4096, 8191, gpu, False),
        (8, 4096, 8192, gpu, True), (8, 4096, 8192, GPUS["H200 without sm_90a"], False),
    ):  # fmt: skip
        expected = plans.choose(M, N, K, other, from_float)
        assert plans.planned(M, N, K, other, from_float) == expected
