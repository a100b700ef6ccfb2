"""The network. B batch, H and W height and width (8), C classes."""

from __future__ import annotations

import torch
from torch import nn

from mizzen_digits.config import MAX_PIXEL, NUM_CLASSES


class DigitsNetwork(nn.Module):
    """Two convolutions, the second with half the resolution, and two linear layers."""

    def __init__(self, num_channels: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, num_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(num_channels, 2 * num_channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * num_channels * 4 * 4, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, NUM_CLASSES),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters: with `training.precision: bf16` it is not that of the images."""
        return next(self.parameters()).dtype

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of images (B, H, W) with pixels from 0 to 16."""
        logits_BC: torch.Tensor = self.layers((image.unsqueeze(1) / MAX_PIXEL).to(self.dtype))
        return logits_BC
