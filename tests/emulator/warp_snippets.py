"""Snippets of instructions by which threads work together: shuffles, matrices, memory, barriers."""

# ruff: noqa: E731  (a model is most often one expression, and is named where it is used twice)

from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np

from .exact import (
    BOOL,
    FLOATS,
    INTS,
    decode,
    encode,
    floating,
    mask,
    read,
    register,
    signed,
    width,
)
from .snippet import floats_of, op, warp

PARALLEL = "Parallel Synchronization and Communication Instructions: "
MOVE = "Data Movement and Conversion Instructions: "
LANES = np.arange(32)
ALL = "0xffffffff"


def warps():
    """shfl, vote, match, redux, activemask, elect."""

    def shuffle(columns, mode, c):
        a, b = columns
        b, segment, bound = (b & np.uint64(31)).astype(int), c >> 8 & 31, c & 31
        least = LANES & segment
        most = least | bound & ~segment & 31
        j = {"up": LANES - b, "down": LANES + b, "bfly": LANES ^ b, "idx": least | b & ~segment}[
            mode
        ]
        inside = j >= most if mode == "up" else j <= most
        return [a[np.where(inside, j, LANES)], inside]

    for mode in ("up", "down", "bfly", "idx"):
        for c in (
            (0, 0x1800, 0x1C00, 0x1005) if mode == "up" else (0x1F, 0x181F, 0x1C1F, 0x11, 0x1003)
        ):
            body = f"shfl.sync.{mode}.b32 o0|o1, i0, i1, {c}, {ALL};"
            yield warp(
                f"shfl.sync.{mode}.b32 {c:#x}",
                MOVE + "shfl.sync",
                body,
                "b32 u32",
                "b32 pred",
                partial(shuffle, mode=mode, c=c),
            )
    body = ("setp.lt.u32 low, thread, 16;\nmov.b32 o0, 7;\n"
            "@low shfl.sync.bfly.b32 o0, i0, 3, 31, 0xffff;")  # fmt: skip
    yield warp(
        "shfl.sync.bfly.b32 of 16 lanes",
        MOVE + "shfl.sync",
        body,
        "b32",
        "b32",
        lambda c: [np.where(LANES < 16, c[0][LANES ^ 3], 7)],
        declare=".reg .pred low;",
    )

    def ballots(rng, columns):
        """All, none, or some."""
        return [[np.zeros, np.ones][rng.integers(2)](32) if rng.random() < 0.5 else columns[0]]

    bits = lambda p: np.full(32, sum(int(x) << k for k, x in enumerate(p)))
    votes = {
        "all": lambda p: p.all(),
        "any": lambda p: p.any(),
        "uni": lambda p: p.all() or not p.any(),
    }
    for flip in (0, 1):
        source, note = "!" * flip + "i0", " not" * flip
        for name, f in votes.items():
            yield warp(
                f"vote.sync.{name}.pred{note}",
                PARALLEL + "vote.sync",
                f"vote.sync.{name}.pred o0, {source}, {ALL};",
                "pred",
                "pred",
                blocks=6,
                draw=ballots,
                model=lambda c, f=f, flip=flip: [np.full(32, f(c[0] != flip))],
            )
        yield warp(f"vote.sync.ballot.b32{note}", PARALLEL + "vote.sync",
                   f"vote.sync.ballot.b32 o0, {source}, {ALL};", "pred", "b32",
                   lambda c, flip=flip: [bits(c[0] != flip)])  # fmt: skip

    def few(rng, columns, shift):
        """Few different values, or one."""
        return [np.full(32, 5) if rng.random() < 0.3 else columns[0] % 5 << np.uint64(shift)]

    for w in (32, 64):
        fix = partial(few, shift=w - 24)
        alike = lambda c: [sum((c[0] == x).astype(np.uint64) << np.uint64(k)
                               for k, x in enumerate(c[0]))]  # fmt: skip
        yield warp(
            f"match.any.sync.b{w}",
            PARALLEL + "match.sync",
            f"match.any.sync.b{w} o0, i0, {ALL};",
            f"b{w}",
            "b32",
            alike,
            draw=fix,
        )
        every = lambda c: [np.full(32, v := (c[0] == c[0][0]).all()) * 0xFFFFFFFF, np.full(32, v)]
        yield warp(
            f"match.all.sync.b{w}",
            PARALLEL + "match.sync",
            f"match.all.sync.b{w} o0|o1, i0, {ALL};",
            f"b{w}",
            "b32 pred",
            every,
            blocks=6,
            draw=fix,
        )
    folds = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
             "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip
    for name, f in folds.items():
        for t in ("u32", "s32") if name in ("add", "min", "max") else ("b32",):

            def fold(columns, f=f, t=t):
                values = np.array([read(int(x), t) for x in columns[0]])
                return [np.full(32, f.reduce(values))]

            yield warp(f"redux.sync.{name}.{t}", PARALLEL + "redux.sync",
                       f"redux.sync.{name}.{t} o0, i0, {ALL};", t, t, fold)  # fmt: skip
    yield warp("activemask.b32", PARALLEL + "activemask", "activemask.b32 o0;", "b32", "b32",
               lambda c: [np.full(32, 0xFFFFFFFF)])  # fmt: skip
    # Which lane is elected is not said: but it is one, and the one whose number all get.
    body = (f"elect.sync leader|chosen, {ALL};\nvote.sync.ballot.b32 o0, chosen, {ALL};\n"
            "popc.b32 o1, o0;\nshr.u32 o0, o0, leader;\nand.b32 o0, o0, 1;")  # fmt: skip
    yield warp(
        "elect.sync",
        PARALLEL + "elect.sync",
        body,
        "b32",
        "b32 b32",
        lambda c: [np.ones(32)] * 2,
        declare=".reg .pred chosen;\n.reg .b32 leader;",
        arch="sm_90",
    )


