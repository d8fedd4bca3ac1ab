"""A denoiser whose answer is known."""

import torch
from torch import Tensor


class FixedPrediction(torch.nn.Module):
    """A U-Net whose prediction is given."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, noisy: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> "FixedPrediction":
        return self

    @property
    def sample(self) -> Tensor:
        return self.prediction
