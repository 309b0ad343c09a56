"""Checkers of chapter 3: backward passes by hand, held against PyTorch's autograd."""

from __future__ import annotations

import numpy as np
import torch

from bnutils.exercises import (
    as_array,
    close,
    exercise,
    find_mistake,
    gap,
    is_tuple_of,
)

EPS = 0.1  # large, so that an eps in the wrong place shows
_TRAINING = (
    "dx: the terms with means over the batch belong there in training only; "
    "stored statistics do not depend on x"
)


def _batch(*shape: int) -> tuple[np.ndarray, ...]:
    """A gradient, an input and a weight, none of them centred or near 1."""
    rng = np.random.default_rng(3)
    weight = np.array([0.5, -1.5, 2.0, 3.0])
    return rng.normal(0.7, 1, shape), rng.normal(1.5, 2, shape), weight


def _off(name: str, result, expected: np.ndarray) -> str:
    """Say that a gradient has the wrong shape or by how much it is off."""
    shape = as_array(result).shape
    if shape != expected.shape:
        return f"{name} has shape {shape}; a gradient has its value's: {expected.shape}"
    return f"{name}: the largest error is {gap(result, expected):.2g}"


def _judge(result, names, expected, mistakes) -> str | None:
    """Compare the gradients in turn, each with its typical mistakes."""
    if not is_tuple_of(len(expected), result):
        return f"return a gradient for each of: {names}"
    for name, got, right, wrong in zip(names.split(), result, expected, mistakes):
        if not close(got, right):
            return find_mistake(got, wrong) or _off(f"d{name}", got, right)
    return None


@exercise("03.1")
def affine_gradients(answer) -> str | None:
    """Judge dweight and dbias for (N, C) and (N, C, L)."""
    for shape in ((6, 4), (6, 4, 3)):
        dy, x_hat, _ = _batch(*shape)
        axes = (0, *range(2, dy.ndim))
        terms = {"weight": dy * x_hat, "bias": dy}
        expected = [each.sum(axes) for each in terms.values()]
        result = answer(dy.copy(), x_hat.copy())
        if not is_tuple_of(2, result):
            return "return a gradient for each of: weight bias"
        if close(result[0], expected[1]) and close(result[1], expected[0]):
            return f"for shape {shape}: the two are swapped"
        mistakes = [_of_sum(f"d{name}", each, axes) for name, each in terms.items()]
        remark = _judge(result, "weight bias", expected, mistakes)
        if remark:
            return f"for shape {shape}: {remark}"
    return None


def _of_sum(name: str, each: np.ndarray, axes: tuple) -> dict[str, np.ndarray]:
    """What may go wrong when terms are summed over all axes but the channels'."""
    m = each.size // each.shape[1]
    mistakes = {
        "that is the mean over the batch; used m times means add": each.sum(axes) / m,
        "each channel has its own; you summed over the channels too": each.sum(),
        "you summed over the channels; rule 3 sums over the batch": each.sum(1),
        "the positions are summed like the examples": each.sum(0),
        "not summed yet: one value per channel was used for all m": each,
    }
    return {f"{name}: {remark}": wrong for remark, wrong in mistakes.items()}


@exercise("03.2")
def eval_backward(answer) -> str | None:
    """Judge the gradients with stored statistics."""
    dy, x, weight = _batch(7, 4)
    mean, var = np.array([1.0, 0, -1, 2]), np.array([0.5, 2, 4, 0.2])
    result = answer(*(v.copy() for v in (dy, x, weight, mean, var)), EPS)
    std = np.sqrt(var + EPS)
    x_hat = (x - mean) / std
    expected = (weight / std * dy, (dy * x_hat).sum(0), dy.sum(0))
    of_dx = {
        "weight is missing from dx": dy / std,
        "dx: that is the batch's variance": weight / np.sqrt(x.var(0) + EPS) * dy,
        "dx: eps belongs inside the root": weight / (np.sqrt(var) + EPS) * dy,
        "dx: the line divides by the standard deviation": weight / (var + EPS) * dy,
        _TRAINING: weight * _closed(dy, x, 0),
        "dx: the argument eps is not used": weight / np.sqrt(var) * dy,
        "dx: another eps is used than the argument": weight / np.sqrt(var + 1e-5) * dy,
        "dx: no road leads through a stored mean": weight / std * (dy - dy.mean(0)),
    }
    if is_tuple_of(3, result):  # the formula with what is stored put into it
        rest = dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0)
        if close(result[0], weight / std * rest):
            return _TRAINING
    of_dweight = {
        "dweight: the argument eps is not used": (
            (dy * (x - mean)).sum(0) / np.sqrt(var)
        ),
        "dweight uses x; weight multiplies the normalised x": (dy * x).sum(0),
        "dweight normalises x with the batch's statistics": (
            (dy * _direction(x, 0)).sum(0)
        ),
        "dweight is a mean; used N times means add": (dy * x_hat).mean(0),
    }
    of_dbias = {
        "dbias is a mean; used N times means add": dy.mean(0),
    }
    return _judge(result, "x weight bias", expected, (of_dx, of_dweight, of_dbias))


