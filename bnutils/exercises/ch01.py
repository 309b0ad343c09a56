"""Checkers of chapter 1: initial scale, stable rate, gradient, whitening."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import as_array, close, exercise, find_remark, gap


@exercise("01.1")
def init_std(answer) -> str | None:
    """Judge the initial std that keeps the mean square of a linear layer."""
    n = np.array([30.0, 700.0])
    result = [answer(30), answer(700)]
    gain = as_array(result) * n**0.5
    otherwise = (
        f"with 30 and 700 inputs the gain is {gain[0]:.3g} and {gain[1]:.3g}, not 1"
    )
    if close(result[0], result[1]):
        otherwise = (
            "it is the same for every fan_in; each output is a sum of fan_in terms"
        )
    mistakes = {
        "that is a variance; asked for is the standard deviation": 1 / n,
        "that suits ReLU, which cuts half of the power; here nothing is cut": (
            np.sqrt(2 / n)
        ),
        "that is the bound of a uniform distribution, not its std": np.sqrt(3 / n),
        "it grows with fan_in; with more terms in a sum each must be smaller": n**0.5,
    }
    return find_remark(result, n**-0.5, mistakes, otherwise)


@exercise("01.2")
def largest_rate(answer) -> str | None:
    """Judge the rate above which gradient descent on least squares diverges."""
    x = np.random.default_rng(12).normal((1, -2, 0.5), (1, 3, 0.2), size=(40, 3))
    low, *_, high = np.linalg.eigvalsh(x.T @ x / 40)
    centred = np.linalg.eigvalsh(np.cov(x, rowvar=False, bias=True))[-1]
    result = answer(x.copy())
    if as_array(result).ndim:
        return f"expected one number, got an array of shape {as_array(result).shape}"
    over = "above" if float(result) > 2 / high else "below"
    mistakes = {
        "a factor N is off: the loss averages over the examples": 2 / (40 * high),
        "that rate is stable, but it is not the largest that is": 1 / high,
        "the wrong eigenvalue decides: which direction diverges first?": 2 / low,
        "that is the rate of fastest convergence, not the limit": 2 / (low + high),
        "you centred the features; the loss takes them as they are": 2 / centred,
        "a singular value of the features is not an eigenvalue of their H": (
            2 / np.linalg.svd(x)[1][0]
        ),
        "that is the eigenvalue; how does the largest rate follow from it?": high,
    }
    factor = float(result) * high / 2
    otherwise = f"that is {over} the limit, by a factor of {factor:.3g}"
    return find_remark(result, 2 / high, mistakes, otherwise)


@exercise("01.3")
def centre_backward(answer) -> str | None:
    """Judge the gradient through x - mean, the mean constant or differentiated."""
    d = np.random.default_rng(13).normal(0.7, 1, size=(6, 4))
    constant, through = answer(d.copy(), False), answer(d.copy(), True)
    centred = d - d.mean(0)
    if close(constant, centred) and close(through, d):
        return "the two cases are swapped"
    if not close(constant, d):
        return "with the mean held constant, how much does x_hat change when x does?"
    mistakes = {
        "the gradient does not yet know that the mean depends on x": d,
        "you averaged over the channels; the mean is taken over the batch": (
            d - d.mean(1, keepdims=True)
        ),
        "you averaged over all values; each channel has its own mean": d - d.mean(),
        "each x makes up only one N-th of the mean": d - d.sum(0),
        "the sign of the second road is off: the mean is subtracted": d + d.mean(0),
        "only one of the two roads is there, the one through the mean": (
            np.broadcast_to(-d.mean(0), d.shape)
        ),
        "x enters through the mean of every example, not only its own": (
            d * (1 - 1 / len(d))
        ),
    }
    otherwise = f"through the mean, the largest error is {gap(through, centred):.2g}"
    return find_remark(through, centred, mistakes, otherwise)


@exercise("01.5")
def whiten(answer) -> str | None:
    """Judge a batch made white: mean 0, covariance identity, linear in the input."""
    rng = np.random.default_rng(15)
    mix = np.array([[2.0, 1, 0], [0, 1, -0.5], [0, 0, 0.3]])
    x = rng.normal(size=(50, 3)) @ mix + 4
    white = as_array(answer(x.copy()))
    if white.shape != x.shape:
        return f"expected shape {x.shape}, got {white.shape}"
    if not close(white.mean(0), np.zeros(3)):
        return "the channels do not have mean 0: centre before you rotate"
    covariance = white.T @ white / 50
    if close(covariance, np.eye(3)):
        centred = x - x.mean(0)
        linear = centred @ np.linalg.lstsq(centred, white, rcond=None)[0]
        return None if close(white, linear) else "white, but not linear in x"
    return _why_not_white(covariance, np.cov(x, rowvar=False, bias=True))


def _why_not_white(got: np.ndarray, raw: np.ndarray) -> str:
    """Say what is off, from the covariances of the answer and of the input."""
    if close(got, np.eye(3) * 49 / 50):
        return "the covariance divides by N - 1; here it divides by N"
    if close(got, np.eye(3) * got[0, 0]):
        return f"all variances are {got[0, 0]:.3g}: a factor is missing"
    if close(np.diag(got), np.ones(3)):
        return "every channel has variance 1, but the channels are still correlated"
    if close(np.sort(np.linalg.eigvalsh(got)), np.sort(1 / np.linalg.eigvalsh(raw))):
        return "you divided by the variances; which power of them makes the variance 1?"
    if close(got, np.diag(np.diag(got))):
        return "the channels are uncorrelated, but their variances are not 1"
    return "not the identity: eigenvectors are columns; is a transpose off?"
