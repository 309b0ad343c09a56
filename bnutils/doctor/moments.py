"""Mean and variance of a batch norm's channels, with standard errors per image."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Moments:
    """Running sums over batches; an image, not a pixel, is the independent unit.

    Each image n gives two numbers per channel: the mean a_n of its values, and the mean
    s_n of their squares (both after subtracting a reference near the mean, so that
    nothing cancels). Pixels of one image depend on each other; images do not, so the
    standard errors of mean and variance come from the spread of a_n and s_n.
    """

    reference: Tensor | None = None
    sums: list[Tensor] = field(default_factory=list)  # of a, a², s, s², a·s
    images: int = 0
    means: list[Tensor] = field(default_factory=list)  # of batches
    variances: list[Tensor] = field(default_factory=list)  # of batches, unbiased
    sizes: list[int] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        """Take in one input, shape (N, C, ...)."""
        wide = x if x.dtype == torch.float64 else x.float()
        flat = wide.reshape(*x.shape[:2], -1)  # (N, C, P)
        n, _, positions = flat.shape
        if self.reference is None:
            self.reference = flat.mean((0, 2))
        z = flat - self.reference.view(1, -1, 1)
        a, s = (t.mean(2).double().cpu() for t in (z, z.square()))  # (N, C)
        new = [t.sum(0) for t in (a, a * a, s, s * s, a * s)]
        old = self.sums or [torch.zeros_like(t) for t in new]
        self.sums = [p + q for p, q in zip(old, new, strict=True)]
        m = n * positions
        self.images += n
        self.sizes.append(n)
        self.means.append(a.mean(0) + self.reference.double().cpu())
        self.variances.append((s.mean(0) - a.mean(0) ** 2) * (m / max(m - 1, 1)))

    @property
    def mean(self) -> Tensor:
        """Average of the batch means, shape (C,)."""
        return torch.stack(self.means).mean(0)

    @property
    def var(self) -> Tensor:
        """Average of the batches' unbiased variances, shape (C,)."""
        return torch.stack(self.variances).mean(0).clamp(min=0)

    def image_variances(self) -> tuple[Tensor, Tensor]:
        """How much an image's mean, and its share of the variance, vary over images."""
        a, aa, s, ss, as_ = (t / self.images for t in self.sums)
        scale = self.images / max(self.images - 1, 1)
        of_mean = aa - a * a
        of_var = (ss - s * s) - 4 * a * (as_ - a * s) + 4 * a * a * of_mean
        return (of_mean * scale).clamp(min=0), (of_var * scale).clamp(min=0)

    def errors(self, var: Tensor, memory: float) -> tuple[Tensor, Tensor]:
        """Standard error of (data - running) for mean and variance, shape (C,).

        ``var`` is the running variance; ``memory`` the variance of a running statistic in
        units of a batch's: α/(2 - α) for a moving average. Three precautions keep a rare
        large value from looking like a contradiction: a channel's relative spread is at
        least the layer's average, it is scaled by the larger of the two variances, and
        where batches scatter more than images explain, their own scatter counts.
        """
        found = []
        scale = torch.maximum(self.var, var.clamp(min=0))
        units = (self.var.clamp(min=1e-30), self.var.square().clamp(min=1e-30))
        sizes = (scale, scale.square())
        stacks = (self.means, self.variances)
        for i, per_image in enumerate(self.image_variances()):
            relative = torch.where(self.var > 1e-15, per_image / units[i], 0.0)
            spread = torch.maximum(relative, relative.mean()) * sizes[i]
            one = spread * (len(self.sizes) / self.images)
            if len(self.sizes) > 2:
                one = torch.maximum(one, torch.stack(stacks[i]).var(0))
            found.append((one * (1 / len(self.sizes) + memory)).sqrt())
        return found[0], found[1]

    def scatter(self) -> float:
        """Variance of batch means, relative to that of random batches; 1 if random."""
        stack = torch.stack(self.means)  # (batches, C)
        expected = self.image_variances()[0] * len(self.sizes) / self.images
        alive = expected > 1e-12 * (1 + self.mean.square())
        if len(self.sizes) < 3 or len(set(self.sizes)) > 1 or not alive.any():
            return 1.0
        return (stack.var(0)[alive] / expected[alive]).mean().item()
