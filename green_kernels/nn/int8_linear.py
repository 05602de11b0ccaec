"""Int8Linear: nn.Linear with int8 weights, multiplied with int8 activations."""

import torch
from torch import Tensor, nn

from green_kernels import ops
from green_kernels.recipes import Int8


class Int8Linear(nn.Module):
    """y = act(q(x) @ w_q.T * x_scale * w_scale + bias), where q rounds each row of x to int8.

    x: (..., in_features), float32, float16 or bfloat16;  y: (..., out_features), in the dtype of x
    w_q: (out_features, in_features), int8;  w_scale: (out_features,), float32;  both frozen buffers
    bias: (out_features,), a Parameter in any of the three float dtypes, or None

    w_scale stays float32 and w_q int8 under .half(), .bfloat16(), .to(dtype) and .type(dtype).
    The state_dict holds w_q, w_scale and bias. w_packed, the same weights as the kernel of this
    device reads them fastest, is derived and so neither saved, copied, moved nor a buffer: it is
    made anew wherever w_q arrives. (It may be an opaque tensor, which cannot be copied or moved,
    and what walks over buffers, such as DDP or torch.func, would fail on it.)
    """

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
        self.recipe = Int8()
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
        cls, linear: nn.Linear, recipe: Int8 | None = None, act: str = "none"
    ) -> "Int8Linear":
        """Return linear with its weight rounded to int8, row by row, followed by act.

        The bias is linear's own Parameter, not a copy. linear itself is left as it is.
        ValueError where a weight is NaN or Inf.
        """
        weight = linear.weight.detach()
        with torch.inference_mode(False), torch.no_grad():
            w_q, w_scale = ops.quantize_rows(weight)
            broken = (~w_scale.isfinite()).nonzero().flatten().tolist()
            if broken:
                raise ValueError(f"weight must be finite, got NaN or Inf in {_rows(broken)}")
            return cls.of(w_q, w_scale, linear.bias, act, recipe or Int8()).train(linear.training)

    @classmethod
    def of(
        cls, w_q: Tensor, w_scale: Tensor, bias: nn.Parameter | None, act: str, recipe: Int8
    ) -> "Int8Linear":
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
        """See green_kernels.ops.int8_linear."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            w_packed = None  # of this machine only, where an exported program may go to others
        else:
            if not torch.compiler.is_compiling():
                self.pack()
            w_packed = self.w_packed
        return ops.int8_linear(
            x, self.w_q, self.w_scale, self.bias, act=self.act, w_packed=w_packed
        )

    def pack(self) -> None:
        """Make w_packed if w_q is not what it was made from.

        An eager forward does this too. Under torch.compile call it after writing into w_q by hand.
        """
        w_q = self.w_q
        made_from = (w_q, None if w_q.is_inference() else w_q._version)
        before = self._packed_from
        if before is not None and before[0] is w_q and before[1] == made_from[1]:
            return
        self.w_packed = None  # so that two packed copies never stand side by side
        if type(w_q) is Tensor and w_q.device.type != "meta":
            with torch.inference_mode(False), torch.no_grad():
                self.w_packed = ops.pack_weight(w_q)
        self._packed_from = made_from

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
        wrong = [
            f"{prefix}{name} must be {accepted}, got {state_dict[prefix + name].dtype}"
            for name, accepted in (("w_q", torch.int8), ("w_scale", torch.float32))
            if prefix + name in state_dict and state_dict[prefix + name].dtype != accepted
        ]
        if wrong:  # copying would cast them without a word
            errors += wrong
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


def _rows(indices: list[int]) -> str:
    """The first few indices, in words."""
    shown = ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")
    return f"row {shown}" if len(indices) == 1 else f"{len(indices)} rows ({shown})"
