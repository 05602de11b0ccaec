"""What a snippet is: how its inputs are drawn, its PTX made, and its outputs compared.

out[thread, k] = model(in[thread's block, :])[k],   in and out of uint64, one row a thread
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .exact import FLOATS, decode, encode, mask, parts, read, register, signed, width

POISON = 0xDEADBEEFDEADBEEF
SEEDS = (1, 2)


@dataclass(frozen=True)
class Tolerance:
    """|got - expected| <= max(absolute, relative |expected|), or `ulp` steps of the format."""

    ulp: int = 0
    absolute: float = 0
    relative: float = 0


@dataclass(frozen=True)
class Snippet:
    """An instruction on registers i0, i1, … (inputs) and o0, o1, … (outputs), and its model."""

    name: str
    section: str
    body: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: Callable  # of a list of columns, one an input, of one block
    arch: str = "sm_80"
    threads: int = 32
    blocks: int = 2
    declare: str = ""
    draw: Callable | None = None  # of (rng, columns): other columns
    tolerance: Tolerance = Tolerance()
    signed_zero: bool = True  # whether the manual fixes the sign of a zero result
    canonical_nan: bool = False  # whether it fixes the bits of a NaN


def corners(kind):
    """The values where instructions go wrong."""
    if kind not in FLOATS:
        w = width(kind)
        powers = [1 << k for k in (3, 5, 7, 8, 15, 16, 31, 32, 33, 63) if k < w]
        return [0, 1, 2, mask(kind), mask(kind) - 1, *powers, *(p - 1 for p in powers)]
    e, m = FLOATS[kind]
    infinity, top = ((1 << e) - 1) << m, 1 << (e + m)
    bits = [0, 1, (1 << m) - 1, 1 << m, infinity - 1, infinity, infinity | 1 << (m - 1)]
    values = (0.5, 1, 1.5, 2.5, 3, 127.5, 255.5, 2**15, 2**16, 2**31, 2**32, 2**63, 2**64, 2**-20)
    bits += [encode((0, Fraction(value)), kind) for value in values]
    return bits + [b | top for b in bits]


def draw(rng, kind, n):
    """Of n values about 40 % corners, 30 % of ordinary size, 30 % random bits."""
    name, count = parts(kind)
    if count > 1:
        columns = [draw(rng, name, n) << np.uint64(width(name) * k) for k in range(count)]
        return np.bitwise_or.reduce(columns)
    if kind == "pred":
        return rng.integers(0, 2, n, np.uint64)
    w = register(kind)
    random = rng.integers(0, (1 << w) - 1, n, np.uint64, endpoint=True)
    corner = np.array(corners(kind), np.uint64)[rng.integers(0, len(corners(kind)), n)]
    if kind in FLOATS:
        e, m = FLOATS[kind]
        exponent = rng.integers((1 << e - 1) - 5, (1 << e - 1) + 3, n, np.uint64) << np.uint64(m)
        usual = exponent | random & np.uint64((1 << m) - 1 | 1 << (e + m))
    else:
        usual = rng.integers(-100, 100, n).astype(np.uint64) & np.uint64(mask(kind))
    return np.choose(np.digitize(rng.random(n), (0.4, 0.7)), (corner, usual, random))


def inputs_of(snippet, seed):
    """The inputs of every thread: uint64[blocks threads, inputs]."""
    rng = np.random.default_rng([seed, *snippet.name.encode()])
    blocks = []
    for _ in range(snippet.blocks):
        columns = [draw(rng, kind, snippet.threads) for kind in snippet.inputs]
        columns = snippet.draw(rng, columns) if snippet.draw else columns
        blocks.append(np.stack([np.asarray(c).astype(np.uint64) for c in columns], 1))
    return np.concatenate(blocks)


def poisoned(snippet):
    """What the outputs hold before: uint64[blocks threads, outputs]."""
    return np.full((snippet.blocks * snippet.threads, len(snippet.outputs)), POISON, np.uint64)


def expected_of(snippet, inputs):
    """What they hold afterwards. Each output overwrites as many low bytes as its register has."""
    out = poisoned(snippet)
    for block in range(snippet.blocks):
        rows = slice(block * snippet.threads, (block + 1) * snippet.threads)
        for k, column in enumerate(snippet.model(list(inputs[rows].T))):
            low = np.uint64((1 << register(snippet.outputs[k])) - 1)
            out[rows, k] = out[rows, k] & ~low | np.asarray(column).astype(np.uint64) & low
    return out


def floats_of(bits, f):
    """float64 of the bits of a format: exact, every format being a part of it."""
    different, place = np.unique(bits, return_inverse=True)
    return np.array([float(signed(decode(int(b), f))) for b in different])[place]


def agree(snippet, kind, got, expected, slack=1):
    """Whether each output of type `kind` is as expected, within `slack` times the tolerance."""
    same = got == expected
    name, count = parts(kind)
    if name not in FLOATS or same.all():
        return same
    w = register(name)
    within = (
        got >> np.uint64(w * count) == expected >> np.uint64(w * count) if w * count < 64 else True
    )
    low, tolerance = np.uint64((1 << w) - 1), snippet.tolerance
    for k in range(count):
        a, b = (x >> np.uint64(w * k) & low for x in (got, expected))
        shift = np.uint64(w - width(name))  # tf32 is the upper part of an f32
        x, y = floats_of(a >> shift, name), floats_of(b >> shift, name)
        equal = a >> shift == b >> shift
        equal |= np.isnan(x) & np.isnan(y) & (not snippet.canonical_nan)
        equal |= (x == 0) & (y == 0) & (not snippet.signed_zero)
        finite = np.isfinite(x) & np.isfinite(y)
        if tolerance.ulp:
            steps = [
                np.where(z >> np.uint64(w - 1), -1, 1) * (z & low >> np.uint64(1)).astype(np.int64)
                for z in (a, b)
            ]
            equal |= (
                ~np.isnan(x) & ~np.isnan(y) & (abs(steps[0] - steps[1]) <= tolerance.ulp * slack)
            )
        elif tolerance.absolute or tolerance.relative:
            # The expected value is itself rounded, by up to half a last place.
            x, y = np.where(finite, x, 0), np.where(finite, y, 0)
            e, m = FLOATS[name]
            last = np.maximum(abs(y), 2.0 ** (2 - (1 << e - 1))) * 2.0 ** -(m + 1)
            bound = np.maximum(tolerance.absolute, tolerance.relative * abs(y)) + last
            equal |= finite & (abs(x - y) <= slack * bound)
        within = within & equal
    return within


def first_difference(snippet, inputs, got, expected, slack=1):
    """Nothing where the outputs are as expected; else where they first are not, in words."""
    for k, kind in enumerate(snippet.outputs):
        wrong = np.flatnonzero(~agree(snippet, kind, got[:, k], expected[:, k], slack))
        if len(wrong):
            row = int(wrong[0])
            given = ", ".join(f"{int(x):#x}" for x in inputs[row][:16])
            return (
                f"thread {row}, output {k} ({kind}): {int(got[row, k]):#x} instead of "
                f"{int(expected[row, k]):#x}, inputs {given}; {len(wrong)} of {len(got)} differ"
            )
    return None


def kernel_of(snippet):
    """The name of the entry."""
    return "k_" + "".join(c if c.isalnum() else "_" for c in snippet.name)


def entry_of(snippet):
    """The .entry of a snippet: loads i0, i1, …, runs the body, stores o0, o1, …"""
    lines = [
        f".visible .entry {kernel_of(snippet)}(.param .u64 in_ptr, .param .u64 out_ptr)",
        "{",
        ".reg .b32 thread, block, lane, t_in, t_out;",
        ".reg .b64 in_address, out_address, in_base, out_base;",
        snippet.declare,
    ]
    for prefix, kinds in (("i", snippet.inputs), ("o", snippet.outputs)):
        for k, kind in enumerate(kinds):
            lines.append(f".reg .{'pred' if kind == 'pred' else f'b{register(kind)}'} {prefix}{k};")
    lines += [
        "mov.u32 thread, %tid.x;",
        "mov.u32 block, %ctaid.x;",
        f"mad.lo.u32 lane, block, {snippet.threads}, thread;",
        "ld.param.u64 in_base, [in_ptr];",
        "ld.param.u64 out_base, [out_ptr];",
        "cvta.to.global.u64 in_base, in_base;",
        "cvta.to.global.u64 out_base, out_base;",
        f"mad.wide.u32 in_address, lane, {8 * len(snippet.inputs)}, in_base;",
        f"mad.wide.u32 out_address, lane, {8 * len(snippet.outputs)}, out_base;",
    ]
    for k, kind in enumerate(snippet.inputs):
        target = "t_in" if kind == "pred" else f"i{k}"
        lines.append(f"ld.global.b{register(kind)} {target}, [in_address+{8 * k}];")
        if kind == "pred":
            lines.append(f"setp.ne.u32 i{k}, t_in, 0;")
    lines.append(snippet.body)
    for k, kind in enumerate(snippet.outputs):
        if kind == "pred":
            lines.append(f"selp.u32 t_out, 1, 0, o{k};")
        source = "t_out" if kind == "pred" else f"o{k}"
        lines.append(f"st.global.b{register(kind)} [out_address+{8 * k}], {source};")
    return "\n".join(line for line in lines + ["ret;", "}"] if line)


def module_of(snippets, arch):
    """A module of several entries."""
    header = f".version 8.7\n.target {arch}\n.address_size 64\n"
    return header + "\n".join(entry_of(snippet) for snippet in snippets) + "\n"


def ptx_of(snippet):
    """The module of one snippet."""
    return module_of([snippet], snippet.arch)


def lanewise(f, inputs, outputs):
    """The model that applies f to the integers of one thread at a time."""

    def model(columns):
        rows = zip(*([read(int(x), t) for x in c] for c, t in zip(columns, inputs, strict=True)),
                   strict=True)  # fmt: skip
        results = [r if isinstance(r, tuple) else (r,) for r in (f(*row) for row in rows)]
        low = [(1 << register(t)) - 1 for t in outputs]
        return [np.array([int(r[k]) & low[k] for r in results], np.uint64) for k in range(len(low))]

    return model


def arguments(inputs, outputs):
    outs = "|".join(f"o{k}" for k in range(len(outputs)))
    return ", ".join([outs, *(f"i{k}" for k in range(len(inputs)))])


def op(instruction, outputs, inputs, section, f, tail="", **options):
    """`instruction o0|o1, i0, i1, … tail;` with f the model of one thread."""
    inputs, outputs = tuple(inputs.split()), tuple(outputs.split())
    body = options.pop("body", f"{instruction} {arguments(inputs, outputs)}{tail};")
    name = instruction + options.pop("suffix", "")
    model = lanewise(f, inputs, outputs)
    return Snippet(name, section, body, inputs, outputs, model, **options)


def warp(name, section, body, inputs, outputs, model, **options):
    """A snippet whose model sees all threads of a block."""
    return Snippet(
        name, section, body, tuple(inputs.split()), tuple(outputs.split()), model, **options
    )
