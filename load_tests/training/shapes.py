"""Shapes of Llamas with random weights, and what a step of theirs needs in floating-point operations.

It trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

SEED = 3
ShapeName = Literal["tiny", "1b"]


@dataclass(frozen=True)
class Shape:
    """A Llama; the output shares its weights with the embedding."""

    vocabulary: int
    hidden_size: int
    inner_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int

    def config(self) -> Any:
        """As transformers has it; attention is PyTorch's `scaled_dot_product_attention`."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden_size,
            intermediate_size=self.inner_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            attn_implementation="sdpa",
        )

    def build(self) -> Any:
        """The model in fp32, with the same random weights each time."""
        import torch
        from transformers import LlamaForCausalLM

        torch.manual_seed(SEED)
        return LlamaForCausalLM(self.config())

    @property
    def num_parameters(self) -> int:
        """Those of the embedding count once."""
        head_size = self.hidden_size // self.num_heads
        attention = 2 * self.hidden_size * head_size * (self.num_heads + self.num_key_value_heads)
        layer = attention + 3 * self.hidden_size * self.inner_size + 2 * self.hidden_size
        return self.vocabulary * self.hidden_size + self.num_layers * layer + self.hidden_size

    def flops_a_step(self, batch_size: int, length: int) -> float:
        """Forward and backward of `batch_size` examples of `length` tokens, as `training.flops` counts.

        Each matrix is multiplied once forward and twice backward; attention counts all pairs of positions,
        as the literature on utilisation does (PaLM, arXiv:2204.02311, appendix B). What is computed again
        does not count.
        """
        multiplied = self.num_parameters - (2 * self.num_layers + 1) * self.hidden_size  # but the norms
        attention = 4 * length * self.hidden_size * self.num_layers
        return 3.0 * batch_size * length * (2 * multiplied + attention)


SHAPES: dict[str, Shape] = {
    "tiny": Shape(512, 64, 160, 2, 4, 2),
    "1b": Shape(32_768, 2048, 8192, 16, 32, 8),
}
