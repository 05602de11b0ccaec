"""energy.profile: layers that take known time and draw known watts, on simulated time."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from fakes.clock import Clock
from torch import nn

from green_kernels.energy import FakeMeter, Unavailable, profile
from green_kernels.energy.layers import signature

IDLE = 10.0


class Machine:
    """A clock and a meter that what runs on it drives."""

    def __init__(self):
        self.clock = Clock()
        self.meter = FakeMeter(IDLE, clock=self.clock)

    def work(self, seconds, watts):
        self.meter.watts = watts
        self.clock.sleep(seconds)
        self.meter.watts = IDLE

    def profile(self, model, inputs=None, **options):
        inputs = torch.zeros(2, 3) if inputs is None else inputs
        options = {"meters": [self.meter], "clock": self.clock, "seconds": 2.0, **options}
        return profile(model, inputs, **options)


class Layer(nn.Module):
    """Takes `seconds` at `watts`, and adds one."""

    def __init__(self, machine, seconds=0.004, watts=100.0):
        super().__init__()
        self._machine, self.seconds, self.watts = machine, seconds, watts
        self._calls = []

    def forward(self, x, *args, **kwargs):
        self._calls.append((x, args, kwargs))
        self._machine.work(self.seconds, self.watts)
        return x + 1


class Model(nn.Module):
    """Two layers, one of them called twice, and a function between them."""

    def __init__(self, machine, between=(0.01, 200.0)):
        super().__init__()
        self._machine, self.between = machine, between
        self.first = Layer(machine, 0.004, 100.0)
        self.second = Layer(machine, 0.002, 50.0)

    def forward(self, x):
        x = self.second(self.first(x))
        self._machine.work(*self.between)
        return self.second(x)


@pytest.fixture
def machine():
    return Machine()


def test_each_layer_has_its_own_joules_and_the_rest_is_the_residual(machine):
    found = machine.profile(Model(machine))
    first, second = found.layers
    assert (first.name, first.kind, first.calls) == ("first", "Layer", 1)
    assert first.seconds == pytest.approx(0.004)
    assert first.joules == pytest.approx(0.4, rel=1e-3)
    assert (second.name, second.calls) == ("second", 2)
    assert second.seconds == pytest.approx(0.004)
    assert second.joules == pytest.approx(0.2, rel=1e-3)
    assert found.whole.seconds == pytest.approx(0.018)
    assert found.whole.joules == pytest.approx(2.6, rel=1e-3)
    assert found.residual.seconds == pytest.approx(0.01)
    assert found.residual.joules == pytest.approx(2.0, rel=1e-2)
    assert found.rows == (first, second, found.residual, found.whole)
    assert found.sources == {"cpu": "fake"} and found.reasons == {}


def test_a_residual_may_be_negative(machine):
    """A layer that takes more alone than in the model, where it finds its input in the cache."""

    class Cached(Layer):
        inside = False

        def forward(self, x):
            self._machine.work(0.001 if self.inside else 0.005, 100.0)
            return x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Cached(machine)

        def forward(self, x):
            self.layer.inside = True
            try:
                return self.layer(x)
            finally:
                self.layer.inside = False

    found = machine.profile(Outer())
    assert found.residual.joules == pytest.approx(-0.4, rel=1e-2)
    assert found.residual.seconds == pytest.approx(-0.004)


def test_a_layer_is_replayed_with_what_each_of_its_calls_had(machine):
    Pair = namedtuple("Pair", "left right")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Layer(machine)

        def forward(self, x, pair, *, scale):
            y = self.layer(x, pair, "text", scale=scale)
            return {"out": self.layer(y, None, mask=[y, {"a": y}])}

    model, x = Model(), torch.zeros(2)
    found = machine.profile(model, {"x": x, "pair": Pair(x, 3), "scale": 0.5})
    assert found.layers[0].calls == 2
    calls = model.layer._calls
    for i in range(0, len(calls) - len(calls) % 2, 2):  # the first two are of the recording
        (x0, args0, kwargs0), (x1, args1, kwargs1) = calls[i : i + 2]
        assert torch.equal(x0, torch.zeros(2)) and torch.equal(x1, torch.ones(2))
        assert type(args0[0]) is Pair and args0[0].right == 3 and args0[1] == "text"
        assert kwargs0 == {"scale": 0.5}
        assert args1 == (None,) and torch.equal(kwargs1["mask"][1]["a"], torch.ones(2))
    assert len(calls) > 100


def test_what_is_recorded_is_what_came_before_it_was_overwritten(machine):
    class Doubler(Layer):
        def forward(self, x):
            self._calls.append(x.clone())
            self._machine.work(0.01, 100.0)
            return x.mul_(2)

    model, x = nn.Sequential(Doubler(machine), Doubler(machine)), torch.ones(2)
    machine.profile(model, x, seconds=0.1)
    assert torch.equal(model[0]._calls[0], torch.ones(2))
    assert torch.equal(model[1]._calls[1], torch.full((2,), 2.0))  # its first replay
    assert torch.equal(x, torch.ones(2))


def test_tied_layers_are_one(machine):
    layer = Layer(machine)
    model = nn.Sequential(OrderedDict(a=layer, b=layer))
    found = machine.profile(model)
    assert [(row.name, row.calls) for row in found.layers] == [("a", 2)]
    assert found.residual.joules == pytest.approx(0.0, abs=1e-3)


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    found = profile(model, torch.zeros(2, 8), devices="cpu", seconds=0.01)
    assert len(found.layers) == 2
    assert model[1].weight is model[0].weight


def test_a_filter_chooses_the_outermost_of_what_it_selects(machine):
    block = nn.Sequential(Layer(machine, 0.01), Layer(machine, 0.02))
    model = nn.Sequential(OrderedDict(block=block, head=Layer(machine, 0.04)))
    found = machine.profile(model, module_filter=lambda name, module: name != "")
    assert [row.name for row in found.layers] == ["block", "head"]
    assert found.layers[0].seconds == pytest.approx(0.03)
    found = machine.profile(model, module_filter=lambda name, module: name == "head")
    assert [row.name for row in found.layers] == ["head"]
    assert found.residual.seconds == pytest.approx(0.03)


def test_a_model_may_be_one_layer(machine):
    found = machine.profile(Layer(machine))
    assert [row.name for row in found.layers] == ["Layer"]


def test_a_layer_that_is_not_called_has_no_row(machine):
    model = Model(machine)
    model.unused = Layer(machine)
    assert [row.name for row in machine.profile(model).layers] == ["first", "second"]


def test_a_filter_that_selects_nothing_is_an_error(machine):
    with pytest.raises(ValueError, match="module_filter: no module that it selects is called"):
        machine.profile(Model(machine), module_filter=lambda name, module: False)


def test_layers_of_one_kind_may_share_a_measurement(machine):
    model = nn.Sequential(Layer(machine), Layer(machine), Layer(machine, watts=300.0))
    alone = machine.profile(model)
    assert [row.same_as for row in alone.layers] == [None] * 3
    shared = machine.profile(model, share=True)
    assert [row.same_as for row in shared.layers] == [None, "0", None]
    assert shared.layers[1].joules == shared.layers[0].joules == pytest.approx(0.4, rel=1e-3)
    assert shared.layers[2].joules == pytest.approx(1.2, rel=1e-3)
    assert shared.residual.joules == pytest.approx(0.0, abs=2e-3)
    assert "1 (as 0)" in str(shared)


@pytest.mark.parametrize(
    "other, same",
    [
        (nn.Linear(8, 8), True),
        (nn.Linear(8, 8, bias=False), False),
        (nn.Linear(8, 16), False),
        (nn.Linear(8, 8, dtype=torch.float64), False),
        (nn.Linear(8, 8).eval(), False),
    ],
)
def test_layers_share_only_if_type_configuration_and_shapes_agree(other, same):
    recorded = [((torch.zeros(2, 8),), {})]
    assert (signature(nn.Linear(8, 8), recorded) == signature(other, recorded)) == same
    wider = [((torch.zeros(3, 8),), {})]
    assert signature(other, wider) != signature(other, recorded)


def test_the_model_is_left_as_it_was(machine):
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), Layer(machine, 0.01)).train()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    machine.profile(model, torch.randn(2, 3), module_filter=lambda n, m: n != "0", seconds=0.1)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model] == [False, True, True]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_a_model_that_fails_is_left_as_it_was(machine):
    class Failing(nn.Module):
        def forward(self, x):
            raise KeyError("no such thing")

    model = nn.Sequential(nn.BatchNorm1d(3), Failing()).train()
    with pytest.raises(KeyError):
        machine.profile(model, torch.randn(4, 3))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model[0].running_mean, torch.zeros(3))


def test_a_layer_that_does_not_run_alone_is_not_zero_joules(machine):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.good, self.bad = Layer(machine), Layer(machine)

        def forward(self, x):
            self.bad.inside = True
            try:
                return self.bad(self.good(x))
            finally:
                self.bad.inside = False

    def only_inside(module, args):
        if not getattr(module, "inside", False):
            raise RuntimeError("not set up")

    model = Outer()
    model.bad.register_forward_pre_hook(only_inside)
    found = machine.profile(model)
    good, bad = found.layers
    assert good.joules == pytest.approx(0.4, rel=1e-3)
    assert (bad.seconds, bad.joules) == (None, None)
    assert bad.reason == "it does not run alone: RuntimeError: not set up"
    assert (found.residual.seconds, found.residual.joules) == (None, None)
    assert found.whole.joules == pytest.approx(0.8, rel=1e-3)


def test_windows_are_as_long_as_asked_and_have_20_ticks(machine):
    machine.meter.tick = 0.5
    start = machine.clock()
    found = machine.profile(nn.Sequential(Layer(machine, watts=IDLE)), seconds=1.0)
    assert machine.clock() - start >= 2 * 20 * 0.5  # one for the layer and one for the model
    assert found.whole.joules == pytest.approx(0.04, rel=0.05)


def test_without_a_meter_there_is_time_and_one_reason(machine):
    machine.meter.read = lambda: (_ for _ in ()).throw(Unavailable("the board is lost"))
    found = machine.profile(Model(machine))
    assert [row.joules for row in found.rows] == [None] * 4
    assert found.layers[0].seconds == pytest.approx(0.004)
    assert found.residual.seconds == pytest.approx(0.01)
    assert list(found.reasons) == ["the board is lost"]
    assert str(found).count("the board is lost") == 1


def test_without_a_meter_windows_are_short(machine):
    start = machine.clock()
    found = machine.profile(Model(machine), meters=None, devices="mps", seconds=100.0)
    assert machine.clock() - start < 10
    assert found.whole.seconds == pytest.approx(0.018)
    assert "no energy meter for device mps" in str(found)


def test_the_devices_are_those_of_the_model():
    found = profile(nn.Linear(8, 8), torch.zeros(2, 8), seconds=0.01)
    if found.whole.joules is None:
        assert "RAPL" in str(found)
    assert found.whole.seconds > 0


def test_a_clock_that_stands_still_is_an_error(machine):
    with pytest.raises(ValueError, match="clock: it stands still while 0 runs"):
        machine.profile(nn.Sequential(nn.Identity()))


def test_the_table_has_a_row_for_each_and_the_residual(machine):
    lines = str(machine.profile(Model(machine))).splitlines()
    text = "\n".join(lines)
    assert [line for line in lines if "first" in line and "Layer" in line and " 400" in line]
    row = next(line for line in lines if "residual" in line)
    assert "55.6" in row and "10" in row  # per cent of the time, ms
    assert "whole model" in text and "100.0" in text and "joules of cpu by fake" in text


def test_the_table_says_unknown_and_not_zero(machine):
    text = str(machine.profile(Model(machine), meters=None, devices="mps"))
    assert text.count("unknown") == 4
