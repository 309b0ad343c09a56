"""Models in evaluation mode whose batch norms are not neutral, and outputs compared."""

from __future__ import annotations

import torch
from torch import nn


def alive(model: nn.Module, dtype=torch.float64) -> nn.Module:
    """The model in evaluation mode, with statistics and parameters that are not neutral."""
    g = torch.Generator().manual_seed(1)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=g))
            module.running_var.copy_(torch.rand(n, generator=g) + 0.3)
            for p in module.parameters():
                p.data.copy_(torch.randn(n, generator=g))
    return model.to(dtype).eval()


def gap(model, folded, *inputs) -> float:
    """Largest difference of two models' outputs, relative to the largest output."""
    with torch.no_grad():
        y, z = model(*inputs), folded(*inputs)
    return float((y - z).abs().max() / y.abs().max())


def data(*shape, dtype=torch.float64):
    """The same random input every time."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """A layer and a batch norm, joined by the function given."""

    def __init__(self, function, **modules):
        super().__init__()
        self.a, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def wide_pair(dtype=torch.float32):
    """Layer and batch norm, with statistics and parameters that are not neutral."""
    torch.manual_seed(0)
    layer, bn = nn.Linear(40, 30), nn.BatchNorm1d(30)
    for values in (bn.running_mean, bn.weight.data, bn.bias.data):
        values.normal_()
    bn.running_var.uniform_(1e-4, 1e-3)
    return nn.Sequential(layer, bn).to(dtype).eval()


class Backwards(nn.Module):
    """Registers its modules in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.norm_of_second = nn.BatchNorm1d(5)
        self.second, self.first = nn.Linear(4, 5), nn.Linear(3, 4)
        self.norm_of_first = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.norm_of_first(self.first(x)).relu()
        return self.norm_of_second(self.second(x))


class Branching(nn.Module):
    """Its forward depends on the data, so it cannot be traced as a whole."""

    def __init__(self, reach_inside=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])
        self.reach_inside = reach_inside

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        y = self.body(x)
        if self.reach_inside:
            y = y + self.body[0](x)
        for part in self.parts:
            y = part(y)
        return y


def keep_attribute(m, x):
    """A function for ``Net`` that leaves the layer's output where others may read it."""
    m.last = m.a(x)
    return m.bn(m.last)
