"""Checkers of chapter 2: the forward transform."""

from __future__ import annotations

import numpy as np

from bnutils.arrays import batch_norm_forward
from bnutils.exercises import close, exercise, find_remark, gap, is_tuple_of


@exercise("02.1")
def per_channel(answer):
    """Values per mean, and number of means."""
    for shape in ((6, 3), (6, 3, 5), (4, 3, 5, 7)):
        result = answer(shape)
        if not is_tuple_of(2, result) and np.shape(result) != (2,):
            return "return two numbers: m, then the number of means"
        m, means = result
        right = int(np.prod(shape)) // shape[1]
        if means != shape[1]:
            if (m, means) == (shape[1], right):
                return "m comes first, then the number of means"
            return f"{shape}: there is one mean per channel; which axis is that?"
        if m == shape[0] != right:
            return f"{shape}: the positions are averaged over as well"
        if m != right:
            return f"{shape}: {m} values per channel is wrong"
    return None


@exercise("02.2")
def batch_norm_last(answer):
    """Batch norm over (N, L) of an (N, L, C) input, L and C alike and not."""
    rng = np.random.default_rng(1)
    for shape in ((6, 5, 3), (6, 4, 4)):
        x = rng.normal(2, 3, size=shape) + rng.normal(size=shape[-1])
        weight, bias = rng.uniform(0.5, 2, shape[-1]), rng.normal(size=shape[-1])
        remark = _judge_last(answer, x, weight, bias)
        if remark:
            return remark
    return None


def _judge_last(answer, x, weight, bias):
    def last(axes, eps=1e-2, ddof=0, eps_outside=False):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)
        std = np.sqrt(var) + eps if eps_outside else np.sqrt(var + eps)
        return weight * (x - mean) / std + bias

    y = answer(x.copy(), weight.copy(), bias.copy(), 1e-2)
    if np.shape(y) != np.shape(x):
        return f"the output has shape {np.shape(y)}, the input {np.shape(x)}"
    right = last((0, 1))
    mistakes = {
        "the positions are averaged over, too": last((0,)),
        "that has one mean per example: average over examples, too": last((1,)),
        "that averages over the channels: layer norm": last((2,)),
        "that averages over the channels; they come last here": last((0, 2)),
        "the unbiased variance does not normalise": last((0, 1), ddof=1),
        "eps stands inside the root": last((0, 1), eps_outside=True),
        "the argument eps is not used": last((0, 1), eps=1e-5),
        "weight and bias are missing": (right - bias) / weight,
    }
    if any(close(y, wrong) for wrong in _reshaped(x, weight, bias)):
        return "reshape does not move an axis; swapaxes does"
    otherwise = f"the largest error is {gap(y, right):.2g}"
    return find_remark(y, right, mistakes, otherwise)


def _reshaped(x, weight, bias):
    """What comes out when reshape stands in the place of a swap of axes."""
    n, length, channels = x.shape
    swapped = x.swapaxes(1, 2)
    there = batch_norm_forward(x.reshape(n, channels, length), weight, bias, 1e-2)
    right_there = batch_norm_forward(swapped, weight, bias, 1e-2)
    return [there.reshape(x.shape), there.swapaxes(1, 2), right_there.reshape(x.shape)]


class _Tracked(np.ndarray):
    """An array that notes when it is averaged; what is computed from it does not."""

    averaged: list | None = None

    def _note(self) -> np.ndarray:
        if self.averaged is not None:
            self.averaged.append(True)
        return self.view(np.ndarray)

    def mean(self, *args, **kwargs):
        return self._note().mean(*args, **kwargs)

    def sum(self, *args, **kwargs):
        return self._note().sum(*args, **kwargs)

    def var(self, *args, **kwargs):
        return self._note().var(*args, **kwargs)

    def std(self, *args, **kwargs):
        return self._note().std(*args, **kwargs)


@exercise("02.3")
def shifted_variance(answer):
    """Biased variance in float32, from two sums of shifted values."""
    rng = np.random.default_rng(2)
    averaged = []
    for offset in (0, 1e2, 1e6, np.resize([0, 1e3, 1e6], 20)):
        noise = rng.normal(size=(256, 20)) * rng.uniform(0.5, 4, 20)
        x = (noise + offset).astype(np.float32)
        exact = x.astype(np.float64).var(0)
        tracked = x.copy().view(_Tracked)
        tracked.averaged = averaged
        remark = _judge_variance(np.asarray(answer(tracked)), exact, offset)
        if remark:
            break
    # The one-pass formula for x itself averages x, too, but in the same pass.
    if averaged and not (remark and remark.endswith(_LARGE)):
        return "x itself is averaged: that is a second pass"
    return remark


_LARGE = ": are the numbers you square small?"


def _judge_variance(var, exact, offset):
    if var.shape != exact.shape:
        return f"the result has shape {var.shape}, one per channel is {exact.shape}"
    if var.dtype != np.float32:
        return f"stay in float32: the result has dtype {var.dtype}"
    if close(var, exact, 1e-3):
        return None
    if close(var, exact * 256 / 255, 1e-4):
        return "that is the unbiased variance"
    if close(var, np.sqrt(exact), 1e-3):
        return "that is the standard deviation"
    if np.ndim(offset):  # what comes so far is right where all means are equal
        return "with channel means 0, 1e3 and 1e6: each channel needs its own number"
    error = gap(var, exact)
    remark = f"at a mean of {offset:g} the largest error is {error:.2g}"
    # Squares of numbers as large as the mean lose digits in proportion to its square.
    return remark if error <= 1e-8 * offset**2 or not offset else remark + _LARGE


@exercise("02.4")
def undo(answer):
    """Weight and bias that make batch norm the identity on one batch."""
    rng = np.random.default_rng(3)
    eps = 1e-3
    for shape in ((8, 3), (8, 3, 5)):
        scale = np.array([0.01, 1, 20]).reshape(3, *(1,) * (len(shape) - 2))
        x = 4 + scale * rng.normal(size=shape)
        weight, bias = (np.asarray(v) for v in answer(x.copy(), eps))
        if weight.shape != (3,) or bias.shape != (3,):
            return f"shapes {weight.shape} and {bias.shape}; both should be (3,)"
        axes = (0, *range(2, x.ndim))
        if close(batch_norm_forward(x, weight, bias, eps), x):
            continue
        if not close(bias, x.mean(axes)):
            return "the bias should bring back what was subtracted"
        if close(weight, x.std(axes)):
            return "right for eps = 0: channels of tiny variance come back too small"
        if close(weight**2, x.var(axes, ddof=1) + eps):
            return "the variance that normalises is the biased one"
        return "the weight should bring back what was divided by"
    return None
