"""Checkers of chapter 16: passes over memory, the affine form, moments of pieces."""

from __future__ import annotations

import math

import torch

from bnutils.exercises import close, exercise, gap


@exercise("16.1")
def limit(answer):
    """Least time: (2 + 3) arrays of 4 * n bytes, over the bandwidth in bytes a second."""
    for n, bandwidth in ((1_000_000, 20e9), (12_845_056, 10e9)):
        value = float(answer(n, bandwidth))
        right = 5 * 4 * n / bandwidth
        at = f"for {n:,} values at {bandwidth / 1e9:g} GB/s"
        if math.isclose(value, right, rel_tol=1e-6):
            continue
        if math.isclose(value, right / 4, rel_tol=1e-6):
            return f"{at}: how many bytes has a float32?"
        for arrays, remark in (
            (2, "that is the forward pass alone"),
            (3, "that is the backward pass alone"),
            (4, "the backward pass reads two arrays and writes one"),
            (8, "that reads what is in the cache a second time"),
        ):
            if math.isclose(value, right * arrays / 5, rel_tol=1e-6):
                return f"{at}: {remark}"
        return (
            f"{at}: {value:.3g} s; count arrays read and written, forward and backward"
        )
    return None


@exercise("16.2")
def affine(answer):
    """Evaluation as scale * x + shift."""
    g = torch.Generator().manual_seed(0)
    mean, weight, bias = torch.randn(3, 5, generator=g, dtype=torch.float64)
    var = torch.rand(5, generator=g, dtype=torch.float64) + 0.5
    eps = 0.1
    result = answer(*(v.clone() for v in (mean, var, weight, bias)), eps)
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "return two tensors: scale and shift"
    scale, shift = result
    right = weight / (var + eps).sqrt()
    if close(scale, weight / var.sqrt()):
        return "the scale leaves out eps"
    if close(scale, weight / (var.sqrt() + eps)):
        return "the scale has eps outside the root"
    if close(scale, right / weight):
        return "the scale leaves out the weight"
    if not close(scale, right):
        return f"the scale is off by {gap(scale, right):.3g}"
    if close(shift, bias - mean):
        return "the mean is scaled, too, before it is subtracted"
    if close(shift, bias + mean * right):
        return "the shift has the wrong sign of the mean"
    if not close(shift, bias - mean * right):
        return f"the shift is off by {gap(shift, bias - mean * right):.3g}"
    return None


@exercise("16.3")
def combine(answer):
    """Count, mean and sum of squared deviations of two pieces together."""
    g = torch.Generator().manual_seed(1)
    a = torch.randn(6, 3, generator=g, dtype=torch.float64)
    b = 4 + 2 * torch.randn(10, 3, generator=g, dtype=torch.float64)
    parts = [(len(p), p.mean(0), (p - p.mean(0)).square().sum(0)) for p in (a, b)]
    result = answer(*parts)
    if not isinstance(result, tuple | list) or len(result) != 3:
        return "return three values: count, mean, sum of squared deviations"
    n, mean, m2 = result
    both = torch.cat([a, b])
    if n != len(both):
        return f"the count is {n}; the two pieces hold 6 and 10 values"
    if close(mean, (parts[0][1] + parts[1][1]) / 2):
        return "the mean: a piece counts by the number of its values"
    if not close(mean, both.mean(0)):
        return f"the mean is off by {gap(mean, both.mean(0)):.3g}"
    right = (both - both.mean(0)).square().sum(0)
    if close(m2, parts[0][2] + parts[1][2]):
        return "the squares miss what differs between the pieces"
    if close(m2, right / len(both)):
        return "return the sum of squared deviations, not the variance"
    if not close(m2, right):
        return f"the sum of squares is off by {gap(m2, right):.3g}"
    return None