def shared(size, align=16):
    return (f".shared .align {align} .b8 cells[{size}];\n"
            ".reg .b32 base, address;\n.reg .b64 cell;\n.reg .pred p, more;")  # fmt: skip


def braces(prefix, start, count):
    return "{" + ", ".join(f"{prefix}{k}" for k in range(start, start + count)) + "}"


def matrices():
    """ldmatrix and stmatrix: 8 by 8 matrices of b16, whose rows lie anywhere, 16 bytes each."""
    lane8, column = LANES // 4, LANES % 4

    def shuffle(rng, columns, start):
        """Where each lane's row is put, and the address that each lane gives: permutations."""
        columns[start:] = [rng.permutation(32) * 16 for _ in columns[start:]]
        return columns

    def rows_of(columns, at):
        """halfs[offset / 16, 8] of shared memory."""
        words = np.stack([np.asarray(c).astype(np.uint64) for c in columns], 1)
        memory = np.zeros((32, 8), np.uint16)
        memory[at.astype(int) // 16] = np.ascontiguousarray(words).view(np.uint16).reshape(32, 8)
        return memory

    put = (
        "mov.u32 base, cells;\nadd.u32 address, base, i2;\nst.shared.v2.b64 [address], {i0, i1};\n"
    )
    for n, trans in product((1, 2, 4), (False, True)):

        def load(columns, n=n, trans=trans):
            memory = rows_of(columns[:2], columns[2])[columns[3].astype(int) // 16].reshape(4, 8, 8)
            memory = memory.swapaxes(1, 2) if trans else memory
            pairs = [memory[k, lane8, 2 * column + 1].astype(np.uint64) << np.uint64(16)
                     | memory[k, lane8, 2 * column] for k in range(n)]  # fmt: skip
            return pairs

        kind = f"m8n8.x{n}{'.trans' * trans}.shared.b16"
        body = (put + f"bar.sync 0;\nadd.u32 address, base, i3;\n"
                f"ldmatrix.sync.aligned.{kind} {braces('o', 0, n)}, [address];")  # fmt: skip
        yield warp(f"ldmatrix.{kind}", "Warp-level matrix load instruction: ldmatrix", body,
                   "b64 b64 u32 u32", " ".join(["b32"] * n), load, declare=shared(512),
                   draw=partial(shuffle, start=2))  # fmt: skip

        def store(columns, n=n, trans=trans):
            memory, at = np.zeros((32, 8), np.uint16), columns[n].astype(int) // 16
            for k in range(n):
                tile = np.zeros((8, 8), np.uint16)
                tile[lane8, 2 * column] = columns[k] & np.uint64(0xFFFF)
                tile[lane8, 2 * column + 1] = columns[k] >> np.uint64(16)
                memory[at[8 * k : 8 * k + 8]] = tile.T if trans else tile
            return list(memory.view(np.uint64).T)

        body = (
            "mov.u32 base, cells;\nmad.lo.u32 address, thread, 16, base;\nmov.b64 cell, 0;\n"
            "st.shared.v2.b64 [address], {cell, cell};\nbar.sync 0;\n"
            f"add.u32 base, base, i{n};\n"
            f"stmatrix.sync.aligned.{kind} [base], {braces('i', 0, n)};\n"
            "bar.sync 0;\nld.shared.v2.b64 {o0, o1}, [address];"
        )
        yield warp(
            f"stmatrix.{kind}",
            "Warp-level matrix store instruction: stmatrix",
            body,
            " ".join(["b32"] * n + ["u32"]),
            "b64 b64",
            store,
            declare=shared(512),
            arch="sm_90",
            draw=partial(shuffle, start=n),
        )


def small(rng, kind, n, most=4):
    """Registers of packed integers -most … most in a float format: their sums are exact."""
    values = [encode((int(v < 0), Fraction(abs(v))), kind) for v in range(-most, most + 1)]
    w = register(kind) if kind == "tf32" else width(kind)
    shift = 13 if kind == "tf32" else 0
    columns = [np.array(values, np.uint64)[rng.integers(0, len(values), n)] for _ in range(32 // w)]
    return np.bitwise_or.reduce([c << np.uint64(w * k + shift) for k, c in enumerate(columns)])


def unpack(columns, kind):
    """[threads, registers, elements of a register], as numbers."""
    words = np.stack([np.asarray(c).astype(np.uint32) for c in columns], 1)
    if kind in FLOATS:
        if kind == "tf32":
            return (words & ~np.uint32(0x1FFF)).view(np.float32)[..., None].astype(np.float64)
        w = width(kind)
        pieces = words[..., None] >> np.arange(0, 32, w, dtype=np.uint32) & ((1 << w) - 1)
        return floats_of(pieces.ravel(), kind).reshape(pieces.shape)
    return (
        words.view({"s8": np.int8, "u8": np.uint8}[kind]).reshape(*words.shape, 4).astype(np.int64)
    )


def fragment_a(parts_of):
    """A[16, K]: register r of a lane holds row g + 8 (r mod 2), columns e t + 4 e ⌊r / 2⌋ + j."""
    _, registers, e = parts_of.shape
    a = np.zeros((16, registers * e * 2), parts_of.dtype)
    for lane, r, j in product(range(32), range(registers), range(e)):
        a[lane // 4 + 8 * (r % 2), lane % 4 * e + 4 * e * (r // 2) + j] = parts_of[lane, r, j]
    return a


def fragment_b(parts_of):
    """B[K, 8]: register r of a lane holds rows e t + 4 e r + j of column g."""
    _, registers, e = parts_of.shape
    b = np.zeros((registers * e * 4, 8), parts_of.dtype)
    for lane, r, j in product(range(32), range(registers), range(e)):
        b[lane % 4 * e + 4 * e * r + j, lane // 4] = parts_of[lane, r, j]
    return b


def fragment_d(d):
    """The elements of D[16 w, n] that each of 32 w threads holds: [thread, n / 2]."""
    thread, i = np.arange(2 * len(d))[:, None], np.arange(d.shape[1] // 2)[None, :]
    lane = thread % 32
    return d[
        16 * (thread // 32) + lane // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * (lane % 4) + i % 2
    ]


def registers_of(values, kind):
    """Numbers of [threads, elements], in columns of registers."""
    if kind == "s32":
        return list((values & 0xFFFFFFFF).T)
    bits = np.ascontiguousarray(values.astype({"f32": np.float32, "f16": np.float16}[kind]))
    return list(bits.view(np.uint32).T)


def wrapped(d, satfinite=False):
    """s32 of a sum: wrapped, or clamped with .satfinite."""
    return np.clip(d, -(2**31), 2**31 - 1) if satfinite else d


def mma():
    """mma.sync and mma.sp: D = A B + C. Elements are spread over the lanes as in the manual."""
    dense = "Multiply-and-Accumulate Instruction: mma"
    sparse = "Multiply-and-Accumulate Instruction: mma.sp/mma.sp::ordered_metadata"
    ordered = "mma.sp::ordered_metadata"
    cases = []
    for k in (16, 32):
        cases += [
            (k, d, *ab, "")
            for d in ("s32", "s32.satfinite")
            for ab in product(("s8", "u8"), repeat=2)
        ]
    cases += [(k, d, "f16", "f16", "") for k in (8, 16) for d in ("f32", "f16")]
    cases += [(k, "f32", "bf16", "bf16", "") for k in (8, 16)]
    cases += [(k, "f32", "tf32", "tf32", "") for k in (4, 8)]
    fp8 = list(product(("e4m3", "e5m2"), repeat=2))
    cases += [(k, d, *ab, "") for k in (16, 32) for d in ("f32", "f16") for ab in fp8]
    cases += [
        (64, d, *ab, 0) for d in ("s32", "s32.satfinite") for ab in product(("s8", "u8"), repeat=2)
    ]
    cases += [(64, "f32", *ab, 0) for ab in fp8]
    cases += [(32, d, "f16", "f16", f) for d in ("f32", "f16") for f in (0, 1)]
    cases += [(32, "f32", "bf16", "bf16", f) for f in (0, 1)]
    cases = [(*case, "mma" if case[-1] == "" else ordered) for case in cases]
    cases += [(*case[:-1], "mma.sp") for case in cases if case[-1] == ordered]
    for k, d, ta, tb, selector, operation in cases:
        is_sparse = selector != ""
        bits = register(ta) if ta == "tf32" else width(ta)
        na, nb = 16 * k * bits // 1024 // (2 if is_sparse else 1), 8 * k * bits // 1024
        acc, satfinite = d.split(".")[0], "satfinite" in d
        nd = 2 if acc == "f16" else 4
        cuts = np.cumsum((0, na, nb, nd))

        def model(columns, cuts=cuts, k=k, ta=ta, tb=tb, acc=acc, f=selector, satfinite=satfinite):
            a, b, c = (columns[i:j] for i, j in zip(cuts, cuts[1:], strict=False))
            a, b = fragment_a(unpack(a, ta)), fragment_b(unpack(b, tb))
            if f != "":
                a = spread(a, columns[-1].astype(np.int64), k, f)
            d = fragment_d(a @ b)
            if acc == "s32":
                d = wrapped(d + np.stack(c, 1).astype(np.uint32).view(np.int32), satfinite)
            else:
                d = d + unpack(c, acc).reshape(32, -1)
            return registers_of(d, acc)

        def fix(rng, columns, cuts=cuts, ta=ta, tb=tb, acc=acc, f=selector):
            for kind, i, j in zip((ta, tb, acc), cuts, cuts[1:], strict=False):
                if kind in FLOATS:
                    columns[i:j] = [small(rng, kind, 32) for _ in columns[i:j]]
            if f != "":
                columns[-1] = pairs_of_indices(rng, 32)
            return columns

        shape = f"m16n8k{k}.row.col.{acc}.{ta}.{tb}.{acc}{'.satfinite' * satfinite}"
        body = (f"{operation}.sync.aligned.{shape} {braces('o', 0, nd)}, {braces('i', 0, na)}, "
                f"{braces('i', na, nb)}, {braces('i', na + nb, nd)}")  # fmt: skip
        inputs = " ".join(["b32"] * (na + nb + nd + is_sparse))
        body += f", i{na + nb + nd}, {selector};" if is_sparse else ";"
        outputs = " ".join([{"s32": "s32", "f32": "f32", "f16": "f16x2"}[acc]] * nd)
        name = f"{operation}.{shape}" + (f" selector {selector}" if is_sparse else "")
        yield warp(name, sparse if is_sparse else dense, body, inputs, outputs, model, draw=fix,
                   arch="sm_89" if "m" in ta else "sm_80", blocks=1)  # fmt: skip


def pairs_of_indices(rng, n):
    """Metadata of n threads: in each four bits a pair of different indices, the lower one first."""
    return (np.array([4, 8, 9, 12, 13, 14])[rng.integers(0, 6, (n, 8))] << 4 * np.arange(8)).sum(1)


def spread(a, metadata, k, selector):
    """A[16, k] of its stored half: element i of the pair of chunk c stands in column 4 c + index_i.

    8-bit types: lane 4 g + t has row g + 8 (t mod 2), columns from 32 ⌊t / 2⌋ on.  16-bit: lane
    4 g + 2 selector + t has columns from 16 t on, row g in its low half and g + 8 in its high half.
    """
    full = np.zeros((16, k), a.dtype)
    for row, chunk, i in product(range(16), range(k // 4), range(2)):
        g, high = row % 8, row // 8
        if k == 64:
            lane, at = 4 * g + 2 * (chunk // 8) + high, 4 * (chunk % 8)
        else:
            lane, at = 4 * g + 2 * selector + chunk // 4, 16 * high + 4 * (chunk % 4)
        index = metadata[lane] >> (at + 2 * i) & 3
        full[row, 4 * chunk + index] = a[row, 2 * chunk + i]
    return full


# --- memory, barriers -------------------------------------------------------------------------


def copies():
    """cp.async, of which the bytes past the source size become zeros."""
    for size, cache, partly in product((4, 8, 16), ("ca", "cg"), (False, True)):
        if cache == "cg" and size != 16:
            continue

        def model(columns, size=size, partly=partly):
            words = np.stack([c.astype(np.uint64) for c in columns[:2]], 1).view(np.uint8)
            taken = columns[2].astype(int)[:, None] if partly else size
            byte = np.arange(16)[None, :]
            out = np.where(byte < taken, words, 0)
            out = np.where(byte < size, out, 0xFF).astype(np.uint8)
            return list(out.view(np.uint64).T)

        fix = lambda rng, c, size=size: [*c[:2], rng.integers(0, size + 1, len(c[2])), c[3]]
        body = (
            "mov.u32 base, cells;\nmad.lo.u32 address, thread, 16, base;\nmov.b64 cell, -1;\n"
            "st.shared.v2.b64 [address], {cell, cell};\n"
            f"cp.async.{cache}.shared.global [address], [in_address], {size}{', i2' * partly};\n"
            "cp.async.commit_group;\ncp.async.wait_group 0;\n"
            "ld.shared.v2.b64 {o0, o1}, [address];"
        )
        yield warp(f"cp.async.{cache} {size}{' partly' * partly}", MOVE + "cp.async", body,
                   "b64 b64 u32 b64", "b64 b64", model, declare=shared(512), draw=fix)  # fmt: skip


def barriers():
    """An mbarrier's phase: over when the last arrival and the last byte are in."""
    no = "mbarrier.test_wait.parity.shared.b64 o{0}, [base], {1};\n"
    # The emulator denies now and then what has just come true, as a slower barrier would: a yes is
    # asked for up to 64 times.
    yes = ("mov.u32 address, 64;\nagain{0}:\n"
           "mbarrier.{2}_wait.parity.shared.b64 o{0}, [base], {1};\n"
           "sub.u32 address, address, 1;\nsetp.ne.and.u32 more, address, 0, !o{0};\n"
           "@more bra again{0};\nbar.sync 0;\n")  # fmt: skip
    start = ("mov.u32 base, cells;\nsetp.eq.u32 p, thread, 0;\n"
             "@p mbarrier.init.shared.b64 [base], {};\nbar.sync 0;\n")  # fmt: skip
    arrive = "mbarrier.arrive.shared.b64 cell, [base];\n"
    arrivals = (start.format(33) + arrive + "bar.sync 0;\n" + no.format(0, 0)
                + yes.format(1, 1, "test") + f"@p {arrive}bar.sync 0;\n"
                + yes.format(2, 0, "test") + no.format(3, 1))  # fmt: skip
    wait = (start.format(32) + arrive + "wait:\n"
            "mbarrier.test_wait.shared.b64 o0, [base], cell;\n@!o0 bra wait;")  # fmt: skip
    expect = "mbarrier.arrive.expect_tx.shared.b64 _, [base], 16;\n"
    count = (start.format(1) + f"@p {expect}bar.sync 0;\n" + no.format(0, 0) + "bar.sync 0;\n"
             "@p mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [base], 16;\nbar.sync 0;\n"
             + yes.format(1, 0, "try"))  # fmt: skip
    for name, body, values, arch in (
        ("arrive", arrivals, (0, 1, 1, 0), "sm_80"),
        ("wait", wait, (1,), "sm_80"),
        ("bytes", count, (0, 1), "sm_90"),
    ):
        section = PARALLEL + "mbarrier.test_wait/mbarrier.try_wait"
        yield warp(f"mbarrier {name}", section, body, "b32", " ".join(["pred"] * len(values)),
                   lambda c, values=values: [np.full(32, x) for x in values],
                   declare=shared(16), arch=arch)  # fmt: skip


def atomics():
    """atom and red, on a cell of each lane (old value and new) and on one cell of all (total)."""

    def floats_sum(bits, t):
        total = sum(signed(decode(int(b), t)) for b in bits)
        return encode((int(total < 0), abs(Fraction(total))), t)

    operations = {
        "add": lambda a, b: a + b, "min": min, "max": max, **BOOL, "exch": lambda a, b: b,
        "inc": lambda a, b: 0 if a >= b else a + 1,
        "dec": lambda a, b: b if a == 0 or a > b else a - 1,
    }  # fmt: skip
    types = {"add": ("u32", "s32", "u64", "f32", "f64"), "min": INTS[2:], "max": INTS[2:],
             "inc": ("u32",), "dec": ("u32",)}  # fmt: skip
    for (name, f), space in product(operations.items(), ("shared", "global")):
        for t in types.get(name, ("b32", "b64")):
            real, bits = t in FLOATS, f"b{width(t)}"
            one = (lambda a, b, t=t: floats_sum((a, b), t)) if real else f
            # Sums of small integers are exact in any order.
            values = [
                encode((int(v < 0), Fraction(abs(v))), t if real else "f32") for v in range(-9, 9)
            ]
            fix = (
                (lambda rng, c, v=values: [rng.choice(np.array(v, np.uint64), len(x)) for x in c])
                if real
                else None
            )
            where = "address" if space == "shared" else "out_address+8"
            start = "mov.u32 base, cells;\nmad.lo.u32 address, thread, 8, base;\n"
            own = (
                start + f"st.{space}.{bits} [{where}], i0;\n"
                f"atom.{space}.{name}.{t} o0, [{where}], i1;\nld.{space}.{bits} o1, [{where}];"
            )
            g = lambda a, b, one=one, t=t: (a, one(a, b))
            yield op(f"atom.{space}.{name}.{t}", f"{t} {t}", f"{t} {t}", PARALLEL + "atom", g,
                     body=own, declare=shared(256), draw=fix)  # fmt: skip
            if name in ("exch", "inc", "dec"):
                continue

            def total(columns, one=one, t=t):
                values = [read(int(x), t) for x in columns[0]]
                result = values[0]
                for value in values:
                    result = read(int(one(result, value)), t)
                return [np.full(32, result & mask(t), np.uint64)]

            # Blocks do not share the cell: it is the first output of each block's first thread.
            cell = "base" if space == "shared" else "cell"
            place = ("mov.u32 base, cells;\n" if space == "shared" else
                     "mul.wide.u32 cell, block, 256;\nadd.u64 cell, cell, out_base;\n")  # fmt: skip
            body = (
                place
                + f"setp.eq.u32 p, thread, 0;\n@p st.{space}.{bits} [{cell}], i0;\nbar.sync 0;\n"
                f"red.{space}.{name}.{t} [{cell}], i0;\nbar.sync 0;\n"
                f"ld.{space}.{bits} o0, [{cell}];\nbar.sync 0;"
            )
            yield warp(f"red.{space}.{name}.{t}", PARALLEL + "red", body, t, t, total,
                       declare=shared(256), draw=fix)  # fmt: skip

    def tiny(rng, columns):
        """Half of the threads have exponents of at most 3: sums of normal numbers and others."""
        some = rng.random(32) < 0.5
        return [np.where(some, c & np.uint64(0x81FFFFFF), c) for c in columns]

    for space, generic in product(("shared", "global"), (False, True)):
        place = ("mov.u32 base, cells;\nmad.lo.u32 address, thread, 8, base;\n"
                 "cvt.u64.u32 cell, address;\n" if space == "shared" else
                 "add.u64 cell, out_address, 8;\n")  # fmt: skip
        if generic:
            place += f"cvta.{space}.u64 cell, cell;\n"
        where = "" if generic else f".{space}"
        add = floating("add.f32" if space == "shared" else "add.ftz.f32")
        body = (
            f"st{where}.b32 [cell], i0;\natom{where}.add.f32 o0, [cell], i1;\n"
            f"ld{where}.b32 o1, [cell];\nred{where}.add.f32 [cell], i2;\nld{where}.b32 o2, [cell];"
        )
        yield op(
            f"atom.{space}.add.f32",
            "f32 f32 f32",
            "f32 f32 f32",
            PARALLEL + "atom, red",
            lambda a, b, c, add=add: (a, add(a, b), add(add(a, b), c)),
            suffix=" generic floats" if generic else " floats",
            body=place + body,
            declare=shared(256),
            draw=tiny,
        )
    for space, t in product(("shared", "global"), ("b32", "b64")):
        where = "address" if space == "shared" else "out_address+8"
        body = ("mov.u32 base, cells;\nmad.lo.u32 address, thread, 8, base;\n"
                f"st.{space}.{t} [{where}], i0;\natom.{space}.cas.{t} o0, [{where}], i1, i2;\n"
                f"ld.{space}.{t} o1, [{where}];")  # fmt: skip
        fix = lambda rng, c: [c[0], np.where(rng.random(len(c[0])) < 0.5, c[0], c[1]), c[2]]
        yield op(
            f"atom.{space}.cas.{t}",
            f"{t} {t}",
            f"{t} {t} {t}",
            PARALLEL + "atom",
            lambda a, b, c: (a, c if a == b else a),
            body=body,
            declare=shared(256),
            draw=fix,
        )


# --- wgmma ------------------------------------------------------------------------------------


def swizzled(offset, bytes_of_pattern):
    """Swizzle<b, 4, 3>: bits 4 … 4 + b - 1 of an offset are xored with bits 7 … 7 + b - 1."""
    return (
        offset ^ (offset >> 7 & bytes_of_pattern // 16 - 1) << 4
        if bytes_of_pattern > 16
        else offset
    )


def descriptor(leading, stride, pattern):
    """The matrix descriptor, but for the matrix's address: offsets are in units of 16 bytes."""
    mode = {16: 0, 32: 3, 64: 2, 128: 1}[pattern]
    return (leading >> 4) << 16 | (stride >> 4) << 32 | mode << 62


def laid_out(rows, depth, pattern, mn_major=False, other=False):
    """Where a matrix of wgmma lies whose rows have `depth` bytes along K: (offsets of its 8-byte
    words, its strides (leading, stride), bytes from 16 bytes of K, or 8 k, to the next).

    K-major: row by row, core matrices of 8 rows by `pattern` bytes. MN-major, of 16-bit types: k by
    k, core matrices of 8 k by `pattern` bytes of rows. `other` exchanges the order of the cores.
    """
    if not mn_major:
        r, byte = np.divmod(np.arange(0, rows * depth, 8), depth)
        if pattern > 16:
            return swizzled(r * pattern + byte, pattern), (16, 8 * pattern), 16
        leading, stride = (128, 8 * depth) if other else (16 * rows, 128)
        at = r // 8 * stride + byte // 16 * leading + r % 8 * 16 + byte % 16
        return at, (leading, stride), leading
    k, byte = np.divmod(np.arange(0, rows * depth, 8), 2 * rows)
    # From 8 k to the next, and from `pattern` bytes of rows to the next.
    down, along = (16 * rows, 8 * pattern) if other else (8 * pattern, pattern * depth // 2)
    at = k // 8 * down + byte // pattern * along
    at += swizzled(k % 8 * pattern + byte % pattern, pattern)
    return at, (along, down) if pattern > 16 else (down, along), down


def warpgroup_product(n, ta, tb, acc, pattern, loaded=False, trans=(0, 0), scales=(1, 1),
                      added=False, satfinite=False, selector=None):  # fmt: skip
    """wgmma.mma_async: D[64, N] = A[64, K] B[K, N], with A in shared memory or loaded (registers).

    Each thread gets 8 bytes and the offset to put them at, some times: the layout is made here.
    `pattern` is the size of a swizzle in bytes, 16 where there is none; with a selector, A is
    sparse; `added` to D as it was.
    """
    sparse, real = selector is not None, ta in FLOATS
    row = max(pattern, 32 << sparse)  # bytes of K of a column of B
    steps = row // (32 << sparse)
    k = (256 << sparse) // (32 if ta == "tf32" else width(ta))
    na, ne = 4 * steps if loaded else 0, steps if sparse else 0
    a_at, a_strides, a_unit = laid_out(64, 32 * steps, pattern, trans[0], other=True)
    b_at, b_strides, b_unit = laid_out(n, row, pattern, trans[1])
    a_at = a_at[:0] if loaded else a_at
    b_base = 8192
    at = np.concatenate([a_at, b_base + b_at])
    each = -(-len(at) // 128)
    size = b_base + -(-max(b_at + 8) // 1024) * 1024
    # Behind the matrices are the words that threads have over, each in a place of its own.
    at = np.concatenate([at, size + 8 * np.arange(each * 128 - len(at))]).reshape(128, each)
    nd = n // 4 if acc == "f16" else n // 2
    start = np.where(np.arange(nd) % 2 & added, -(2**31), 2**31 - 1)  # as an f32, a NaN

    def fix(rng, columns):
        words = columns[na + ne : na + ne + each]
        if real:
            columns[:na] = [small(rng, ta, 128) for _ in range(na)]
            halves = [small(rng, t, 2 * x) for t, x in ((ta, len(a_at)), (tb, at.size - len(a_at)))]
            halves = np.concatenate(halves).astype(np.uint32)
            # "will truncate lower 13 bits of the 32-bit input data"
            halves |= rng.integers(0, 1 << 13 * (ta == "tf32"), len(halves), np.uint32)
            words = halves.view(np.uint64).reshape(128, each).T
        columns[na : na + ne] = [pairs_of_indices(rng, 128) for _ in range(ne)]
        return [*columns[: na + ne], *words, *at.T]

    def model(columns):
        words = np.stack(columns[na + ne : na + ne + each], 1).astype(np.uint64).reshape(-1)

        def matrix(words, kind, rows, is_mn_major):
            values = unpack([words.view(np.uint32)], kind).ravel()
            return values.reshape(-1, rows).T if is_mn_major else values.reshape(rows, -1)

        if loaded:
            fragments = unpack(columns[:na], ta)
            a = np.concatenate([fragment_a(fragments[w : w + 32]) for w in range(0, 128, 32)])
        else:
            a = matrix(words[: len(a_at)], ta, 64, trans[0])
        if sparse:
            metadata = [c.astype(np.int64) for c in columns[na : na + ne]]
            parts_of = a.reshape(4, 16, steps, k // 2)
            a = np.block([[spread(parts_of[w, :, s], metadata[s][32 * w : 32 * w + 32], k, selector)
                           for s in range(steps)] for w in range(4)])  # fmt: skip
        b = matrix(words[len(a_at) : len(a_at) + len(b_at)], tb, n, trans[1])
        d = fragment_d(scales[0] * scales[1] * a @ b.T)
        return registers_of(wrapped(d + start, satfinite) if added else d, acc)

    shape = f"{'.satfinite' * satfinite}.{acc}.{ta}.{tb}"
    shape = f"{'.sp' * sparse}.sync.aligned.m64n{n}k{k}{shape}"
    lines = ["mov.u32 base, cells;"]
    for i in range(each):
        lines += [f"add.u32 address, base, i{na + ne + each + i};"]
        lines += [f"st.shared.b64 [address], i{na + ne + i};"]
    # What D holds before is not to be seen, if not `added`: the first product does not add to it.
    lines += [f"mov.b32 o{i}, {x & 0xFFFFFFFF:#x};" for i, x in enumerate(start.tolist())]
    lines += ["fence.proxy.async;", "bar.sync 0;",
              f"setp.{'eq' if added else 'ne'}.u32 p, thread, thread;",
              "shr.u32 address, base, 4;", "cvt.u64.u32 cell, address;",
              f"add.u64 a, cell, {descriptor(*a_strides, pattern):#x};",
              f"add.u64 b, cell, {descriptor(*b_strides, pattern) + (b_base >> 4):#x};",
              "wgmma.fence.sync.aligned;"]  # fmt: skip
    immediates = [*scales * real, *trans[loaded:] * (ta in ("f16", "bf16"))]
    for step in range(steps):
        operands = [braces("o", 0, nd), braces("i", 4 * step, 4) if loaded else "a", "b"]
        operands += [f"i{na + step}", selector] if sparse else []
        lines += [f"wgmma.mma_async{shape} {', '.join(map(str, [*operands, 'p', *immediates]))};"]
        if step + 1 < steps:  # further along K; and from now on D is added to
            lines += [f"add.u64 a, a, {2 * a_unit >> 4};"]
            lines += [f"add.u64 b, b, {(2 << sparse) * b_unit >> 4};"]
            lines += ["setp.eq.u32 p, thread, thread;"] if step == 0 else []
    lines += ["wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;"]
    name = shape.replace(".sync.aligned", "")
    name += " A in registers" * loaded + " A transposed" * trans[0] + " B transposed" * trans[1]
    name += "".join(f" {matrix} negated" for matrix, x in zip("AB", scales, strict=True) if x < 0)
    name += " added" * added + (f" selector {selector}" if sparse else "")
    name += f" {pattern}B" if pattern > 16 else " no swizzle"
    section = "Asynchronous Multiply-and-Accumulate Instruction: wgmma.mma_async" + ".sp" * sparse
    inputs = ["b32"] * (na + ne) + ["b64"] * each + ["u32"] * each
    outputs = [{"s32": "s32", "f32": "f32", "f16": "f16x2"}[acc]] * nd
    return warp(f"wgmma{name}", section, "\n".join(lines), " ".join(inputs), " ".join(outputs),
                model, arch="sm_90a", threads=128, blocks=1, draw=fix, signed_zero=False,
                declare=shared(int(at.max()) + 8, 1024) + "\n.reg .b64 a, b;")  # fmt: skip


def wgmma():
    """All types, each layout, A from either place, and whatever else has an operand or a name."""
    no_yes, signs, swizzles = (False, True), ("s8", "u8"), (16, 32, 64, 128)
    fp8, half, either = ("e4m3", "e5m2"), ("f16", "bf16"), (16, 128)
    case = warpgroup_product
    for n, p in product((8, 64, 256), swizzles):
        yield case(n, "s8", "s8", "s32", p)
    for p in swizzles:
        yield case(64, "s8", "s8", "s32", p, loaded=True)
    for a, b, loaded in product(signs, signs, no_yes):
        yield case(24, a, b, "s32", 32, loaded, added=True)
        yield case(16, a, b, "s32", 32, loaded, added=True, satfinite=True)
        yield case(24, a, b, "s32", 64, loaded, selector=0)
        yield case(16, a, b, "s32", 16, loaded, added=True, satfinite=True, selector=0)
    for (t, acc), p, loaded in product(
        (("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("tf32", "f32")), either, no_yes
    ):
        yield case(64, t, t, acc, p, loaded)
        for f in (0, 1) if t != "tf32" else ():
            yield case(64, t, t, acc, p, loaded, selector=f)
    for a, b, acc, loaded in product(fp8, fp8, ("f32", "f16"), no_yes):
        yield case(40, a, b, acc, 128, loaded)
        yield case(40, a, b, acc, 64, loaded, selector=0)
    for t, p, trans in product(half, swizzles, ((0, 1), (1, 0), (1, 1))):
        yield case(128, t, t, "f32", p, trans=trans)
    for p, selector in product(either, (None, 1)):
        yield case(128, "f16", "f16", "f16", p, trans=(1, 1), selector=selector)
        yield case(128, "bf16", "bf16", "f32", p, True, trans=(0, 1), selector=selector)
    for t, scales in product(("f16", "bf16", "tf32", "e4m3"), ((-1, 1), (1, -1), (-1, -1))):
        yield case(8, t, t, "f32", 32, scales=scales)
    yield case(8, "f16", "f16", "f16", 32, True, scales=(-1, 1))
    yield case(8, "f16", "f16", "f32", 64, scales=(1, -1), selector=0)
