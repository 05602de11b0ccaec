"""PTX types, and float arithmetic by the definition: exact fractions, rounded once.

    round(x) = a neighbour of x in {n 2^q : 2^m <= n < 2^(m+1)}, and of its subnormals

The models of the snippets are made of these; nothing here knows the emulator.
"""

import math
from fractions import Fraction

FLOATS = {  # bits of the exponent and of the fraction
    "f16": (5, 10),
    "bf16": (8, 7),
    "f32": (8, 23),
    "f64": (11, 52),
    "tf32": (8, 10),
    "e4m3": (4, 3),
    "e5m2": (5, 2),
}
INTS = ("s16", "u16", "s32", "u32", "s64", "u64")
MODES = ("rn", "rz", "rm", "rp", "rna")


def parts(kind):
    """The type and the number of what is packed in `kind`: f16x2 is (f16, 2)."""
    name, _, count = kind.partition("x")
    return name, int(count or 1)


def width(kind):
    """The bits of a type."""
    name, count = parts(kind)
    own = {"pred": 32, "tf32": 19, "e4m3": 8, "e5m2": 8}
    return count * (own.get(name) or int(name.lstrip("bsuf")))


def register(kind):
    """The bits of a register that holds the type; an s8 lives in 32."""
    return max(width(kind), 16) if width(kind) not in (8, 19) else 32


def mask(kind):
    return (1 << width(kind)) - 1


def read(bits, kind):
    """The integer that `bits` are: signed where the type is, the bare bits of a float."""
    bits &= mask(kind)
    return bits - (bits >> (width(kind) - 1) << width(kind)) if kind[0] == "s" else bits


def limits(kind):
    w = width(kind)
    return (-(1 << w - 1), (1 << w - 1) - 1) if kind[0] == "s" else (0, (1 << w) - 1)


def decode(bits, f):
    """(s, x), for (-1)^s x: x = 2^(max(e, 1) - bias - m) (2^m [e > 0] + t), infinity or NaN."""
    e, m = FLOATS[f]
    sign, exponent, t = bits >> (e + m) & 1, bits >> m & ((1 << e) - 1), bits & ((1 << m) - 1)
    if exponent == (1 << e) - 1 and (f != "e4m3" or t == 7):
        return sign, math.nan if t else math.inf
    scale = max(exponent, 1) - (1 << e - 1) + 1 - m
    return sign, Fraction(t + ((exponent > 0) << m)) * Fraction(2) ** scale


def round_integer(x, mode, sign):
    """A neighbour of x >= 0, which is the magnitude of (-1)^sign x."""
    low = math.floor(x)
    rest, half = x - low, Fraction(1, 2)
    up = {
        "rn": rest > half or (rest == half and low & 1),
        "rna": rest >= half,
        "rz": False,
        "rm": sign and rest,
        "rp": not sign and rest,
    }[mode]
    return low + bool(up)


def encode(number, f, mode="rn", ftz=False, sat=False, relu=False, satfinite=False):
    """The bits of the neighbour of (-1)^s x in format f: n 2^q, q = max(⌊log2 x⌋, e_min) - m."""
    sign, x = number
    e, m = FLOATS[f]
    infinity = ((1 << e) - 1) << m
    largest = 0x7E if f == "e4m3" else infinity - 1
    if x != x:
        return 0 if sat else (1 << (e + m)) - 1
    sign = (mode == "rm") if sign is None else sign  # None: of x - x
    if sign and (sat or relu):
        return 0
    x = min(x, 1) if sat else x
    if x == math.inf:
        return sign << (e + m) | (largest if satfinite else infinity)
    bias = (1 << e - 1) - 1
    q = 1 - bias - m
    if x:
        x = Fraction(x)
        power = x.numerator.bit_length() - x.denominator.bit_length()
        q = max(q, power - (Fraction(2) ** power > x) - m)
    magnitude = round_integer(x / Fraction(2) ** q, mode, sign) + ((q + m + bias - 1) << m)
    if ftz and magnitude < 1 << m:
        magnitude = 0
    if magnitude > largest:
        away = mode in ("rn", "rna") or mode == ("rm" if sign else "rp")
        magnitude = infinity if away and not satfinite else largest
    return sign << (e + m) | magnitude


def flushed(number, f):
    return (number[0], 0) if number[1] < Fraction(2) ** (2 - (1 << FLOATS[f][0] - 1)) else number


def signed(number):
    return -number[1] if number[0] else number[1]


ONE, NAN = (0, Fraction(1)), (0, math.nan)


def multiply(a, b):
    if a[1] != a[1] or b[1] != b[1] or {a[1], b[1]} == {0, math.inf}:
        return NAN
    return a[0] ^ b[0], math.inf if math.inf in (a[1], b[1]) else a[1] * b[1]


