"""Snippets of instructions that a thread runs for itself: integers, bits, floats, conversions."""

# ruff: noqa: E731  (a model is most often one expression, and is named where it is used twice)

import math
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np

from .exact import (
    BOOL,
    INTS,
    MODES,
    UNORDERED,
    compare,
    decode,
    encode,
    extremum,
    flags,
    floating,
    flushed,
    limits,
    mask,
    parts,
    read,
    round_integer,
    signed,
    width,
)
from .snippet import Tolerance, op


def replaced(column, old, new):
    """A fix for `draw`: in one column, what is in `old` gives way to `new`."""

    def fix(_, columns):
        columns[column] = np.where(np.isin(columns[column], old), np.uint64(new), columns[column])
        return columns

    return fix


def truncated(a, b):
    """The quotient of a and b, rounded toward zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def clamp(x, kind):
    low, high = limits(kind)
    return min(max(x, low), high)


INTEGER = "Integer Arithmetic Instructions: "


def integers():
    """Integer arithmetic: exact in Python, wrapped when stored."""
    two = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul.lo": lambda a, b: a * b,
        "min": min,
        "max": max,
    }
    for t in INTS:
        w = width(t)
        for name, f in two.items():
            yield op(f"{name}.{t}", t, f"{t} {t}", INTEGER + name[:3], f)
        high = lambda a, b, c=0, w=w: (a * b >> w) + c
        yield op(f"mul.hi.{t}", t, f"{t} {t}", INTEGER + "mul", high)
        yield op(f"mad.hi.{t}", t, f"{t} {t} {t}", INTEGER + "mad", high)
        yield op(f"mad.lo.{t}", t, f"{t} {t} {t}", INTEGER + "mad", lambda a, b, c: a * b + c)
        yield op(f"sad.{t}", t, f"{t} {t} {t}", INTEGER + "sad", lambda a, b, c: c + abs(a - b))
        # Division by zero is unspecified, and so in effect is the least integer by -1.
        divisors = replaced(1, [0, mask(t)] if t[0] == "s" else [0], 3)
        yield op(f"div.{t}", t, f"{t} {t}", INTEGER + "div", truncated, draw=divisors)
        rest = lambda a, b: a - b * truncated(a, b)
        yield op(f"rem.{t}", t, f"{t} {t}", INTEGER + "rem", rest, draw=divisors)
        if w < 64:
            wide = f"{t[0]}{2 * w}"
            yield op(f"mul.wide.{t}", wide, f"{t} {t}", INTEGER + "mul", two["mul.lo"])
            f = lambda a, b, c: a * b + c
            yield op(f"mad.wide.{t}", wide, f"{t} {t} {wide}", INTEGER + "mad", f)
        if t[0] == "s":
            yield op(f"abs.{t}", t, t, INTEGER + "abs", abs)
            yield op(f"neg.{t}", t, t, INTEGER + "neg", lambda a: -a)
    for name, f in (("add", two["add"]), ("sub", two["sub"])):
        g = lambda a, b, f=f: clamp(f(a, b), "s32")
        yield op(f"{name}.sat.s32", "s32", "s32 s32", INTEGER + name, g)

    def field(a, at, length, t):
        at, length, top = at & 255, length & 255, width(t) - 1
        bit = lambda k: a >> k & 1
        sign = bit(min(at + length - 1, top)) if t[0] == "s" and length else 0
        return sum(
            (bit(at + k) if k < length and at + k <= top else sign) << k for k in range(top + 1)
        )

    def insert(a, b, at, length, w):
        at, length = at & 255, length & 255
        m = ((1 << length) - 1) << at & ((1 << w) - 1)
        return b & ~m | a << at & m

    def leading(a, t, shift):
        a = ~a if a < 0 else a
        return (width(t) - a.bit_length() if shift else a.bit_length() - 1) if a else -1

    for t in INTS[2:]:
        f = partial(field, t=t)
        yield op(f"bfe.{t}", t, f"{t} u32 u32", INTEGER + "bfe", f)
        # Whole words are seldom cut by random positions.
        small = lambda rng, c: [c[0], *(rng.integers(0, 70, len(x)) for x in c[1:])]
        yield op(f"bfe.{t}", t, f"{t} u32 u32", INTEGER + "bfe", f, suffix=" near", draw=small)
        for name, shift in (("bfind", False), ("bfind.shiftamt", True)):
            f = partial(leading, t=t, shift=shift)
            yield op(f"{name}.{t}", "u32", t, INTEGER + "bfind", f)
    for w in (32, 64):
        t = f"b{w}"
        small = lambda rng, c: [*c[:2], *(rng.integers(0, 70, len(x)) for x in c[2:])]
        f = partial(insert, w=w)
        yield op(f"bfi.{t}", t, f"{t} {t} u32 u32", INTEGER + "bfi", f)
        yield op(f"bfi.{t}", t, f"{t} {t} u32 u32", INTEGER + "bfi", f, suffix=" near", draw=small)
        yield op(f"popc.{t}", "u32", t, INTEGER + "popc", lambda a: a.bit_count())
        yield op(f"clz.{t}", "u32", t, INTEGER + "clz", lambda a, w=w: w - a.bit_length())
        yield op(f"brev.{t}", t, t, INTEGER + "brev", lambda a, w=w: int(f"{a:0{w}b}"[::-1], 2))

    def dot(a, b, c, kinds):
        """c + Σ a_k b_k, over the bytes of a and b."""
        return c + sum(
            read(a >> 8 * k, f"{kinds[0]}8") * read(b >> 8 * k, f"{kinds[1]}8") for k in range(4)
        )

    for ta, tb in product("us", "us"):
        tc = "u32" if ta + tb == "uu" else "s32"
        f = partial(dot, kinds=ta + tb)
        yield op(f"dp4a.{ta}32.{tb}32", tc, f"b32 b32 {tc}", INTEGER + "dp4a", f)


EXTENDED = "Extended-Precision Integer Arithmetic Instructions: "


def carries():
    """Sums and products of several words: Σ_k x_k 2^(w k), with carries between the words."""

    def number(words, w):
        return sum((x % (1 << w)) << w * k for k, x in enumerate(words))

    def words(x, n, w):
        return tuple(x >> w * k for k in range(n))

    for t in INTS[2:]:
        w, section = width(t), EXTENDED
        for name, sign in (("add", 1), ("sub", -1)):

            def total(*x, sign=sign, w=w):
                return words(number(x[:3], w) + sign * number(x[3:], w), 3, w)

            def passing(rng, c, sign=sign):
                """Often the middle words only pass on the carry that they get."""
                same = c[1] if sign < 0 else ~c[1]
                return [*c[:4], np.where(rng.random(len(same)) < 0.5, same, c[4]), c[5]]

            body = (f"{name}.cc.{t} o0, i0, i3;\n{name}c.cc.{t} o1, i1, i4;\n"
                    f"{name}c.{t} o2, i2, i5;")  # fmt: skip
            many = " ".join([t] * 6)
            yield op(f"{name}.cc.{t}", " ".join([t] * 3), many, section + f"{name}.cc, {name}c",
                     total, body=body, draw=passing)  # fmt: skip
        for first, second in product(("lo", "hi"), repeat=2):

            def sums(a, b, c, d, e, f, first=first, second=second, w=w):
                part = lambda x, y, half: x * y >> (w if half == "hi" else 0)
                products = part(a, b, first), part(d, e, second), part(a, d, second)
                return words(number(products, w) + number((c, f, c), w), 3, w)

            body = (f"mad.{first}.cc.{t} o0, i0, i1, i2;\nmadc.{second}.cc.{t} o1, i3, i4, i5;\n"
                    f"madc.{second}.{t} o2, i0, i3, i2;")  # fmt: skip
            yield op(f"mad.{first}.cc.{t}", " ".join([t] * 3), " ".join([t] * 6),
                     section + "mad.cc, madc", sums,
                     suffix=f" madc.{second}", body=body)  # fmt: skip
        if t[0] == "u":  # the example of the manual's section

            def long(a, b, c, d, w=w):
                return words(number((a, b), w) * number((c, d), w), 4, w)

            body = f"""mul.lo.{t} o0, i0, i2;
                mul.hi.{t} o1, i0, i2;
                mad.lo.cc.{t} o1, i1, i2, o1;
                madc.hi.{t} o2, i1, i2, 0;
                mad.lo.cc.{t} o1, i0, i3, o1;
                madc.hi.cc.{t} o2, i0, i3, o2;
                addc.{t} o3, 0, 0;
                mad.lo.cc.{t} o2, i1, i3, o2;
                madc.hi.{t} o3, i1, i3, o3;"""
            four = " ".join([t] * 4)
            yield op(f"madc.{t}", four, four, section + "madc", long, suffix=" long", body=body)


LOGIC = "Logic and Shift Instructions: "


def logic():
    """Bits: logic, shifts, permutations, selections, packing."""
    for t in ("pred", "b16", "b32", "b64"):
        for name, f in BOOL.items():
            yield op(f"{name}.{t}", t, f"{t} {t}", LOGIC + name, f)
        flip = (lambda a: 1 - a) if t == "pred" else (lambda a: ~a)
        yield op(f"not.{t}", t, t, LOGIC + "not", flip)
    near = lambda rng, c: [c[0], np.where(rng.random(len(c[1])) < 0.7, c[1] % 70, c[1])]
    for w in (16, 32, 64):
        f = lambda a, b, w=w: a << min(b, w)
        yield op(f"shl.b{w}", f"b{w}", f"b{w} u32", LOGIC + "shl", f, draw=near)
        for t in (f"b{w}", f"u{w}", f"s{w}"):
            f = lambda a, b, w=w: a >> min(b, w)
            yield op(f"shr.{t}", t, f"{t} u32", LOGIC + "shr", f, draw=near)
    for way, mode in product("lr", ("clamp", "wrap")):

        def funnel(a, b, c, way=way, mode=mode):
            n = min(c, 32) if mode == "clamp" else c & 31
            return (b << 32 | a) << n >> 32 if way == "l" else (b << 32 | a) >> n

        near3 = lambda rng, c: [*c[:2], *near(rng, c[1:])[1:]]
        yield op(f"shf.{way}.{mode}.b32", "b32", "b32 b32 u32", LOGIC + "shf", funnel, draw=near3)
    for table in (0x00, 0x1A, 0x40, 0x80, 0x96, 0xCA, 0xE8, 0xFE):

        def look(a, b, c, table=table):
            pick = lambda x, k: x if k else ~x
            return sum(
                pick(a, k & 4) & pick(b, k & 2) & pick(c, k & 1) & 0xFFFFFFFF
                for k in range(8) if table >> k & 1
            )  # fmt: skip

        yield op("lop3.b32", "b32", "b32 b32 b32", LOGIC + "lop3", look,
                 f", {table}", suffix=f" {table:#04x}")  # fmt: skip

    move = "Data Movement and Conversion Instructions: "

    def permute(a, b, c):
        source = (b << 32 | a).to_bytes(8, "little")
        picks = [c >> 4 * k & 15 for k in range(4)]
        return sum(
            (255 * (source[p & 7] >> 7) if p & 8 else source[p & 7]) << 8 * k
            for k, p in enumerate(picks)
        )

    yield op("prmt.b32", "b32", "b32 b32 b32", move + "prmt", permute)
    for whole, piece, n in (("b32", "b16", 2), ("b64", "b16", 4), ("b64", "b32", 2)):
        w = width(piece)
        join = lambda *x, w=w: sum(v << w * k for k, v in enumerate(x))
        cut = lambda x, w=w, n=n: tuple(x >> w * k & ((1 << w) - 1) for k in range(n))
        ins, outs = ("{" + ", ".join(f"{p}{k}" for k in range(n)) + "}" for p in "io")
        many = " ".join([piece] * n)
        yield op(f"mov.{whole}", whole, many, move + "mov", join,
                 suffix=f" of {n}", body=f"mov.{whole} o0, {ins};")  # fmt: skip
        yield op(f"mov.{whole}", many, whole, move + "mov", cut,
                 suffix=f" to {n}", body=f"mov.{whole} {outs}, i0;")  # fmt: skip


COMPARISON = "Comparison and Selection Instructions: "


def comparisons():
    """setp, set, selp, slct."""
    names = ("eq", "ne", "lt", "le", "gt", "ge")
    cases = [(n, t) for t in (*INTS, "f32", "f64", "f16", "bf16") for n in names]
    cases += [(n, t) for t in ("u16", "u32", "u64") for n in ("lo", "ls", "hi", "hs")]
    cases += [(n, t) for t in ("b16", "b32", "b64") for n in ("eq", "ne")]
    cases += [(n, t) for t in ("f32", "f64", "f16", "bf16") for n in UNORDERED]
    for name, t in cases:
        section = (
            "Half Precision Comparison Instructions: " if "f16" in t else COMPARISON
        ) + "setp"
        arch = "sm_90" if t == "bf16" else "sm_80"
        yield op(f"setp.{name}.{t}", "pred", f"{t} {t}", section, compare(name, t), arch=arch)
    for name in ("lt", "equ", "ne"):
        f = compare(name, "f32", ftz=True)
        yield op(f"setp.{name}.ftz.f32", "pred", "f32 f32", COMPARISON + "setp", f)
    for name, t, join, flip in product(("lt", "ne"), ("s32", "f32"), BOOL, (0, 1)):

        def both(a, b, c, name=name, t=t, join=join, flip=flip):
            test = compare(name, t)(a, b)
            return BOOL[join](test, c ^ flip), BOOL[join](1 - test, c ^ flip)

        body = f"setp.{name}.{join}.{t} o0|o1, i0, i1, {'!' * flip}i2;"
        yield op(f"setp.{name}.{join}.{t}", "pred pred", f"{t} {t} pred", COMPARISON + "setp", both,
                 suffix=" not" * flip, body=body)  # fmt: skip
    for d, t in product(("u32", "f32"), ("s32", "f32")):
        true = 0x3F800000 if d == "f32" else 0xFFFFFFFF
        f = lambda a, b, t=t, true=true: true * compare("gt", t)(a, b)
        yield op(f"set.gt.{d}.{t}", "b32", f"{t} {t}", COMPARISON + "set", f)
    for t in ("b16", "b32", "b64", "f32", "f64"):
        bits = f"b{width(t)}"
        pick = lambda a, b, c: a if c else b
        yield op(f"selp.{t}", bits, f"{bits} {bits} pred", COMPARISON + "selp", pick)
        pick = lambda a, b, c: a if c >= 0 else b
        yield op(f"slct.{t}.s32", bits, f"{bits} {bits} s32", COMPARISON + "slct", pick)
        pick = lambda a, b, c: a if compare("ge", "f32")(c, 0) else b
        yield op(f"slct.{t}.f32", bits, f"{bits} {bits} f32", COMPARISON + "slct", pick)


FLOAT = "Floating Point Instructions: "
HALF = "Half Precision Floating Point Instructions: "


def floats():
    """Float arithmetic that the manual rounds as IEEE 754 does, and min, max, neg, abs."""
    count = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "mad": 3, "div": 2, "sqrt": 1, "rcp": 1}
    names = [f"{n}.{m}.{t}" for n, m, t in product(count, MODES[:4], ("f32", "f64"))]
    names += [f"{n}.rn.ftz.f32" for n in count]
    names += [f"{n}.rz.ftz.f32" for n in ("add", "fma", "div")]
    names += [f"{n}.rn{z}.sat.f32" for n in ("add", "sub", "mul", "fma") for z in ("", ".ftz")]
    names += [f"{n}.f32" for n in ("add", "sub", "mul")]
    halves = [f"{t}{x}" for t in ("f16", "bf16") for x in ("", "x2")]
    for n, t in product(("add", "sub", "mul", "fma.rn"), halves):
        names.append(f"{n}.{t}")
        names += [f"{n}{z}.{t}" for z in (".ftz", ".sat", ".ftz.sat") if t[0] == "f"]
    names += [f"fma.rn.relu.{t}" for t in halves]
    names += [f"{n}.{t}" for n in ("neg", "abs") for t in ("f32", "f64", "ftz.f32", *halves)]
    for name in names:
        words = name.split(".")
        t = words[-1]
        # bf16 has fma from sm_80 on, and add, sub and mul from sm_90 on.
        arch = "sm_90" if "bf16" in t and words[0] in ("add", "sub", "mul") else "sm_80"
        section = (HALF if "f16" in t else FLOAT) + words[0]
        inputs = " ".join([t] * count.get(words[0], 1))
        loose = "sat" in words or "relu" in words
        yield op(name, t, inputs, section, floating(name), arch=arch, signed_zero=not loose)
    for t in ("f32", "f64"):
        top = 1 << width(t) - 1
        f = lambda a, b, top=top: a & top | b & ~top
        yield op(f"copysign.{t}", t, f"{t} {t}", FLOAT + "copysign", f)
    for n, t in product(("min", "max"), ("f32", "ftz.f32", "f64", "ftz.f16", *halves)):
        last = t.split(".")[-1]
        for middle in ("", "NaN.", "xorsign.abs.", "NaN.xorsign.abs."):
            name = f"{n}.{t}" if not middle else f"{n}.{t[: -len(last)]}{middle}{last}"
            if last == "f64" and middle:
                continue
            arch = "sm_89" if "xorsign" in middle else "sm_80"
            strict = "NaN" in middle and last == "f32"  # canonical, 0x7fffffff
            section = (HALF if "f16" in t else FLOAT) + n
            yield op(name, last, f"{last} {last}", section, extremum(name), arch=arch,
                     canonical_nan=strict)  # fmt: skip


def approximations():
    """Approximate functions, within the error that the manual promises."""

    def real(f, ftz=False, kind="f32"):
        def one(bits):
            number = decode(bits, kind)
            number = flushed(number, kind) if ftz else number
            try:
                y = f(float(signed(number)), number[0])
            except OverflowError:
                y = math.inf
            x = Fraction(abs(y)) if math.isfinite(y) else abs(y)
            return encode((int(math.copysign(1, y) < 0), x), kind, ftz=ftz)

        return one

    def log2(x, sign):
        return -math.inf if x == 0 else math.nan if sign or x != x else math.log2(x)

    def rsqrt(x, sign):
        if x == 0:
            return math.copysign(math.inf, -1 if sign else 1)
        return math.nan if sign or x != x else 1 / math.sqrt(x)

    def periodic(f):
        return lambda x, _: f(x) if math.isfinite(x) else math.nan

    def circle(rng, columns):
        """Angles in [-2 pi, 2 pi], where the error is bounded; some of the special values."""
        angles = rng.uniform(-2 * math.pi, 2 * math.pi, len(columns[0])).astype(np.float32)
        special = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 1], np.uint64)
        chosen = special[rng.integers(0, len(special), len(angles))]
        return [np.where(rng.random(len(angles)) < 0.2, chosen, angles.view(np.uint32))]

    exp2 = lambda x, _: 2.0**x if x == x else x
    cases = [
        ("ex2", "f32", exp2, Tolerance(ulp=2), None),
        ("lg2", "f32", log2, Tolerance(absolute=2**-22, relative=2**-22), None),
        ("rcp", "f32", None, Tolerance(ulp=1), None),
        ("rsqrt", "f32", rsqrt, Tolerance(relative=2**-22.9), None),
        ("sqrt", "f32", None, Tolerance(relative=2**-23), None),
        ("sin", "f32", periodic(math.sin), Tolerance(absolute=2**-20.5), circle),
        ("cos", "f32", periodic(math.cos), Tolerance(absolute=2**-20.5), circle),
        ("tanh", "f32", lambda x, _: math.tanh(x), Tolerance(relative=2**-11), None),
        ("ex2", "f16", exp2, Tolerance(relative=2**-9.9), None),
    ]
    for (n, t, f, tolerance, fix), ftz in product(cases, (False, True)):
        if ftz and (n == "tanh" or t == "f16"):
            continue
        name = f"{n}.approx{'.ftz' * ftz}.{t}"
        model = real(f, ftz, t) if f else floating(f"{n}{'.ftz' * ftz}.{t}")
        section = (HALF if t == "f16" else FLOAT) + n
        yield op(name, t, t, section, model, tolerance=tolerance, draw=fix)
    ordinary = lambda rng, c: [x % (1 << 22) + (100 + x % 50 << 23) | x & 1 << 31
                               for x in c]  # fmt: skip
    for name, fix in (("div.full.f32", None), ("div.approx.f32", ordinary)):
        f = floating("div.rn.f32")
        yield op(name, "f32", "f32 f32", FLOAT + "div", f, tolerance=Tolerance(ulp=2), draw=fix)


CONVERT = "Data Movement and Conversion Instructions: cvt"


def conversions():
    """cvt between floats and integers of all sizes."""
    whole = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}
    all_ints = ("s8", "u8", *INTS)

    def held(t):
        """The type of a register that holds t extended: an 8-bit one lives in 32 bits."""
        return f"{t[0]}{max(32, width(t))}" if width(t) == 8 else t

    def to_int(bits, f, d, mode, ftz):
        number = decode(bits, f)
        number = flushed(number, f) if ftz else number
        if number[1] != number[1]:
            if f != "f64" and d not in ("s64", "u64"):
                return 0
            return read(1 << (width(d) - 1), d)
        if number[1] == math.inf:
            return limits(d)[0 if number[0] else 1]
        n = round_integer(number[1], mode, number[0])
        return clamp(-n if number[0] else n, d)

    def arch(*kinds):
        return "sm_90" if "bf16" in kinds else "sm_80"

    for f, d, mode in product(("f32", "f64", "f16", "bf16"), all_ints, whole):
        if mode in ("rmi", "rpi") and d not in ("s32", "u8", "u64"):
            continue
        if f == "bf16" and width(d) == 8:  # .bf16 may not share a wider register
            continue
        g = partial(to_int, f=f, d=d, mode=whole[mode], ftz=False)
        # What a NaN of 64 bits gives in 8 is left to the two steps that ptxas makes of it.
        fix = None
        if f == "f64" and width(d) < 32:
            fix = lambda rng, c: [
                np.where(c[0] & np.uint64(2**63 - 1) > np.uint64(2047 << 52), np.uint64(0), c[0])
            ]
        yield op(f"cvt.{mode}.{d}.{f}", held(d), f, CONVERT, g, arch=arch(f), draw=fix)
    for name, d in (("cvt.rzi.ftz.s32.f32", "s32"), ("cvt.rpi.ftz.u32.f32", "u32")):
        g = partial(to_int, f="f32", d=d, mode=whole[name[4:7]], ftz=True)
        yield op(name, d, "f32", CONVERT, g)
        g = partial(to_int, f="f32", d="s8", mode="rn", ftz=False)
    yield op("cvt.rni.sat.s8.f32", "s32", "f32", CONVERT, g)
    for f, s in product(("f32", "f64", "f16", "bf16"), all_ints):
        if f == "bf16" and width(s) == 8:
            continue
        many = f == "f32" or (f == "f64" and width(s) == 64)
        for mode in MODES[:4] if many else ("rn",):
            g = lambda a, f=f, mode=mode: encode((int(a < 0), abs(a)), f, mode)
            yield op(f"cvt.{mode}.{f}.{s}", f, s, CONVERT, g, arch=arch(f))
    for d, s in product(all_ints, all_ints):
        if d != s:
            yield op(f"cvt.{d}.{s}", held(d), s, CONVERT, lambda a, d=d: read(a, d))
        if limits(d)[0] > limits(s)[0] or limits(d)[1] < limits(s)[1]:
            g = lambda a, d=d: clamp(a, d)
            yield op(f"cvt.sat.{d}.{s}", held(d), s, CONVERT, g)

    def between(instruction):
        *_, d, s = instruction.split(".")
        d, s = parts(d)[0], parts(s)[0]
        how = flags(instruction)

        def one(bits):
            number = decode(bits, s)
            number = flushed(number, s) if "ftz" in how and s == "f32" else number
            # .ftz is about f32 alone, whichever of the two types that is.
            return encode(number, d, **how | {"ftz": "ftz" in how and d == "f32"})

        return one

    plain = [f"cvt.{m}.{d}.{s}" for m in MODES[:4]
             for d, s in (("f32", "f64"), ("f16", "f32"), ("f16", "f64"))]  # fmt: skip
    plain += ["cvt.f32.f16", "cvt.f64.f32", "cvt.f64.f16", "cvt.f32.bf16", "cvt.ftz.f32.f16"]
    plain += [f"cvt.{m}.bf16.f32" for m in ("rn", "rz", "rn.relu", "rn.satfinite")]
    plain += [
        "cvt.rn.ftz.f16.f32",
        "cvt.rn.ftz.f32.f64",
        "cvt.rn.sat.f16.f32",
        "cvt.rn.sat.f32.f64",
    ]
    plain += [
        "cvt.sat.f32.f32",
        "cvt.ftz.f32.f32",
        "cvt.rn.relu.f16.f32",
        "cvt.rn.satfinite.f16.f32",
    ]
    for name in plain:
        *_, d, s = name.split(".")
        loose = "sat" in name.split(".") or "relu" in name
        yield op(name, d, s, CONVERT, between(name), signed_zero=not loose)
    for mode, t in product(whole, ("f32", "f64", "f16")):

        def integral(bits, mode=mode, t=t):
            sign, x = decode(bits, t)
            finite = x < math.inf
            return encode((sign, round_integer(x, whole[mode], sign) if finite else x), t)

        yield op(f"cvt.{mode}.{t}.{t}", t, t, CONVERT, integral)
    for mode in ("rna", "rna.satfinite"):
        g = lambda a, n=f"cvt.{mode}.tf32.f32": between(n)(a) << 13
        yield op(f"cvt.{mode}.tf32.f32", "tf32", "f32", CONVERT, g)
    for mode, d in product(("rn", "rz", "rn.relu", "rz.relu", "rn.satfinite"), ("f16x2", "bf16x2")):
        name = f"cvt.{mode}.{d}.f32"
        g = lambda a, b, n=name: between(n)(a) << 16 | between(n)(b)
        yield op(name, d, "f32 f32", CONVERT, g, signed_zero="relu" not in mode)
    for d, relu in product(("e4m3x2", "e5m2x2"), ("", ".relu")):
        for s in ("f32", "f16x2"):
            name = f"cvt.rn.satfinite{relu}.{d}.{s}"
            if s == "f32":
                g = lambda a, b, n=name: between(n)(a) << 8 | between(n)(b)
            else:
                g = lambda a, n=name: between(n)(a >> 16) << 8 | between(n)(a & 0xFFFF)
            inputs = "f32 f32" if s == "f32" else s
            yield op(name, d, inputs, CONVERT, g, arch="sm_89", signed_zero=not relu)
        name = f"cvt.rn{relu}.f16x2.{d}"
        g = lambda a, n=name: between(n)(a >> 8) << 16 | between(n)(a & 0xFF)
        yield op(name, "f16x2", d, CONVERT, g, arch="sm_89", signed_zero=not relu)
