"""Checkers of chapter 6: the arguments of the constructor."""

from __future__ import annotations

import torch

from bnutils.exercises import as_array, close, exercise, gap


@exercise("06.1")
def from_keras(answer):
    """One minus the momentum given."""
    for momentum in (0.99, 0.9, 0.8):
        alpha = answer(momentum)
        if close(alpha, 1 - momentum):
            continue
        if close(alpha, momentum):
            return f"with {momentum} PyTorch would give the newest batch {momentum:.0%}"
        if close(alpha, 1 / momentum):
            return "a weight above 1 would overshoot each batch"
        return (
            f"for {momentum} the old value should keep {momentum}, not {1 - alpha:.4g}"
        )
    return None


@exercise("06.2")
def momentum_for(answer):
    """The momentum with (1 - momentum) ** k = 0.05."""
    for k in (5, 29, 300, 1):
        alpha = answer(k)
        if close(alpha, 1 - 0.05 ** (1 / k), 1e-7):
            continue
        at = f"for k = {k}"
        for wrong, remark in (
            (0.05 ** (1 / k), "that is the weight of the old value"),
            (1 - 0.95 ** (1 / k), "then the last k batches have 5 %, not 95 %"),
            (0.95 ** (1 / k), "the last k batches have 1 - (1 - momentum) ** k"),
            (3 / k, "3 / k is the approximation; solve the equation itself"),
        ):
            if close(alpha, wrong, 1e-7):
                return f"{at}: {remark}"
        weight = 1 - (1 - alpha) ** k
        return f"{at}: momentum {alpha:.4g} puts {weight:.1%} on the last k batches"
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
        if not isinstance(result, (tuple, list)) or len(result) != 2:
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
    if not close(new_weight, right):
        if close(new_weight, weight):
            return "the weight has not changed: where did gamma go?"
        if len(weight) == len(gamma) and close(new_weight, weight * gamma[:, None]):
            return "gamma scaled the rows (outputs); a channel is a column"
        if close(new_weight, weight / gamma):
            return (
                "the weight was divided by gamma; the output of the norm is multiplied"
            )
        return f"the weight is off by up to {gap(new_weight, right):.2g}"
    for wrong, remark in (
        (bias, "the bias has not changed: where did beta go?"),
        (weight @ beta, "the bias that was there is missing"),
        (right @ beta + bias, "beta is added after gamma: it is not scaled by it"),
        (
            weight.mT @ beta + bias if len(bias) == len(beta) else beta,
            "W is transposed",
        ),
        (beta + bias if len(bias) == len(beta) else beta, "beta passes through W"),
    ):
        if close(new_bias, wrong):
            return remark
    expected = weight @ beta + bias
    return None if close(new_bias, expected) else _off(new_bias, expected)


def _off(new_bias, expected):
    if as_array(new_bias).shape != tuple(expected.shape):
        return f"the bias should have shape {tuple(expected.shape)}"
    return f"the bias is off by up to {gap(new_bias, expected):.2g}"


@exercise("06.4")
def largest_eps(answer):
    """The eps with std / sqrt(std ** 2 + eps) = 0.99."""
    for std in (0.1, 2.0, 0.003):
        eps = answer(std)
        if close(eps / std**2, 1 / 0.99**2 - 1, 1e-9):
            continue
        for wrong, remark in (
            (std * (1 / 0.99 - 1), "that is for eps outside the root"),
            (
                std**2 * (1 / 0.99 - 1),
                "0.99 is a ratio of stds; under the root, square",
            ),
            (std * (1 / 0.99**2 - 1), "eps is added to the variance, not to the std"),
            (
                std**2 * (1 - 0.99**2),
                "check the algebra: what does 1 / 0.99 ** 2 equal?",
            ),
        ):
            if close(eps / std**2, wrong / std**2, 1e-9):
                return f"for std {std}: {remark}"
        if not eps > 0:
            return f"for std {std}: eps has to be positive"
        kept = std / (std**2 + eps) ** 0.5
        return f"for std {std}: eps {eps:.4g} leaves an output std of {kept:.6f}"
    return None
