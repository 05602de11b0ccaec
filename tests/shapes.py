"""Sizes of int8_matmul, M, N and K, named for why they are tried."""

SHAPES = {
    "no rows": (0, 32, 64),
    "no columns": (5, 0, 64),
    "nothing to sum": (5, 6, 0),
    "one number": (1, 1, 1),
    "one row, as in decoding": (1, 96, 256),
    "odd": (7, 9, 129),
    "K of one": (17, 33, 1),
    "K not a multiple of 16": (20, 24, 100),
    "one past a tile, both ways": (65, 129, 64),
    "several blocks of rows": (300, 48, 80),
}
