"""What the layers have in common whose weights are int8 with a scale for each output."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from green_kernels import ops
from green_kernels.recipes import Recipe


class QuantizedLinear(nn.Module):
    """y = act(x @ (w_q * w_scale[:, None]).T + bias), as the subclass's op computes it.

    x: (..., in_features), float32, float16 or bfloat16;  y: (..., out_features), in the dtype of x
    w_q: (out_features, in_features), int8;  w_scale: (out_features,), float32;  both frozen buffers
    bias: (out_features,), a Parameter in any of the three float dtypes, or None

    w_scale stays float32 and w_q int8 under .half(), .bfloat16(), .to(dtype) and .type(dtype).
    The state_dict holds w_q, w_scale and bias. w_packed, the same weights as the kernel of this
    device reads them fastest, is derived and so neither saved, copied, moved nor a buffer: it is
    made anew wherever w_q arrives. (It may be an opaque tensor, which cannot be copied or moved,
    and what walks over buffers, such as DDP or torch.func, would fail on it.)
    """

    KIND: ClassVar[type[Recipe]]  # of the recipes that ask for this layer
    _op: ClassVar[Callable[..., Tensor]]
    _packed: ClassVar[Callable[[Tensor], Tensor | None]]  # w_packed of w_q

    @torch.inference_mode(False)  # else w_q has no version that pack could compare
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        act: str = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """Start from zero weights: values come from from_float or load_state_dict."""
        super().__init__()
        if act not in ops.ACTIVATIONS:
            raise ValueError(f"act must be one of {', '.join(ops.ACTIVATIONS)}, got {act!r}")
        self.in_features, self.out_features, self.act = in_features, out_features, act
        self.recipe = self.KIND()
        w_q = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        self.register_buffer("w_q", w_q)
        w_scale = torch.ones(out_features, dtype=torch.float32, device=device)
        self.register_buffer("w_scale", w_scale)
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if zeros is None else nn.Parameter(zeros))
        self.w_packed, self._packed_from = None, None
        self.pack()

    @classmethod
    def from_float(
        cls, linear: nn.Linear, recipe: Recipe | None = None, act: str = "none"
    ) -> "QuantizedLinear":
        """Return linear with its weight rounded to int8, row by row, followed by act.

        The bias is linear's own Parameter, not a copy. linear itself is left as it is.
        TypeError where linear is none, or recipe is of another layer; ValueError where its weight
        is of another dtype than float32, float16 and bfloat16, or holds NaN or Inf.
        """
        _check_linear(linear)
        recipe = recipe or cls.KIND()
        if type(recipe) is not cls.KIND:  # load makes of a layer what its recipe says
            raise TypeError(f"recipe must be an {cls.KIND.__name__}, got {recipe!r}")
        weight = linear.weight.detach()
        with torch.inference_mode(False), torch.no_grad():
            w_q, w_scale = ops.quantize_rows(weight)
            broken = (~w_scale.isfinite()).nonzero().flatten().tolist()
            if broken:
                raise ValueError(f"weight must be finite, got NaN or Inf in {_rows(broken)}")
            return cls.of(w_q, w_scale, linear.bias, act, recipe).train(linear.training)

    @classmethod
    def of(
        cls, w_q: Tensor, w_scale: Tensor, bias: nn.Parameter | None, act: str, recipe: Recipe
    ) -> "QuantizedLinear":
        """Return the layer that holds these very tensors."""
        out_features, in_features = w_q.shape
        layer = cls(in_features, out_features, bias=False, act=act, device="meta")
        layer.w_q, layer.w_scale, layer.bias, layer.recipe = w_q, w_scale, bias, recipe
        layer.pack()
        return layer

    def to_float(self) -> nn.Linear:
        """Return an nn.Linear with weight w_q * w_scale, in the dtype of the bias (else float32).

        The bias is this layer's own Parameter. ValueError where act is not none.
        """
        if self.act != "none":
            raise ValueError(f"act must be none, got {self.act}: nn.Linear cannot hold it")
        dtype = torch.float32 if self.bias is None else self.bias.dtype
        weight = (self.w_q * self.w_scale[:, None]).to(dtype)
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight, linear.bias = nn.Parameter(weight), self.bias
        return linear.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, as the op says that this layer is named after."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            w_packed = None  # of this machine only, where an exported program may go to others
        else:
            if not torch.compiler.is_compiling():
                self.pack()
            w_packed = self.w_packed
        return self._op(x, self.w_q, self.w_scale, self.bias, act=self.act, w_packed=w_packed)

    def pack(self, force: bool = False) -> None:
        """Make w_packed if w_q is not what it was made from; with force in any case.

        An eager forward does this too. Under torch.compile call it after writing into w_q by hand.

        Writes that torch does not count cannot be seen: through w_q.data (w_q.data.copy_), through
        numpy, by another process. After them call pack(force=True). An inference tensor (w_q as
        assigned under torch.inference_mode()) counts no writes at all, so it is packed anew at
        every eager forward.
        """
        w_q = self.w_q
        if not force and self._packed_from is not None and self._packed_from.is_still(w_q):
            return
        self.w_packed = None  # so that two packed copies never stand side by side
        if type(w_q) is Tensor and w_q.device.type != "meta":
            with torch.inference_mode(False), torch.no_grad():
                self.w_packed = self._packed(w_q)
        self._packed_from = _Origin.of(w_q)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: w_q, w_scale, bias and the packed copy."""
        held = [t.nbytes for t in (self.w_q, self.w_scale, self.bias) if t is not None]
        packed = self.w_packed
        if packed is None:
            return sum(held)
        opaque = packed.layout == torch._mkldnn  # which pads, and does not say so in its shape
        return sum(held) + (torch.ops.mkldnn._nbytes(packed) if opaque else packed.nbytes)

    def extra_repr(self) -> str:
        """The sizes, as in nn.Linear, and the activation where there is one."""
        act = "" if self.act == "none" else f", act={self.act}"
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}{act}"

    @torch.inference_mode(False)  # as in __init__: what is moved is to count its writes
    def _apply(self, fn, recurse=True):
        def keeping_dtype(t):
            moved = fn(t)
            if (t is self.w_q or t is self.w_scale) and moved.dtype != t.dtype:
                return t.to(moved.device)
            return moved

        super()._apply(keeping_dtype, recurse)
        self.pack()
        return self

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, extra, errors):
        given = {name: state_dict.get(prefix + name) for name in ("w_q", "w_scale")}
        wrong = [(name, wrong_values(name, t)) for name, t in given.items() if t is not None]
        if any(words for _, words in wrong):  # copying would cast them without a word
            errors += [f"{prefix}{name} {words}" for name, words in wrong if words]
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, extra, errors)
        self._packed_from = None
        self.pack()

    def __getstate__(self):
        """What copy, deepcopy and pickle carry: all but the packed copy."""
        return self.__dict__ | {"w_packed": None, "_packed_from": None}

    def __setstate__(self, state):
        """Take what __getstate__ gave, and pack it for this machine."""
        super().__setstate__(state)
        self.pack()


