"""Plans by name, and the table of those that measured faster than the chooser's."""

import json
import os
import subprocess
import sys

import pytest
import torch

import green_kernels as gk
from green_kernels.ops.plans import MEASURED

plans = pytest.importorskip("green_kernels._C").plans

H200 = plans.Gpu(90, 132, 227 * 1024, has_sm90a=True, memory=4800)
PROBLEM = (8, 4096, 8192, H200, False)  # M, N, K, and of int8_matmul
ROW = {
    "arch": 90, "sm_count": 132, "memory": 4800, "first_M": 5, "last_M": 16, "N": 4096, "K": 8192,
    "from_float": False, "plan": "decode:16:8", "origin": "me",
}  # fmt: skip


@pytest.fixture(autouse=True)
def put_back():
    yield
    gk.ops.use_measured_plans(MEASURED)


def written(tmp_path, rows):
    path = tmp_path / "plans.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


def test_names_tell_plans_apart():
    assert all(gk.ops.PLANS[plan.name] == plan for plan in plans.ALL)
    assert len(gk.ops.PLANS) == len(plans.ALL) > sum(plans.TILE_COUNTS)
    shown = plans.Plan(plans.Kernel.wgmma, 2, 1), plans.Plan(plans.Kernel.decode, 0, 4)
    assert [str(plan) for plan in shown] == ["wgmma:128x256x2:1", "decode:8q:4"]


def test_all_that_is_possible_has_a_name():
    for M in (1, 64, 4096):
        assert all(p.name in gk.ops.PLANS for p in plans.possible(M, 4096, 8192, H200, True))


def test_use_plan_is_nested_and_ends_with_its_block():
    chosen = plans.planned(*PROBLEM)
    with gk.ops.use_plan("mma:16x64x128:2"):
        with gk.ops.use_plan("decode:32:4"):
            assert plans.planned(*PROBLEM).name == "decode:32:4"
        assert plans.planned(*PROBLEM).name == "mma:16x64x128:2"
        with pytest.raises(ZeroDivisionError), gk.ops.use_plan("decode:32:1"):
            raise ZeroDivisionError
        assert plans.planned(*PROBLEM).name == "mma:16x64x128:2"
    assert plans.planned(*PROBLEM) == chosen


def test_use_plan_refuses_a_name_that_is_none():
    with pytest.raises(ValueError, match="name must be one of mma:.*, got 'wgmma:1x1:1'"):
        with gk.ops.use_plan("wgmma:1x1:1"):
            pass