@exercise("03.3")
def scale_backward(answer) -> str | None:
    """Judge the gradient through x / sqrt(mean(x^2) + eps)."""
    d, x, _ = _batch(7, 4)
    result = answer(d.copy(), x.copy(), EPS)
    x_t = torch.from_numpy(x).requires_grad_()
    s_t = torch.sqrt(x_t.square().mean(0) + EPS)
    (expected,) = torch.autograd.grad(x_t / s_t, x_t, torch.from_numpy(d))
    s = s_t.detach().numpy()
    x_hat = x / s

    def with_eps(eps):
        s = np.sqrt((x**2).mean(0) + eps)
        return (d - x / s * (d * x / s).mean(0)) / s

    along = (d * x_hat).mean(0)
    of_dx = {
        "only the direct road; x also enters through s": d / s,
        "only the road through s is there": -x_hat * along / s,
        "without centring, no mean is subtracted": (d - d.mean(0) - x_hat * along) / s,
        "that is the full transform's; here no mean is taken out": _closed(d, x, 0),
        "one x is one N-th of the mean square": (d - x_hat * along * len(x)) / s,
        "the sign of the road through s is off: s divides": (d + x_hat * along) / s,
        "the second term holds x_hat, not x: a factor s is off": (d - x * along) / s,
        "the argument eps is not used": with_eps(0),
        "another eps is used than the argument": with_eps(1e-5),
        "a factor 2 is off; the root has a 1/2": (d - 2 * x_hat * along) / s,
    }
    return _judge((result,), "x", (as_array(expected),), (of_dx,))


@exercise("03.4")
def layer_norm_backward(answer) -> str | None:
    """Judge the gradients of layer normalisation."""
    dy, x, weight = _batch(7, 4)
    result = answer(dy.copy(), x.copy(), weight.copy(), EPS)
    x_t, w_t, b_t = (
        torch.from_numpy(v).requires_grad_() for v in (x, weight, np.zeros(4))
    )
    y = torch.nn.functional.layer_norm(x_t, (4,), w_t, b_t, EPS)
    grads = torch.autograd.grad(y, (x_t, w_t, b_t), torch.from_numpy(dy))
    g, x_hat = weight * dy, _direction(x, 1)
    of_dx = {
        "weight differs along the axis of the means": weight * _closed(dy, x, 1),
        "weight is missing from dx": _closed(dy, x, 1),
        "that is batch norm: the statistics belong to each example": _closed(g, x, 0),
        "the statistics are held constant": g / np.sqrt(x.var(1, keepdims=True) + EPS),
    }
    of_dweight = {
        "dweight normalises over the batch": (dy * _direction(x, 0)).sum(0),
        "dweight still has the factor weight in it": (g * x_hat).sum(0),
        "one weight serves all examples: sum dweight over them": (dy * x_hat).sum(1),
    }
    of_dbias = {
        "one bias serves all examples: sum dbias over them": dy.sum(1),
        "dbias still has the factor weight in it": g.sum(0),
    }
    expected = [as_array(grad) for grad in grads]
    return _judge(result, "x weight bias", expected, (of_dx, of_dweight, of_dbias))


def _direction(x: np.ndarray, axis: int) -> np.ndarray:
    """The normalised x along one axis."""
    std = np.sqrt(x.var(axis, keepdims=True) + EPS)
    return (x - x.mean(axis, keepdims=True)) / std


def _closed(g: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """The gradient g taken back through the normalisation along one axis."""
    x_hat = _direction(x, axis)
    rest = g - g.mean(axis, keepdims=True)
    rest = rest - x_hat * (g * x_hat).mean(axis, keepdims=True)
    return rest / np.sqrt(x.var(axis, keepdims=True) + EPS)
