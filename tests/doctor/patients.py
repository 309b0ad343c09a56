"""Models, data and loaders that several tests of the doctor share."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bnutils import doctor


def codes(*args):
    report = doctor.examine(*args)
    assert not report.notes, report.notes
    return report.codes


def net(*, bias=False, bn=nn.BatchNorm1d, width=8, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width, bias=bias),
        bn(width, **options),
        nn.ReLU(),
        nn.Linear(width, 3),
    )


def batches(n=8, size=32, shift=0.0, shape=(6,)):
    torch.manual_seed(1)
    return [shift + torch.randn(size, *shape) for _ in range(n)]


def trained(model=None, data=None, optimizer=None, passes=8):
    """A model after some steps, and its optimiser."""
    model = net() if model is None else model
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)
    for x in (data or batches()) * passes:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, optimizer


class Called(nn.Module):
    """A model whose forward is a function; not traceable with ``opaque``."""

    def __init__(self, function, *, opaque=False, **modules):
        super().__init__()
        self.function, self.opaque = function, opaque
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        if self.opaque and float(x.sum()) == 12345.0:  # a branch on data
            return x
        return self.function(self, x)


both = pytest.mark.parametrize("opaque", [False, True])


class Convolutional(nn.Sequential):
    def __init__(self, dimensions):
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
        torch.manual_seed(0)
        super().__init__(conv(2, 4, 3, bias=False), bn(4), nn.ReLU(), nn.Flatten())


def loader(n, size, **options):
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(n, 6), torch.zeros(n)), size, **options)


def used(channels=4, **options):
    """A batch norm that has seen batches and taken a step, so that it is not fresh."""
    bn = nn.BatchNorm1d(channels, **options)
    bn.num_batches_tracked.fill_(100)
    bn.running_mean.fill_(1.0)
    return stepped_once(bn)


def stepped_once(bn):
    """A batch norm whose beta was moved a little, as one step of training does it."""
    if bn.bias is not None:
        bn.bias.data[1] = 1e-3
    return bn


def standard(n=4096, channels=10):
    """Data of mean exactly 0 and variance exactly 1 per channel."""
    x = torch.randn(n, channels, generator=torch.Generator().manual_seed(0))
    x = x.double() - x.double().mean(0)
    return (x / x.var(0).sqrt()).float()


def stepped(model, steps, own=()):
    """An optimiser whose state says how many steps were taken."""
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {"step": torch.tensor(float(steps))}
    for p, n in own:
        optimizer.state[p] = {"step": torch.tensor(float(n))}
    return optimizer


Opaque = partial(Called, opaque=True)  # cannot be traced
