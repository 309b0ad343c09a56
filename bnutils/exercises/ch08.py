"""Checkers of chapter 8: training the article's network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bnutils.exercises import as_array, close, exercise, find_remark, is_tuple_of


@exercise("08.1")
def parameters(answer):
    """Weights of every Linear, gamma and beta per hidden unit, the last bias."""
    for sizes in ((784, 512, 256, 10), (3, 5, 2), (4, 7, 6, 5, 3)):
        n = answer(sizes)
        weights = sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
        hidden, last = sum(sizes[1:-1]), sizes[-1]
        mistakes = {
            "a Linear before a batch norm has no bias here": (
                weights + 3 * hidden + last
            ),
            "running statistics are not trained": weights + 4 * hidden + last,
            "each channel has a scale and a shift": weights + hidden + last,
            "the last Linear has a bias": weights + 2 * hidden,
            "each hidden width adds γ and β": weights + last,
        }
        otherwise = "some layer is counted wrong"
        if n in (weights + 2 * (hidden + last), weights + 2 * (hidden + last) + last):
            otherwise = "no batch norm after the last layer"
        remark = find_remark(n, weights + 2 * hidden + last, mistakes, otherwise)
        if remark:
            return f"{sizes} gives {n}: {remark}"
    return None


@exercise("08.2")
def paired(answer):
    """Mean and standard error of the differences, seed by seed."""
    a = np.array([0.981, 0.984, 0.979, 0.990])
    b = np.array([0.978, 0.982, 0.977, 0.985])
    result = answer(list(a), list(b))
    if not is_tuple_of(2, result) and np.shape(result) != (2,):
        return "return two numbers: the mean difference, then its standard error"
    mean, error = result
    gain = a - b
    spread = gain.std(ddof=1)
    if close(mean, -gain.mean()):
        return "the difference is a minus b"
    if not close(mean, gain.mean()):
        return "the first number is the mean of the differences"
    mistakes = {
        "that is the spread of single differences, not of their mean": spread,
        "four values, three degrees of freedom: which ddof?": gain.std() / 2,
        "that is the spread of single differences, and its ddof is 0": gain.std(),
        "that is a variance; the standard error is its root": spread**2 / 4,
        "subtract seed by seed first": np.hypot(a.std(ddof=1), b.std(ddof=1)) / 2,
    }
    otherwise = "the second number is not the standard error of the mean"
    return find_remark(error, spread / 2, mistakes, otherwise)


@exercise("08.3")
def confusion(answer):
    """Counts of true against predicted digit, in evaluation mode, side effects none."""
    net = nn.Sequential(nn.Linear(5, 10), nn.BatchNorm1d(10))
    net[1].running_mean.normal_()
    x, y = torch.randn(200, 5), torch.randint(10, (200,))
    before = net[1].running_mean.clone()
    with torch.no_grad():
        guess = net.eval()(x).argmax(1)
        in_training = nn.functional.batch_norm(net[0](x), None, None, training=True)
    right, swapped = torch.zeros(10, 10), torch.zeros(10, 10)
    by_batch = torch.zeros(10, 10)
    for digit, label, other in zip(y, guess, in_training.argmax(1), strict=True):
        right[digit, label] += 1
        swapped[label, digit] += 1
        by_batch[digit, other] += 1
    table = answer(net.train(), x.clone(), y.clone())
    if not torch.equal(net[1].running_mean, before):
        return "the running statistics have changed: predict in evaluation mode"
    if not net.training or not net[1].training:
        return "the network came in training mode and should leave in it"
    if answer(net.eval(), x, y) is None or net.training:
        return "the network came in evaluation mode and should leave in it"
    mistakes = {
        "rows are the true digits, columns the predictions": swapped,
        "these are predictions with the statistics of the batch": by_batch,
    }
    if as_array(table).shape != (10, 10):
        return f"the table has shape {as_array(table).shape}, but should be (10, 10)"
    if remark := find_remark(table, right, mistakes, "some counts are wrong"):
        return remark
    kind = getattr(table, "dtype", np.asarray(table).dtype)
    if "int" not in str(kind):
        return f"the counts are right, but of type {kind}: make it an integer table"
    return None
