"""save and load: the same bits after the round trip, and nothing but the right file."""

import io
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from green_kernels import Int8, checkpoint, convert, load, save
from green_kernels.nn import Int8Linear

F = 128  # the least that Int8() converts


class Model(nn.Module):
    """Tied ends, a layer under two names, buffers saved and not, a head that stays float."""

    def __init__(self, tied=True, shared=True, bias=True):
        super().__init__()
        self.embed = nn.Embedding(2 * F, F)
        self.first = nn.Linear(F, F, bias=bias)
        self.again = self.first if shared else nn.Linear(F, F, bias=bias)
        self.down = nn.Linear(F, F, bias=False)
        self.norm = nn.BatchNorm1d(F)
        self.register_buffer("unsaved", torch.ones(F), persistent=False)
        self.small = nn.Linear(F, 3)
        self.head = nn.Linear(F, 2 * F, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.again(torch.relu(self.first(self.embed(tokens)))) + self.unsaved
        x = self.norm(self.down(x))
        return self.small(x), self.head(x)


TOKENS = torch.arange(50)


@pytest.fixture
def model():
    model = Model().eval()
    convert(model, Int8())
    return model


@pytest.fixture
def path(model, tmp_path):
    save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def assert_same_outputs(one, other, tokens=TOKENS):
    for a, b in zip(one.eval()(tokens), other.eval()(tokens), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def picture(model):
    modules = [(name, id(m)) for name, m in model.named_modules(remove_duplicate=False)]
    tensors = [(key, id(t), t.data_ptr()) for key, t in model.state_dict(keep_vars=True).items()]
    return modules, tensors, {key: t.clone() for key, t in model.state_dict().items()}


def assert_untouched(before, model):
    after = picture(model)
    assert before[:2] == after[:2]
    for key, value in before[2].items():
        assert torch.equal(value, after[2][key]), key


def test_round_trip(model, path):
    other = Model()
    load(other, path)
    assert_same_outputs(model, other)
    assert type(other.first) is type(other.down) is Int8Linear and type(other.small) is nn.Linear
    assert (other.first.w_packed is None) == (model.first.w_packed is None)
    assert other.down.recipe == Int8()


def test_ties_survive(model, path):
    assert not {"head.weight", "again.w_q", "again.bias"} & load_file(path).keys()
    other = Model()
    load(other, path)
    assert other.head.weight is other.embed.weight and other.again is other.first


def test_parameters_and_modules_that_stay_are_the_same_objects(path):
    other = Model()
    kept = {id(p) for p in (other.embed.weight, other.first.bias, other.norm.bias)}
    load(other, path)
    assert kept == {id(p) for p in (other.embed.weight, other.first.bias, other.norm.bias)}


def test_ties_that_the_model_lacks_are_refused(path):
    for other, message in (
        (Model(tied=False), "head.weight is tied to embed.weight in the file, but not in the"),
        (Model(shared=False), "again.bias is tied to first.bias in the file, but not in the"),
    ):
        before = picture(other)
        with pytest.raises(ValueError, match=message):
            load(other, path)
        assert_untouched(before, other)


def test_tied_layers_without_bias_that_the_model_lacks_are_refused(tmp_path):
    model = Model(bias=False)
    convert(model, Int8())
    save(model, tmp_path / "model.safetensors")
    converted = Model(shared=False, bias=False)
    convert(converted, Int8())
    for other in (Model(shared=False, bias=False), converted):
        with pytest.raises(ValueError, match="again.w_q is tied to first.w_q in the file, but not"):
            load(other, tmp_path / "model.safetensors")


def test_parameters_on_common_memory_come_back_so(tmp_path):
    def build():
        model = Model(tied=False)
        model.head.weight.data = model.embed.weight.data
        return model

    save(build(), tmp_path / "model.safetensors")
    other = build()
    load(other, tmp_path / "model.safetensors")
    assert other.head.weight.data_ptr() == other.embed.weight.data_ptr()


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("built", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_dtypes_are_those_that_were_saved(saved, built, tmp_path):
    model = Model().eval().to(saved)
    convert(model, Int8(keep_faster=False))
    save(model, tmp_path / "model.safetensors")
    other = Model().to(built)
    load(other, tmp_path / "model.safetensors")
    other.unsaved.data = model.unsaved.data  # not in the file, so of the dtype it was built in
    assert other.first.bias.dtype == saved and other.first.w_scale.dtype == torch.float32
    assert_same_outputs(model, other)


def test_model_built_on_the_meta_device(model, path):
    with torch.device("meta"):
        other = Model()
    message = "unsaved is on the meta device of the model, and is not saved"
    with pytest.raises(ValueError, match=message):
        load(other, path)
    other.unsaved = torch.ones(F)
    load(other, path)
    assert not any(t.is_meta for t in other.state_dict().values())
    assert other.head.weight is other.embed.weight and other.again is other.first
    assert all(isinstance(p, nn.Parameter) for p in (other.first.bias, other.norm.weight))
    assert_same_outputs(model, other)


def test_into_a_model_that_is_converted_already(model, path):
    other = Model()
    convert(other, Int8())
    load(other, path)
    assert_same_outputs(model, other)


def test_loaded_in_inference_mode_still_trains(path):
    other = Model()
    with torch.inference_mode():
        load(other, path)
    sum(y.sum() for y in other(TOKENS)).backward()
    assert all(p.grad is not None for p in other.parameters())


def test_model_lives_without_its_file(model, path):
    other = Model()
    load(other, path)
    path.write_bytes(b"0" * path.stat().st_size)
    assert_same_outputs(model, other)


def test_activation_and_recipe_are_saved(tmp_path):
    recipe = Int8(min_features=1, subclasses=("A",))
    model = nn.Sequential(Int8Linear.from_float(nn.Linear(5, 7), recipe, act="gelu"))
    save(model, tmp_path / "model.safetensors")
    other = nn.Sequential(nn.Linear(5, 7))
    load(other, tmp_path / "model.safetensors")
    assert other[0].act == "gelu" and other[0].recipe == recipe
    x = torch.randn(3, 5)
    assert torch.equal(other(x), model(x))


def test_size_of_int8_layers_on_disk(tmp_path):
    model = nn.Sequential(nn.Linear(384, 384))
    before = convert(model, Int8()).bytes_before
    save(model, tmp_path / "model.safetensors")
    assert sum(t.nbytes for t in load_file(tmp_path / "model.safetensors").values()) < 0.27 * before


def test_lstm_and_transposed_tensors(tmp_path):
    def build():
        model = nn.ModuleDict({"lstm": nn.LSTM(F, F), "linear": nn.Linear(F, F)})
        model.turned = nn.Parameter(torch.randn(3, 5).T)
        model.part = nn.Parameter(torch.randn(9)[:4])
        return model

    model, other = build(), build()
    convert(model, Int8())
    save(model, tmp_path / "model.safetensors")
    load(other, tmp_path / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    x = torch.randn(2, 3, F)
    assert torch.equal(model["lstm"](x)[0], other["lstm"](x)[0])


def test_state_dict_between_converted_models(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Model()
    convert(other, Int8())
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_same_outputs(model, other)
    with pytest.raises(RuntimeError, match="Missing"):
        other.load_state_dict(Model().state_dict())


def test_file_replaces_another_only_when_complete(model, path, monkeypatch):
    before = path.read_bytes()

    def failing(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("green_kernels.checkpoint.save_file", failing)
    with pytest.raises(OSError, match="disk full"):
        save(model, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def with_extra_state():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    return nn.Sequential(Extra(3, 3))


UNSAVEABLE = {
    "meta": (lambda: nn.Linear(3, 3, device="meta"), "weight must be .* values, got .* meta"),
    "extra state": (with_extra_state, "0._extra_state: state that is not a parameter"),
    "a layer": (lambda: Int8Linear(3, 3), "model is itself an Int8Linear"),
}


@pytest.mark.parametrize("build, message", UNSAVEABLE.values(), ids=UNSAVEABLE)
def test_refuses_to_save(build, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(build(), tmp_path / "model.safetensors")
    assert not os.listdir(tmp_path)


def drop(key):
    return lambda tensors, metadata: tensors.pop(key)


def put(key, value):
    return lambda tensors, metadata: tensors.update({key: value(tensors.get(key))})


def first_of(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


def layer(name, **fields):
    def change(tensors, metadata):
        entry = metadata["layers"].setdefault(name, dict(metadata["layers"]["down"]))
        entry.update(fields)

    return change


def without(field):
    return lambda tensors, metadata: metadata["layers"]["down"].pop(field)


def of(key, value):
    return lambda tensors, metadata: metadata.update({key: value})


def moved(alias, key):
    return lambda tensors, metadata: metadata["aliases"].update({alias: key})


INT3 = {"kind": "Int3"}
WRONG = {
    "missing": (drop("norm.weight"), "missing key norm.weight"),
    "missing w_q": (drop("down.w_q"), "missing key down.w_q"),
    "missing of an alias": (drop("embed.weight"), "aliases: head.weight .* embed.weight"),
    "unexpected": (put("more", lambda t: torch.ones(1)), "unexpected key more"),
    "shape": (put("small.weight", lambda t: t.T.contiguous()), "small.weight has shape .128, 3."),
    "shape of w_q": (
        put("down.w_q", lambda t: t[:5]),
        "down.w_q must have shape .128, 128., got",
    ),
    "shape of w_scale": (
        put("down.w_scale", lambda t: t[:5]),
        "down.w_scale must have shape .128",
    ),
    "dtype": (put("small.bias", lambda t: t.int()), "small.bias is torch.int32, the model's torch"),
    "dtype of an integer": (
        put("norm.num_batches_tracked", lambda t: t.float()),
        "norm.num_batches_tracked is torch.float32, the model's torch.int64",
    ),
    "dtype of w_q": (
        put("down.w_q", lambda t: t.float()),
        "down.w_q must be torch.int8, got torch",
    ),
    "dtype of w_scale": (put("down.w_scale", lambda t: t.half()), "down.w_scale must be torch.flo"),
    "dtype of bias": (put("first.bias", lambda t: t.double()), "first.bias must be float32, "),
    "-128": (put("down.w_q", lambda t: first_of(t, -128)), "down.w_q must be in .-127, 127., got"),
    "scale nan": (put("down.w_scale", lambda t: first_of(t, float("nan"))), "down.w_scale must be"),
    "scale inf": (put("first.w_scale", lambda t: t / 0), "first.w_scale must be finite and posit"),
    "scale zero": (put("down.w_scale", lambda t: first_of(t, 0.0)), "down.w_scale must be finite"),
    "scale negative": (put("down.w_scale", lambda t: -t), "down.w_scale must be finite and posi"),
    "another version": (of("version", 2), "version must be 1, got 2"),
    "no version": (
        lambda tensors, metadata: metadata.pop("version"),
        "version must be 1, got No",
    ),
    "no layers": (of("layers", None), "metadata must have layers and aliases"),
    "aliases of another type": (of("aliases", {"a": 1}), "aliases must be keys, got"),
    "alias of nothing": (moved("head.weight", "nothing"), "aliases: head.weight .* nothing"),
    "alias of a stored key": (moved("small.bias", "norm.bias"), "aliases: small.bias .* norm.bias"),
    "layer without a field": (without("act"), "layers: down must have in_features, .*act"),
    "field of another type": (
        layer("down", in_features="128"),
        "down.in_features must be int, go",
    ),
    "other size": (layer("down", in_features=129), "down.in_features is 129, the model has 128"),
    "other bias": (layer("down", bias=True), "down.bias is True, unlike the model's"),
    "unknown act": (layer("down", act="tanh"), "act must be one of none, .*, got 'tanh'"),
    "unknown recipe": (
        layer("down", recipe=INT3),
        "down: recipe kind must be one of Int8, Int8WeightOnly, got 'I",
    ),
    "layer that is absent": (layer("up"), "layers: the model has no module 'up'"),
    "layer that is the model": (layer(""), "layers: the model has no module ''"),
    "layer of another kind": (layer("norm"), "norm of the model .* BatchNorm1d is no nn.Linear"),
    "float layer as int8": (layer("small", out_features=3, bias=True), "missing key small.w_q"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_refuses_a_wrong_file(change, message, path):
    tensors = load_file(path)
    metadata = {
        "version": 1,
        "layers": {
            name: {
                "in_features": F,
                "out_features": F,
                "bias": name != "down",
                "act": "none",
                "recipe": Int8().to_dict(),
            }
            for name in ("first", "again", "down")
        },
        "aliases": {f"again.{part}": f"first.{part}" for part in ("bias", "w_q", "w_scale")}
        | {"head.weight": "embed.weight"},
    }
    save_file(tensors, path, {"green_kernels": json.dumps(metadata)})
    load(Model(), path)  # the file as it should be
    change(tensors, metadata)
    save_file(tensors, path, {"green_kernels": json.dumps(metadata)})
    model = Model()
    before = picture(model)
    with pytest.raises(ValueError, match=message) as caught:
        load(model, path)
    assert str(path) in str(caught.value)
    assert_untouched(before, model)


FOREIGN = {
    "no metadata": lambda path: save_file({"a": torch.ones(1)}, path),
    "no safetensors": lambda path: torch.save({"a": torch.ones(1)}, path),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "head cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "metadata not JSON": lambda path: save_file({}, path, {"green_kernels": "{"}),
    "metadata of too many brackets": lambda path: save_file(
        {}, path, {"green_kernels": "[" * 200_000}
    ),
    "metadata of another type": lambda path: save_file({}, path, {"green_kernels": "[1]"}),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_refuses_a_foreign_file(write, path):
    write(path)
    model = Model()
    before = picture(model)
    with pytest.raises(ValueError, match=path.name):
        load(model, path)
    assert_untouched(before, model)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(Model(), tmp_path / "model.safetensors")


def test_a_folder_is_refused_by_its_path(tmp_path):
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        load(Model(), tmp_path)


def test_refuses_a_file_that_lacks_the_tie_of_the_model(tmp_path):
    model = Model(tied=False, shared=False)
    convert(model, Int8(), lambda name, layer: name != "head")
    save(model, tmp_path / "model.safetensors")
    for other, message in (
        (Model(shared=False), "head.weight is tied to embed.weight in the model"),
        (Model(tied=False), "again.bias is tied to first.bias in the model"),
    ):
        before = picture(other)
        with pytest.raises(ValueError, match=message):
            load(other, tmp_path / "model.safetensors")
        assert_untouched(before, other)


def test_shared_layer_without_bias_that_the_file_has_twice(tmp_path):
    model = Model(tied=False, shared=False, bias=False)
    convert(model, Int8())
    save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="again is tied to first in the model"):
        load(Model(tied=False, bias=False), tmp_path / "model.safetensors")


@pytest.mark.parametrize("part", ["w_scale", "bias", "act"])
def test_shared_layer_of_which_the_file_has_one_part_twice(part, tmp_path):
    first = nn.Linear(F, F)
    model = nn.ModuleList([Int8Linear.from_float(first), Int8Linear.from_float(first)])
    model[1].w_q, model[1].w_scale = model[0].w_q, model[0].w_scale
    if part == "act":
        model[1].act = "relu"
    elif part == "w_scale":
        model[1].w_scale = model[0].w_scale * 2
    else:
        model[1].bias = nn.Parameter(first.bias * 2)
    save(model, tmp_path / "model.safetensors")
    other = nn.ModuleList([first, first])
    with pytest.raises(ValueError, match="1.* is tied to 0.* in the model, but not in the file"):
        load(other, tmp_path / "model.safetensors")
    assert other[0] is other[1] is first


def test_subclass_and_changed_layers_are_refused(path):
    class Odd(nn.Linear):
        pass

    for change, reason in (
        (lambda model: setattr(model, "down", Odd(F, F, bias=False)), "subclass of nn.Linear"),
        (lambda model: model.down.register_forward_hook(print), "it has hooks"),
    ):
        model = Model()
        change(model)
        before = picture(model)
        with pytest.raises(ValueError, match=f"down of the model cannot be replaced: .*{reason}"):
            load(model, path)
        assert_untouched(before, model)


def test_failure_while_putting_in_place_is_undone(path, monkeypatch):
    real, calls = checkpoint.swap, []

    def failing(model, names, layer):
        calls.append(names)
        if len(calls) == 2:
            raise MemoryError("no more")
        real(model, names, layer)

    monkeypatch.setattr(checkpoint, "swap", failing)
    model = Model()
    before = picture(model)
    with pytest.raises(MemoryError, match="no more"):
        load(model, path)
    assert len(calls) == 4  # two there, two back
    assert_untouched(before, model)
