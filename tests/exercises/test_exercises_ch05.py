"""The checkers of chapter 5: right answers pass, typical mistakes get their remark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solutions import judge
from torch import nn

from bnutils import exercises, norm
from bnutils.exercises import ch05

U = 2.0**-24


def size(x):
    return x.double().abs().sum().item()


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x: 1e-5, "the same for every x"),
        (lambda x: (len(x) - 1) * U * abs(x.double().sum().item()), "partial sums"),
        (lambda x: U * size(x), "how many additions"),
        (lambda x: 2 * U * size(x), "how many additions"),
        (lambda x: U * x.abs().max().item(), "how many additions"),
        (lambda x: len(x) ** 0.5 * U * size(x), "'any order' has a worst case"),
        (lambda x: len(x) * 2.0**-53 * size(x), "float64"),
        (lambda x: len(x) / 3 * U * size(x), "too small"),
        (lambda x: len(x) ** 2 * U * size(x), "hides real mistakes"),
        (lambda x: len(x) * U * len(x) * x.abs().max().item(), "hides real mistakes"),
        (lambda x: float("inf"), "finite"),
        (lambda x: -1.0, "negative"),
        (lambda x: 0 * x.sum() + 1e-30 * size(x), "too small"),
        (lambda x: abs(x.sum().item()), "1000 normal values"),
        (lambda x: None, "not answered yet"),
    ],
)
def test_sum_tolerance_names_the_mistake(answer, remark):
    assert remark in judge("05.1", answer)


@pytest.mark.parametrize("roundings", [lambda n: n - 1, lambda n: n, lambda n: 2 * n])
def test_sum_tolerance_accepts_a_factor_and_one_more(roundings):
    assert exercises.check("05.1", lambda x: roundings(len(x)) * U * size(x))


def test_sum_tolerance_accepts_a_tensor():
    def answer(x):
        eps = torch.finfo(torch.float32).eps
        return (len(x) - 1) * eps * x.abs().sum()

    assert exercises.check("05.1", answer)


def test_the_worst_case_of_sum_tolerance_happens():
    x = np.full(4096, U, dtype=np.float32)
    x[0] = 1
    in_turn = np.float32(0)
    for value in x:
        in_turn += value
    error = x.astype(float).sum() - in_turn
    assert error == pytest.approx(4095 * U * x.astype(float).sum(), rel=1e-3)


class Update(norm.BatchNorm1d):
    """An update assembled from right and wrong parts."""

    @torch.no_grad()
    def _update_running_stats(self, mean, var, m):
        if self.running_mean is None or m == 0:
            return
        factor, var = self.factor(), var * m / (m - self.bessel)
        for name, new in (("running_mean", mean), ("running_var", var)):
            old = getattr(self, name)
            value = ((1 - factor) * old + factor * new).to(old.dtype)
            self.store(name, value)

    bessel = 1

    def factor(self):
        if self.momentum is None:
            return 1 / float(self.num_batches_tracked)
        return self.momentum

    def store(self, name, value):
        getattr(self, name).copy_(value)


class Zero(Update):
    def factor(self):
        return self.momentum or 1 / float(self.num_batches_tracked)


class NoAverage(Update):
    def factor(self):
        return 0.1 if self.momentum is None else self.momentum


class NewTensor(Update):
    def store(self, name, value):
        setattr(self, name, value)


class Biased(Update):
    bessel = 0


for kind in (Zero, NoAverage, NewTensor, Biased):  # the method is in the class itself
    kind._update_running_stats = Update._update_running_stats


class Elsewhere(norm.BatchNorm1d):
    pass


def test_repaired_accepts_another_way_to_write_in_place():
    assert exercises.check("05.2", Update)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (Zero, "momentum=0 means that nothing moves"),
        (NoAverage, "momentum=None is the plain average"),
        (NewTensor, "who held the buffers"),
        (Biased, "still fails at 'running variance'"),
        (Elsewhere, "keep the one method"),
        (nn.BatchNorm1d, "not the repaired class"),
        (norm.BatchNorm1d, "not the repaired class"),
        (Update(3), "the class itself"),
        (..., "not answered yet"),
    ],
)
def test_repaired_names_the_mistake(answer, remark):
    assert remark in judge("05.2", answer)


def momentum_check(
    momentum=0.1, names=("running_mean", "running_var"), train=True, rtol=1e-5
):
    """A check with one thing wrong."""

    def answer(cls):
        layers = cls(50, momentum=momentum), nn.BatchNorm1d(50, momentum=momentum)
        x = 3 + 2 * torch.randn(16, 50)  # so many that some round differently
        for layer in layers:
            layer.train(train)(x)
        pairs = [[getattr(layer, name) for layer in layers] for name in names]
        return all(torch.allclose(a, b, rtol=rtol, atol=rtol) for a, b in pairs)

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (momentum_check(momentum=0.5), "reversed momentum passes"),
        (momentum_check(train=False), "reversed momentum passes"),
        (momentum_check(rtol=10.0), "reversed momentum passes"),
        (lambda cls: True, "reversed momentum passes"),
        (lambda cls: False, "PyTorch's own layer"),
        (lambda cls: cls is nn.BatchNorm1d, "this book's layer"),
        (momentum_check(rtol=0.0), "rounds differently"),
        (momentum_check(rtol=1e-7), "two in the last place"),
        (momentum_check(names=["running_var"]), "running mean alone"),
        (momentum_check(names=["running_mean"]), "running variance alone"),
        (lambda cls: 1.0, "True or False"),
        (lambda cls: None, "not answered yet"),
    ],
)
def test_momentum_check_names_the_mistake(answer, remark):
    torch.manual_seed(0)  # with other inputs two right layers can agree to the bit
    assert remark in judge("05.3", answer)


def test_momentum_check_accepts_a_tensor_free_bool_and_leaves_the_seed_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert exercises.check("05.3", lambda cls: np.bool_(momentum_check()(cls)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ch05._Reversed, {"running_mean", "running_var"}),
        (ch05._ReversedMean, {"running_mean"}),
        (ch05._ReversedVar, {"running_var"}),
    ],
)
def test_the_mutants_are_wrong_where_they_say(kind, wrong):
    x = 3 + 2 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    layer, reversed_, right = (
        kind(3),
        nn.BatchNorm1d(3, momentum=0.9),
        nn.BatchNorm1d(3),
    )
    for each in (layer, reversed_, right):
        each(x)
    for name in ("running_mean", "running_var"):
        expected = reversed_ if name in wrong else right
        torch.testing.assert_close(getattr(layer, name), getattr(expected, name))