def run_with(**environment):
    code = """
from green_kernels._C import plans
gpu = plans.Gpu(90, 132, 227 * 1024, has_sm90a=True, memory=4800)
import green_kernels
print(plans.planned(8, 4096, 8192, gpu, False))
plans.ask_for(None)
print(plans.planned(8, 4096, 8192, gpu, False))
"""
    environment = os.environ | {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_environment_asks_for_a_plan_and_for_a_table(tmp_path):
    path = written(tmp_path, [ROW])
    ran = run_with(GREEN_KERNELS_PLAN="decode:64:2", GREEN_KERNELS_PLANS=path)
    assert ran.stdout.split() == ["decode:64:2", ROW["plan"]], ran.stderr


def test_the_environment_cannot_ask_for_what_is_no_plan():
    assert "GREEN_KERNELS_PLAN must be one of" in run_with(GREEN_KERNELS_PLAN="fast").stderr


@pytest.mark.parametrize("text", [None, "{}"], ids=["no file", "no table"])
def test_a_table_that_the_environment_names_in_vain_is_named(text, tmp_path):
    path = tmp_path / "plans.json" if text is None else written(tmp_path, text)
    said = run_with(GREEN_KERNELS_PLANS=path).stderr.splitlines()[-1]
    assert said.startswith("ValueError: GREEN_KERNELS_PLANS: ") and str(path) in said


def test_a_measured_plan_comes_before_the_choosers(tmp_path):
    chosen = plans.planned(*PROBLEM)
    assert chosen.name != ROW["plan"]
    gk.ops.use_measured_plans(written(tmp_path, [ROW]))
    assert plans.planned(*PROBLEM).name == ROW["plan"]
    gk.ops.use_measured_plans(written(tmp_path, []))
    assert plans.planned(*PROBLEM) == chosen


def test_the_committed_table_is_right_and_is_read():
    for row in gk.ops.read_measured_plans(MEASURED):
        gpu = plans.Gpu(row["arch"], row["sm_count"], 227 * 1024, row["arch"] == 90, row["memory"])
        for M in (row["first_M"], row["last_M"]):
            possible = plans.possible(M, row["N"], row["K"], gpu, row["from_float"])
            assert gk.ops.PLANS[row["plan"]] in possible, row


WRONG = {
    "no JSON": ("[", "plans.json is not JSON"),
    "nested without end": ("[" * 100_000, "plans.json is not JSON"),
    "no list": ({}, "plans.json must be a JSON list, got dict"),
    "no object": ([ROW, 3], "plans.json, row 1 must have arch, .*, got 3"),
    "a field too few": ([{"arch": 90}], r"row 0 must have arch, .*, got \{'arch': 90\}"),
    "a field too many": ([ROW | {"speed": 2}], "row 0 must have arch"),
    "text for a number": ([ROW | {"N": "4096"}], "row 0: N must be int, got '4096'"),
    "truth for a number": ([ROW | {"N": True}], "row 0: N must be int, got True"),
    "a number for truth": ([ROW | {"from_float": 1}], "from_float must be bool, got 1"),
    "out of range": ([ROW | {"K": 2**31}], "K must be in .*, got 2147483648"),
    "the wrong way round": ([ROW | {"first_M": 17}], "first_M must be at most last_M, got 17"),
    "of no origin": ([ROW | {"origin": ""}], "row 0: origin must say who measured it"),
    "no plan": ([ROW | {"plan": "decode:16:3"}], "row 0: plan must be one of .*'decode:16:3'"),
}


@pytest.mark.parametrize(("rows", "message"), WRONG.values(), ids=WRONG)
def test_a_table_that_is_wrong_is_refused_whole(rows, message, tmp_path):
    before = plans.planned(*PROBLEM)
    with pytest.raises(ValueError, match=message):
        gk.ops.use_measured_plans(written(tmp_path, rows))
    assert plans.planned(*PROBLEM) == before


def test_without_compiled_kernels_there_are_no_plans(tmp_path, monkeypatch):
    path = written(tmp_path, [])
    with monkeypatch.context() as patch:
        patch.setattr(gk.ops.plans, "_C", None)
        with pytest.raises(ValueError, match="plans.json: there are no plans, since no compiled"):
            gk.ops.use_measured_plans(path)
        with pytest.raises(ValueError, match="name: there are no plans, since no compiled"):
            with gk.ops.use_plan("mma:128x128x64:1"):
                pass


def test_only_a_cuda_device_is_a_gpu():
    assert gk.ops.gpu_of(torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_gpu_is_what_torch_says():
    gpu, torch_says = gk.ops.gpu_of(torch.device("cuda")), torch.cuda.get_device_properties(0)
    assert (gpu.arch, gpu.sm_count) == (
        torch_says.major * 10 + torch_says.minor,
        torch_says.multi_processor_count,
    )


def test_the_predicted_gain_is_no_less_for_a_measured_plan(tmp_path):
    """Which the model takes for worse than its own choice; or it would have been that."""
    M, N, K, gpu, _ = PROBLEM
    chosen = gk.ops.predicted_gain(M, N, K, torch.bfloat16, gpu)
    gk.ops.use_measured_plans(written(tmp_path, [ROW | {"from_float": True}]))
    assert plans.planned(M, N, K, gpu, True).name == ROW["plan"]
    assert gk.ops.predicted_gain(M, N, K, torch.bfloat16, gpu) == chosen


def test_the_predicted_gain_is_that_of_the_plan_which_is_asked_for():
    M, N, K, gpu, _ = PROBLEM
    chosen = gk.ops.predicted_gain(M, N, K, torch.bfloat16, gpu)
    with gk.ops.use_plan("mma:128x128x64:1"):
        assert gk.ops.predicted_gain(M, N, K, torch.bfloat16, gpu) < chosen
    assert gk.ops.predicted_gain(M, N, K, torch.float32, gpu) > chosen
    with pytest.raises(ValueError, match="dtype must be float32, .*, got torch.int8"):
        gk.ops.predicted_gain(M, N, K, torch.int8, gpu)
