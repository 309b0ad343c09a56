"""Checkers of chapter 18: where batch norm goes."""

from __future__ import annotations

import math

from torch import nn

from bnutils.exercises import close, exercise, find_remark


def between() -> list[tuple[str, nn.Module, bool]]:
    """What may stand between a bias and batch norm, and whether the bias then matters."""
    return [
        ("nothing", nn.Identity(), False),
        ("a ReLU", nn.ReLU(), True),
        ("max pooling", nn.MaxPool1d(2), False),
        ("average pooling", nn.AvgPool1d(3), False),
        ("average pooling with zero padding", nn.AvgPool1d(3, padding=1), True),
        ("dropout", nn.Dropout(0.5), True),
        ("a sigmoid", nn.Sigmoid(), True),
        ("two poolings", nn.Sequential(nn.MaxPool1d(2), nn.AvgPool1d(2)), False),
    ]


@exercise("18.1")
def bias_matters(answer):
    """True where batch norm does not take the bias out again."""
    for name, layer, expected in between():
        found = answer(layer.train())
        if found not in (True, False):
            return f"return True or False; for {name} you return {found!r}"
        if bool(found) == expected:
            continue
        if name == "dropout":
            return "with dropout between: where a value is set to 0, its bias goes too"
        if name == "average pooling with zero padding":
            return f"with {name} between: the zeros at the edge get no bias"
        if expected:
            return f"with {name} between, the bias changes what leaves the batch norm"
        return (
            f"with {name} between, the bias moves all values of a channel alike: is the "
            "same draw of values used for both, and is the comparison not exact?"
        )
    return None


@exercise("18.2")
def variance_ratio(answer):
    """The variance with dropout over the variance without, from mean and variance."""
    for p, mean, var in ((0.2, -1.5, 0.5), (0.5, 0.4, 0.34)):
        ratio = answer(p, mean, var)
        second = (var + mean**2) / (1 - p)
        right = (second - mean**2) / var
        mistakes = {
            "evaluation over training is the other way round": 1 / right,
            "that is the variance in training; divide by that of evaluation": right
            * var,
            "the values that are kept are divided by 1 - p": (
                ((1 - p) * (var + mean**2) - ((1 - p) * mean) ** 2) / var
            ),
            "p is the share that is set to 0, not the one that is kept": (
                ((var + mean**2) / p - mean**2) / var
            ),
            "that holds for mean 0 only; a mean adds to it": 1 / (1 - p),
            "that is the second moment; subtract the squared mean": second / var,
            "the mean stays as it is under dropout": (
                (second - (mean / (1 - p)) ** 2) / var
            ),
        }
        remark = find_remark(ratio, right, mistakes, f"{ratio} is not the ratio")
        if remark:
            return f"for p = {p}, mean {mean}, variance {var}: {remark}"
    return None


def floor(classes: int, gamma: float, gap: float | None = None) -> float:
    """The loss at a gap between the right logit and the others."""
    gap = classes / math.sqrt(classes - 1) if gap is None else gap
    return math.log1p((classes - 1) * math.exp(-gamma * gap))


@exercise("18.3")
def loss_floor(answer):
    """Lowest loss behind a batch norm with one gamma for all classes."""
    for classes, gamma in ((10, 1.0), (2, 1.0), (100, 0.5), (10, 3.0)):
        found = answer(classes, gamma)
        root = math.sqrt(classes - 1)
        mistakes = {
            "γ multiplies the logits": floor(classes, 1.0) if gamma != 1 else math.inf,
            "the logit of a wrong class is not 0": floor(classes, gamma, root),
            "that is the probability of the right class": math.exp(
                -floor(classes, gamma)
            ),
            "count the wrong classes in the denominator": math.log1p(
                math.exp(-gamma * classes / root)
            ),
            "one in K values is high: its share is 1/K, not 1/2": floor(
                classes, gamma, 2.0
            )
            if classes != 2
            else math.inf,
        }
        remark = find_remark(found, floor(classes, gamma), mistakes)
        if remark and close(found, -floor(classes, gamma)):
            remark = "a loss is minus the logarithm, and not negative"
        if remark:
            return f"for {classes} classes and γ = {gamma}: {remark}"
    return None
