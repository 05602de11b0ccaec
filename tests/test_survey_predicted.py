"""Survey on a GPU: layers that are predicted to gain nothing are left, and caveats are given."""

import re

import pytest
import torch
from torch import nn

from green_kernels import Int8, convert, survey
from green_kernels.ops import use_plan

plans = pytest.importorskip("green_kernels._C").plans
KB = 1024
H200 = plans.Gpu(90, 132, 227 * KB, has_sm90a=True, memory=4800)
B200 = plans.Gpu(100, 148, 227 * KB, has_sm90a=False, memory=8000)


@pytest.fixture
def as_if_on(monkeypatch):
    """Layers are judged as on that GPU, and stay where they are."""
    return lambda gpu: monkeypatch.setattr(survey.ops, "gpu_of", lambda device: gpu)


def change_of(n, k, recipe, dtype=torch.bfloat16):
    model = nn.Sequential(nn.Linear(k, n, bias=False, dtype=dtype))
    return convert(model, recipe)["0"]


def test_layers_that_would_gain_nothing_on_a_gpu_are_left(as_if_on):
    as_if_on(H200)
    assert change_of(384, 384, Int8()).reason == "predicted faster in bfloat16 at 1 to 8192 rows"
    assert change_of(384, 384, Int8(rows=64)).reason == "predicted faster in bfloat16 at 64 rows"
    assert change_of(384, 384, Int8(keep_faster=False)).became == "Int8Linear"
    assert change_of(4096, 4096, Int8()).became == "Int8Linear"


def test_layers_are_judged_at_the_rows_that_are_known(as_if_on):
    as_if_on(B200)  # where a product of many rows has no wgmma
    assert change_of(8192, 4096, Int8(rows=1)).became == "Int8Linear"
    assert change_of(8192, 4096, Int8(rows=1)).caveat is None
    assert change_of(8192, 4096, Int8(rows=4096)).reason is not None


def test_the_report_says_where_a_layer_would_lose(as_if_on):
    as_if_on(B200)
    recipe = Int8()
    gains = {m: survey.ops.predicted_gain(m, 8192, 4096, torch.bfloat16, B200) for m in (16, 8192)}
    assert gains[16] > 1 > gains[8192]
    change = change_of(8192, 4096, recipe)
    assert change.became == "Int8Linear"
    assert re.fullmatch(r"predicted slower than in bfloat16 at \d+ to 8192 rows", change.caveat)
    model = nn.Sequential(nn.Linear(8192, 4096, bias=False, dtype=torch.bfloat16))
    assert f"Int8Linear ({change.caveat})" in str(convert(model, recipe))


def test_a_plan_that_is_asked_for_need_not_be_possible_at_all_rows(as_if_on):
    as_if_on(H200)
    with use_plan("decode:8q:4"):  # for four rows at the most, in every product
        assert change_of(4096, 4096, Int8(rows=1)).became == "Int8Linear"
        assert change_of(4096, 4096, Int8()).became == "Int8Linear"


SLOWER = {
    "nowhere": ([2, 1.1, 3], None),
    "at one number": ([2, 1, 3], "2 rows"),
    "at several": ([2, 0.5, 0.6], "2 to 4 rows"),
    "at both ends": ([0.5, 2, 0.9], "1 and 4 rows"),
}


@pytest.mark.parametrize(("gains", "words"), SLOWER.values(), ids=SLOWER)
def test_where_it_is_slower_in_words(gains, words):
    assert survey._where_slower(dict(zip((1, 2, 4), gains, strict=True))) == words
