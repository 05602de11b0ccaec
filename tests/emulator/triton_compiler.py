"""Triton kernels compiled ahead of time, for a GPU that is not there.

As a program it answers requests, a line of JSON each: in a process whose Triton interprets kernels
(TRITON_INTERPRET=1) none can be compiled, so another one is asked.
"""

import json
import os
import subprocess
import sys
from functools import cache
from importlib import import_module


def compile_kernel(arch, kernel, signature, constants, divisible, options):
    """Compile as a launch would: `divisible` arguments are known to be multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    attributes = {(kernel.arg_names.index(a),): [["tt.divisibility", 16]] for a in divisible}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


class Compiler:
    """Another process, which compiles."""

    def __init__(self):
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.known = {}

    def compile(self, **request):
        """What `answer` says of a request, asked once."""
        text = json.dumps(request, sort_keys=True)
        if text not in self.known:
            print(text, file=self.process.stdin, flush=True)
            reply = self.process.stdout.readline()
            if not reply:
                raise RuntimeError(f"Triton did not compile {text}")
            self.known[text] = json.loads(reply)
        return self.known[text]


@cache
def compiler():
    """The one other process."""
    return Compiler()


def answer(module, kernel, arch, signature, constants, divisible, options):
    """A kernel of triton_kernels/, compiled: its PTX and what a launch of it needs to know."""
    kernel = getattr(import_module(f"green_kernels.triton_kernels.{module}"), kernel)
    compiled = compile_kernel(arch, kernel, signature, constants, divisible, options)
    metadata = compiled.metadata
    return {
        "ptx": compiled.asm["ptx"],
        "name": metadata.name,
        "shared": metadata.shared,
        "threads": 32 * metadata.num_warps,
        "maps": getattr(metadata, "tensordesc_meta", None),  # of each descriptor, how to encode it
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