class _Origin(NamedTuple):
    """What a packed copy was made from."""

    w_q: Tensor
    version: int
    address: int | None
    memory: Tensor  # of w_q at that time; held, so that no other tensor can come to lie there

    @classmethod
    def of(cls, w_q: Tensor) -> "_Origin | None":
        """Return what w_q can be known by later; None where nothing would tell of a write."""
        if w_q.is_inference():
            return None
        return cls(w_q, w_q._version, _address(w_q), w_q.detach())

    def is_still(self, w_q: Tensor) -> bool:
        """Whether w_q is that tensor with the values that it had."""
        return (
            w_q is self.w_q
            and w_q._version == self.version
            and (self.address is None or w_q.data_ptr() == self.address)
        )


def _address(t: Tensor) -> int | None:
    """Where the values lie, if this tensor has them in memory of its own."""
    if type(t) is not Tensor or t.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(t):
        return None
    return t.data_ptr()


def wrong_values(name: str, tensor: Tensor) -> str | None:
    """Say what a w_q or w_scale (so its name) must be and is not; None where it is right."""
    dtype = {"w_q": torch.int8, "w_scale": torch.float32}[name]
    if tensor.dtype != dtype:
        return f"must be {dtype}, got {tensor.dtype}"
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta:
        return None  # values that are not here cannot be judged
    if name == "w_q":
        low = tensor.numel() and tensor.min() < -127
        return "must be in [-127, 127], got -128" if low else None
    fine = (tensor.isfinite() & (tensor > 0)).all()
    return None if fine else "must be finite and positive, got others"


def _check_linear(linear: nn.Linear) -> None:
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"linear must be an nn.Linear, got {type(linear).__name__}")
    dtype = linear.weight.dtype
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"weight must be float32, float16 or bfloat16, got {dtype}")


def _rows(indices: list[int]) -> str:
    """The first few indices, in words."""
    shown = ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")
    return f"row {shown}" if len(indices) == 1 else f"{len(indices)} rows ({shown})"
