"""An op has one meaning and several kernels. This file alone knows how a kernel is chosen."""

import functools
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

BACKENDS = ("compiled", "triton")
OPS: dict[str, "op"] = {}  # every op by name; tests and bench walk over it
_added: list[str] = []  # further backends, see add_backend


def _known(backend: str, source: str) -> str:
    if backend not in BACKENDS and backend not in _added:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


_backend = _known(os.environ.get("GREEN_KERNELS_BACKEND") or "compiled", "GREEN_KERNELS_BACKEND")


class op:
    """A function whose body says what it means, and whose calls go to a kernel that does it.

    Declares green_kernels::NAME, for which csrc/ registers its CPU and CUDA kernels, and the twin
    NAME_triton.  Where csrc/ was not built for a device, CUDA tensors go to Triton, if it is
    installed, and all others to the body.
    """

    def __init__(self, reference: Callable):
        functools.update_wrapper(self, reference)
        self.reference = reference
        parameters = inspect.signature(reference).parameters.values()
        self._names = [p.name for p in parameters]
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self._overloads = {}
        self._schema = torch.library.infer_schema(reference, mutates_args=())
        for backend, kernel in zip(BACKENDS, (self._fallback, self._triton), strict=True):
            self._declare(backend, kernel)
        OPS[self.__name__] = self

    def _declare(self, backend, kernel):
        qualname = self._qualname(backend)
        torch.library.define(qualname, self._schema)
        torch.library.register_kernel(qualname, "default", kernel)
        name = qualname.split("::")[1]
        self._overloads[backend] = getattr(torch.ops.green_kernels, name).default

    def __call__(self, *args, **kwargs) -> Any:
        """Run the op on the kernel in use."""
        return self._overloads[_backend](*args, **kwargs)

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The torch op that a call goes to now."""
        return self._overloads[_backend]

    def compiled_devices(self) -> list[str]:
        """Return the devices for which csrc/ registered a kernel, of "cpu" and "cuda"."""
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        qualname = self._qualname("compiled")
        return [device for device in ("cpu", "cuda") if has_kernel(qualname, device.upper())]

    def check(self, check: Callable) -> Callable:
        """Register what raises on wrong arguments, given all of them by name.

        csrc/common.cpp says the same in C++.
        """
        self._check = check
        return check

    def fake(self, outputs: Callable) -> None:
        """Register what returns outputs of the right shape and dtype, given arguments by name."""

        def checked(*args, **kwargs):
            arguments = self._by_name(args, kwargs)
            self._check(**arguments)
            return outputs(**arguments)

        self._fake = checked
        for backend in self._overloads:
            torch.library.register_fake(self._qualname(backend), checked)

    def gradient(self, save: Callable, backward: Callable) -> None:
        """Register the backward pass and what it keeps from the forward one."""
        self._gradient = save, backward
        for backend in self._overloads:
            torch.library.register_autograd(self._qualname(backend), backward, setup_context=save)

    def _qualname(self, backend):
        return f"green_kernels::{self.__name__}" + ("" if backend == "compiled" else f"_{backend}")

    def _add(self, backend, kernel):
        """Declare the op once more, to be run by `kernel` on arguments that were checked."""

        def checked(*args, **kwargs):
            self._check(**self._by_name(args, kwargs))
            return kernel(*args, **kwargs)

        self._declare(backend, checked)
        torch.library.register_fake(self._qualname(backend), self._fake)
        save, backward = self._gradient
        torch.library.register_autograd(self._qualname(backend), backward, setup_context=save)

    def _by_name(self, args, kwargs):
        return self._defaults | dict(zip(self._names, args, strict=False)) | kwargs

    def _fallback(self, *args, **kwargs):
        if args[0].is_cuda and importlib.util.find_spec("triton"):
            return self._triton(*args, **kwargs)
        self._check(**self._by_name(args, kwargs))
        return self.reference(*args, **kwargs)

    def _triton(self, *args, **kwargs):
        self._check(**self._by_name(args, kwargs))
        if importlib.util.find_spec("triton") is None:
            raise RuntimeError("the triton backend needs Triton: pip install triton")
        if not args[0].is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise RuntimeError(
                f"{self._names[0]} must be on a CUDA device for the triton backend, got "
                f"{args[0].device}; TRITON_INTERPRET=1, set from the start, interprets it"
            )
        module = import_module(f"green_kernels.triton_kernels.{self.__name__}")
        with torch.cuda.device_of(args[0]):  # Triton launches on the current device
            return getattr(module, self.__name__)(*args, **kwargs)


def add_backend(backend: str, kernels: dict[str, Callable]) -> None:
    """Make `backend` one that `use` takes: each op runs on its kernel of `kernels`, by name.

    For tests, which have kernels of their own to try; `BACKENDS` stays what it is. An op that has
    none says so when it is called.
    """
    for name, one in OPS.items():

        def lacks(*args, _name=name, **kwargs):
            raise NotImplementedError(f"{_name} has no kernel on the backend {backend}")

        one._add(backend, kernels.get(name, lacks))
    _added.append(backend)


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Within this block, run every op on "compiled" or on "triton" kernels.

    A decorator too. The choice is the process's, not the thread's. The environment variable
    GREEN_KERNELS_BACKEND sets it from the start.
    """
    global _backend
    before, _backend = _backend, _known(backend, "backend")
    try:
        yield
    finally:
        _backend = before
