"""Checkers of chapter 6: the arguments of the constructor."""

from __future__ import annotations

import torch

from bnutils.exercises import as_array, exercise, find_remark, gap, is_tuple_of


@exercise("06.1")
def from_keras(answer):
    """One minus the momentum given."""
    for momentum in (0.99, 0.9, 0.8):
        alpha = answer(momentum)
        kept = f"the old value should keep {momentum}, not {1 - alpha:.4g}"
        mistakes = {
            f"with {momentum} PyTorch would give the newest batch {momentum:.0%}": (
                momentum
            ),
            "a weight above 1 would overshoot each batch": 1 / momentum,
        }
        otherwise = f"for {momentum} {kept}"
        remark = find_remark(alpha, 1 - momentum, mistakes, otherwise)
        if remark:
            return remark
    return None


@exercise("06.2")
def momentum_for(answer):
    """The momentum with (1 - momentum) ** k = 0.01."""
    for k in (5, 44, 300, 1):
        alpha = answer(k)
        weight = 1 - (1 - alpha) ** k
        mistakes = {
            "that is the weight of the old value": 0.01 ** (1 / k),
            "then the last k batches have 1 %, not 99 %": 1 - 0.99 ** (1 / k),
            "the last k batches have 1 - (1 - momentum) ** k": 0.99 ** (1 / k),
            "4.6 / k is the approximation; solve the equation itself": 4.6 / k,
        }
        otherwise = f"momentum {alpha:.4g} puts {weight:.1%} on the last k batches"
        right = 1 - 0.01 ** (1 / k)
        remark = find_remark(alpha, right, mistakes, otherwise, tolerance=1e-7)
        if remark:
            return f"for k = {k}: {remark}"
    return None


@exercise("06.3")
def absorb(answer):
    """The weight with scaled columns, and the bias plus what beta adds."""
    generator = torch.Generator().manual_seed(0)
    for outputs, channels in ((4, 4), (3, 5)):
        gamma, beta, bias = (
            torch.randn(n, generator=generator, dtype=torch.float64)
            for n in (channels, channels, outputs)
        )
        weight = torch.randn(outputs, channels, generator=generator).double()
        given = [v.clone() for v in (gamma, beta, weight, bias)]
        result = answer(*given)
        if not is_tuple_of(2, result):
            return "return two tensors: the weight, then the bias"
        changed = any(
            not torch.equal(a, b)
            for a, b in zip(given, (gamma, beta, weight, bias), strict=True)
        )
        if changed:
            return "the tensors given were changed: return new ones"
        remark = _absorbed(*result, gamma, beta, weight, bias)
        if remark:
            return remark
    return None


def _absorbed(new_weight, new_bias, gamma, beta, weight, bias):
    """What is off in the new weight or bias, or None."""
    right = weight * gamma
    if as_array(new_weight).shape != tuple(weight.shape):
        return f"the weight should have shape {tuple(weight.shape)}"
    is_square = len(weight) == len(gamma)  # where a wrong axis gives the same shape
    mistakes = {
        "the weight has not changed: where did gamma go?": weight,
        "the weight was divided by gamma; the output of the norm is multiplied": (
            weight / gamma
        ),
    }
    if is_square:
        rows = "gamma scaled the rows (outputs); a channel is a column"
        mistakes[rows] = weight * gamma[:, None]
    off = f"the weight is off by up to {gap(new_weight, right):.2g}"
    remark = find_remark(new_weight, right, mistakes, off)
    mistakes = {
        "the bias has not changed: where did beta go?": bias,
        "the bias that was there is missing": weight @ beta,
        "beta is added after gamma: it is not scaled by it": right @ beta + bias,
    }
    if is_square:
        mistakes["W is transposed"] = weight.mT @ beta + bias
        mistakes["beta passes through W"] = beta + bias
    expected = weight @ beta + bias
    off = f"the bias is off by up to {gap(new_bias, expected):.2g}"
    if as_array(new_bias).shape != tuple(expected.shape):
        off = f"the bias should have shape {tuple(expected.shape)}"
    return remark or find_remark(new_bias, expected, mistakes, off)


@exercise("06.4")
def largest_eps(answer):
    """The eps with std / sqrt(std ** 2 + eps) = 0.99."""
    for std in (0.1, 2.0, 0.003):
        eps = answer(std)
        share = eps / std**2  # eps itself is smaller than any absolute tolerance
        mistakes = {
            "that is for eps outside the root": (1 / 0.99 - 1) / std,
            "0.99 is a ratio of stds; under the root, square": 1 / 0.99 - 1,
            "eps is added to the variance, not to the std": (1 / 0.99**2 - 1) / std,
            "check the algebra: what does 1 / 0.99 ** 2 equal?": 1 - 0.99**2,
        }
        otherwise = "eps has to be positive"
        if eps > 0:
            kept = std / (std**2 + eps) ** 0.5
            otherwise = f"eps {eps:.4g} leaves an output std of {kept:.6f}"
            if kept > 0.99:
                otherwise += ": a larger eps would still do"
        remark = find_remark(
            share, 1 / 0.99**2 - 1, mistakes, otherwise, tolerance=1e-9
        )
        if remark:
            return f"for std {std}: {remark}"
    return None