def fma(a, b, c):
    p = multiply(a, b)
    if p[1] != p[1] or c[1] != c[1]:
        return NAN
    if math.inf in (p[1], c[1]):
        opposite = p[1] == c[1] and p[0] != c[0]
        return NAN if opposite else (p if p[1] == math.inf else c)
    total = signed(p) + signed(c)
    if not total:
        return p[0] if p[0] == c[0] else None, total
    return int(total < 0), abs(total)


def divide(a, b):
    if a[1] != a[1] or b[1] != b[1] or (a[1] == b[1] and a[1] in (0, math.inf)):
        return NAN
    if a[1] == math.inf or not b[1]:
        return a[0] ^ b[0], math.inf
    return a[0] ^ b[0], Fraction(0) if b[1] == math.inf else Fraction(a[1]) / b[1]


def square_root(a):
    """⌊√(4^k x)⌋ / 2^k, and half a last place more where that is not exact: as good to round."""
    if a[1] != a[1] or (a[0] and a[1]):
        return NAN
    if a[1] in (0, math.inf):
        return a
    k = 1200
    square = int(a[1] * 4**k)
    root = math.isqrt(square)
    return 0, Fraction(2 * root + (root * root != square), 2 ** (k + 1))


ARITHMETIC = {
    "add": lambda a, b: fma(a, ONE, b),
    "sub": lambda a, b: fma((b[0] ^ 1, b[1]), ONE, a),
    "mul": multiply,
    "fma": fma,
    "mad": fma,
    "div": divide,
    "rcp": lambda a: divide(ONE, a),
    "sqrt": square_root,
    "neg": lambda a: (a[0] ^ 1, a[1]),
    "abs": lambda a: (0, a[1]),
}


def flags(instruction):
    """The modifiers of an instruction, as `encode` takes them."""
    words = instruction.split(".")
    found = {word: True for word in ("ftz", "sat", "relu", "satfinite") if word in words}
    return found | {"mode": next((word for word in words if word in MODES), "rn")}


def each_part(f, kind):
    """f on each of the floats that are packed in `kind`."""
    name, count = parts(kind)
    w = width(name)
    return lambda *xs: sum(
        f(*(x >> w * k & ((1 << w) - 1) for x in xs)) << w * k for k in range(count)
    )


def floating(instruction):
    """d = round(op(a, b, …)), op and rounding being those that the instruction names."""
    words, how = instruction.split("."), flags(instruction)
    f = parts(words[-1])[0]

    def one(*bits):
        numbers = [decode(b, f) for b in bits]
        if "ftz" in words:
            numbers = [flushed(x, f) for x in numbers]
        return encode(ARITHMETIC[words[0]](*numbers), f, **how)

    return each_part(one, words[-1])


def extremum(instruction):
    """d = min(a, b) or max(a, b), where -0 < +0 and a NaN gives way unless .NaN."""
    words = instruction.split(".")
    f = parts(words[-1])[0]
    choose = min if words[0] == "min" else max

    def one(*bits):
        x, y = (decode(b, f) for b in bits)
        if "ftz" in words:
            x, y = flushed(x, f), flushed(y, f)
        sign = x[0] ^ y[0]
        if "abs" in words:
            x, y = (0, x[1]), (0, y[1])
        numbers = [n for n in (x, y) if n[1] == n[1]]
        if len(numbers) < (2 if "NaN" in words else 1):
            return encode(NAN, f)
        least = choose(numbers, key=lambda n: (signed(n), -n[0]))
        return encode((sign, least[1]) if "xorsign" in words else least, f)

    return each_part(one, words[-1])


COMPARE = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
COMPARE |= {"lo": COMPARE["lt"], "ls": COMPARE["le"], "hi": COMPARE["gt"], "hs": COMPARE["ge"]}
UNORDERED = (*(name + "u" for name in ("eq", "ne", "lt", "le", "gt", "ge")), "num", "nan")
BOOL = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}


def compare(operator, f, ftz=False):
    """The comparison of two integers, or of two floats by their bits."""
    if f not in FLOATS:
        return lambda a, b: int(COMPARE[operator](a, b))

    def one(*bits):
        a, b = (decode(x, f) for x in bits)
        if ftz:
            a, b = flushed(a, f), flushed(b, f)
        unordered = a[1] != a[1] or b[1] != b[1]
        if operator in ("num", "nan"):
            return int(unordered == (operator == "nan"))
        if unordered:
            return int(operator in UNORDERED)
        return int(COMPARE[operator[:2]](signed(a), signed(b)))

    return one
