"""What the converted layers of a model take: in memory, on disk, and while they are converted."""

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import green_kernels as gk

EVERY = gk.Int8(keep_faster=False)  # layer, also those that are faster in float here


def footprint(
    model: nn.Module, converted: nn.Module, load: Callable[[], nn.Module], device: str
) -> dict[str, float]:
    """Return the bytes of the converted layers' weights before and after, in memory and on disk.

    load: gives the float model anew, to measure the peak of converting it on a GPU
    """
    layers = [
        (name, layer) for name, layer in converted.named_modules()
        if isinstance(layer, gk.nn.Int8Linear | gk.nn.Int8WeightLinear)
    ]  # fmt: skip
    if not layers:
        return {}
    before = sum(model.get_submodule(name).weight.nbytes for name, _ in layers)
    biases = sum(layer.bias.nbytes for _, layer in layers if layer.bias is not None)
    memory = sum(layer.nbytes for _, layer in layers) - biases
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        gk.save(converted, path)
        disk = _stored(path, {f"{name}.{key}" for name, _ in layers for key in ("w_q", "w_scale")})
    return {
        "float32_weight_bytes": before,
        "memory_bytes": memory,
        "memory_ratio": memory / before,
        "disk_bytes": disk,
        "disk_ratio": disk / before,
        "conversion_peak_bytes": _conversion_peak(load, device),
        "largest_layer_bytes": max(model.get_submodule(name).weight.nbytes for name, _ in layers),
    }


def _stored(path: Path, keys: set[str]) -> int:
    """Return the bytes of these tensors in a safetensors file, by its own header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    spans = [header[key]["data_offsets"] for key in keys]
    return sum(end - start for start, end in spans)


def _conversion_peak(load: Callable[[], nn.Module], device: str) -> int:
    """Return the most memory that converting held beyond what the float model held."""
    if device != "cpu":
        model = load().to(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        gk.convert(model, EVERY)
        return torch.cuda.max_memory_allocated(device) - before
    # A process of its own, in which freed memory goes back at once: each allocation is a mapping.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", f"{__package__}.conversion_peak"]
    with tempfile.TemporaryDirectory() as elsewhere:  # not the root, whose folders shadow packages
        done = subprocess.run(
            command, env=environment, cwd=elsewhere, capture_output=True, text=True, check=True
        )
    return int(done.stdout)
