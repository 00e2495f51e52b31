"""A small network that tells from the cells next to a border, noised, whether something was pasted in there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32
FREQUENCIES = 4


class SeamNetwork(nn.Module):
    """A CutMix image or a plain one? Answers by what crosses a border at a known place; all else is hidden from it.

    What an image shows as a whole (two objects, one of them small) tells the two kinds apart at any noise, and is what
    training is to learn from; so the network sees the cells next to the border alone, and can weigh them one by one.
    """

    def __init__(self, channels: int) -> None:
        """Take the number of channels of the latents; the initial answer is 0.5."""
        super().__init__()
        self.across = nn.Conv2d(channels + 1, WIDTH, 3, padding=1)
        self.cell = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.noise_level = nn.Linear(2 * FREQUENCIES + 1, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.answer = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)

    def forward(self, x: Tensor, alpha_bar: Tensor, near: Tensor, inside: Tensor) -> Tensor:
        """Return the log-odds (B,) that x (B, C, H, W), noised to alpha_bar (B,) and of about unit power, is mixed.

        near, inside: (B, H, W) bool, the cells next to the border, and those within the box. Samples without a border
        get 0. The answer fades with the signal, as the best one does.
        """
        ring = near[:, None].to(x.dtype)  # (B, 1, H, W)
        side = torch.where(inside[:, None], ring, -ring)
        steps = self.across(torch.cat([x * ring, side], 1))  # (B, W, H, W)
        features = torch.cat([steps, (steps.square() + 1e-3).log()], 1)  # a border's height matters, not its sign
        level = torch.logit(alpha_bar, 1e-4)[:, None] / 4
        angles = level * torch.arange(1, FREQUENCIES + 1, device=x.device)
        noise_level = self.noise_level(torch.cat([angles.cos(), angles.sin(), level], 1))
        cells = F.gelu(self.cell(features) + noise_level[:, :, None, None])
        seen = (cells * ring).sum((2, 3)) / ring.sum((2, 3)).clamp_min(1)  # (B, W)
        answer = self.answer(F.gelu(self.hidden(seen))).squeeze(1) * alpha_bar.sqrt()
        return torch.where(near.any(2).any(1), answer, 0.0)
