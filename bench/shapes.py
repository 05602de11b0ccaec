"""M, K and N of linear layers, by name: llama3-8b-down-m16 is (16, 14336, 4096).

They are of real models, and few of them for a CPU: a case has them for whoever names them.
"""

from dataclasses import dataclass

ROWS = (1, 16, 64, 512, 2048, 8192)  # M: a token, small batches of them, and prefill


@dataclass(frozen=True)
class Config:
    """What a model's config.json says of its linear layers."""

    source: str  # whose config.json, on huggingface.co
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    gated: bool = True  # its MLP multiplies two products

    def layers(self) -> dict[str, tuple[int, int]]:
        """Return (K, N) of each layer; those that read the same input are one, as in serving."""
        of_heads = self.heads * self.head_dim
        up = {"gate_up": 2 * self.intermediate} if self.gated else {"up": self.intermediate}
        return {
            "qkv": (self.hidden, of_heads + 2 * self.kv_heads * self.head_dim),
            "o": (of_heads, self.hidden),
            **{name: (self.hidden, outputs) for name, outputs in up.items()},
            "down": (self.intermediate, self.hidden),
        }


MODELS = {
    "llama3-8b": Config("meta-llama/Meta-Llama-3-8B", 4096, 14336, 32, 8, 128),
    "qwen2.5-7b": Config("Qwen/Qwen2.5-7B", 3584, 18944, 28, 4, 128),
    "smollm2-135m": Config("HuggingFaceTB/SmolLM2-135M", 576, 1536, 9, 3, 64),
    "smollm2-360m": Config("HuggingFaceTB/SmolLM2-360M", 960, 2560, 15, 5, 64),
    "smollm2-1.7b": Config("HuggingFaceTB/SmolLM2-1.7B", 2048, 8192, 32, 32, 64),
    "minilm": Config("sentence-transformers/all-MiniLM-L6-v2", 384, 1536, 12, 12, 32, gated=False),
}

MODEL_SHAPES = {
    f"{model}-{layer}-m{m}": (m, *sizes)
    for model, config in MODELS.items()
    for layer, sizes in config.layers().items()
    for m in ROWS
}

SQUARE = {"8192x8192x8192": (8192, 8192, 8192)}
FEW_ROWS = {f"{m}x8192x4096": (m, 8192, 4096) for m in (1, 2, 4, 8, 16, 32, 64)}

# In bfloat16, as models are served; those named by their sizes say so.
SERVED = {f"{name}-bf16": sizes for name, sizes in (SQUARE | FEW_ROWS).items()} | MODEL_SHAPES
