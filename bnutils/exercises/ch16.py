"""Checkers of chapter 16: passes over memory, the affine form, moments of pieces."""

from __future__ import annotations

import torch

from bnutils.exercises import exercise, find_remark, is_tuple_of


@exercise("16.1")
def limit(answer):
    """Least time: (2 + 3) arrays of 4 * n bytes, over the bandwidth in bytes a second."""
    for n, bandwidth in ((1_000_000, 20e9), (12_845_056, 10e9)):
        value = float(answer(n, bandwidth))
        arrays = value * bandwidth / (4 * n)  # so many; seconds are tiny numbers
        mistakes = {
            "how many bytes has a float32?": 5 / 4,
            "that is the forward pass alone": 2,
            "that is the backward pass alone": 3,
            "the backward pass reads two arrays and writes one": 4,
            "that reads what is in the cache a second time": 8,
        }
        count = "count arrays read and written, forward and backward"
        remark = find_remark(arrays, 5, mistakes, f"{value:.3g} s; {count}")
        if remark:
            return f"for {n:,} values at {bandwidth / 1e9:g} GB/s: {remark}"
    return None


@exercise("16.2")
def affine(answer):
    """Evaluation as scale * x + shift."""
    g = torch.Generator().manual_seed(0)
    mean, weight, bias = torch.randn(3, 5, generator=g, dtype=torch.float64)
    var = torch.rand(5, generator=g, dtype=torch.float64) + 0.5
    eps = 0.1
    result = answer(*(v.clone() for v in (mean, var, weight, bias)), eps)
    if not is_tuple_of(2, result):
        return "return two tensors: scale and shift"
    scale, shift = result
    right = weight / (var + eps).sqrt()
    mistakes = {
        "the scale leaves out eps": weight / var.sqrt(),
        "the scale has eps outside the root": weight / (var.sqrt() + eps),
        "the scale leaves out the weight": right / weight,
    }
    remark = find_remark(scale, right, mistakes, name="the scale")
    mistakes = {
        "the mean is scaled, too, before it is subtracted": bias - mean,
        "the shift has the wrong sign of the mean": bias + mean * right,
    }
    return remark or find_remark(shift, bias - mean * right, mistakes, name="the shift")


@exercise("16.3")
def combine(answer):
    """Count, mean and sum of squared deviations of two pieces together."""
    g = torch.Generator().manual_seed(1)
    a = torch.randn(6, 3, generator=g, dtype=torch.float64)
    b = 4 + 2 * torch.randn(10, 3, generator=g, dtype=torch.float64)
    parts = [(len(p), p.mean(0), (p - p.mean(0)).square().sum(0)) for p in (a, b)]
    result = answer(*parts)
    if not is_tuple_of(3, result):
        return "return three values: count, mean, sum of squared deviations"
    n, mean, m2 = result
    both = torch.cat([a, b])
    if n != len(both):
        return f"the count is {n}; the two pieces hold 6 and 10 values"
    halves = (parts[0][1] + parts[1][1]) / 2
    mistakes = {"the mean: a piece counts by the number of its values": halves}
    remark = find_remark(mean, both.mean(0), mistakes, name="the mean")
    right = (both - both.mean(0)).square().sum(0)
    mistakes = {
        "the squares miss what differs between the pieces": parts[0][2] + parts[1][2],
        "return the sum of squared deviations, not the variance": right / len(both),
    }
    return remark or find_remark(m2, right, mistakes, name="the sum of squares")
