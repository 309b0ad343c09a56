"""Both models run on an example; outputs that differ by more than rounding are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from trained import Branching, alive, data, wide_pair

from bnutils import deploy
from bnutils.deploy import example


def test_an_example_is_compared():
    model = alive(Branching())
    assert deploy.fold(model, data(5, 4)).report.error < 1e-12
    inside = alive(Branching(reach_inside=True))
    with pytest.raises(ValueError, match="not the one that runs"):
        deploy.fold(inside, data(5, 4))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, left, right):
        return self.bn(self.fc(left + right))


@pytest.mark.parametrize(
    ("example", "call"),
    [
        ((data(5, 4), data(5, 4)), None),
        ({"left": data(5, 4), "right": data(5, 4)}, None),
        ((data(5, 4), data(5, 4), torch.zeros(5)), None),
        (data(5, 4), lambda model, x: model(x, right=x)),
    ],
    ids=["inputs", "names", "inputs and labels", "call"],
)
def test_an_example_is_whatever_a_loader_gives(example, call):
    report = deploy.fold(alive(TwoInputs()), example, call=call).report
    assert 0 <= report.error < 1e-12
    assert len(report.folded) == 1
    with pytest.raises(TypeError, match="needs 2 inputs"):
        deploy.fold(alive(TwoInputs()), data(5, 4))


def test_a_model_that_writes_into_its_input_sees_the_same_example_twice():
    model = alive(nn.Sequential(nn.Hardtanh(inplace=True), *wide_pair(torch.float64)))
    x = 3 * data(5, 40)
    before = x.clone()
    assert deploy.fold(model, x).report.error < 1e-9
    assert torch.equal(x, before)


def test_the_example_runs_without_a_graph():
    class Looks(nn.Module):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return x

    seen = []
    deploy.fold(nn.Sequential(*wide_pair(), Looks()).eval(), torch.randn(3, 40))
    assert seen[-2:] == [False, False]  # before and after


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([], [], 0.0),
        ([math.inf, math.nan, 1.0], [math.inf, math.nan, 1.0], 0.0),
        ([1.0, -4.0], [1.0, -4.0 + 2**-10], 2**-12),
        ([1.0, -4.0], [1.0, -4.0 - 2**-10], 2**-12),
        ([2**-10, 0.25], [0.0, 0.25], 2**-8),
        ([2**-20], [2**-20 + 2**-30], 2**-10),
    ],
)
def test_error_is_the_largest_difference_over_the_largest_output(before, after, error):
    before, after = torch.tensor(before), torch.tensor(after)
    if error <= 1e-3:
        assert example.require_same(before, after) == error
        assert example.require_same([before], [after]) == error
        assert example.require_same((0, {"y": before}), (0, {"y": after})) == error
    else:
        for a, b in ((before, after), ([before], [after])):
            with pytest.raises(ValueError, match=f"differ by {error:.1e}"):
                example.require_same(a, b)


@pytest.mark.parametrize(
    ("dtype", "fine", "wrong"),
    [
        (torch.float64, 2**-31, 2**-29),
        (torch.float32, 2**-11, 2**-9),
        (torch.float16, 2**-4, 2**-3),
        (torch.bfloat16, 2**-4, 2**-3),
    ],
)
def test_what_rounding_may_change_depends_on_the_dtype(dtype, fine, wrong):
    one = torch.ones(2, dtype=dtype)
    assert example.require_same(one, one - fine) == fine
    for sign in (1, -1):
        with pytest.raises(ValueError, match="unfolded"):
            example.require_same(one, one + sign * wrong)


def test_the_loosest_of_several_dtypes_and_the_largest_difference_count():
    fine, coarse = torch.ones(1, dtype=torch.float64), torch.ones(1)
    after = {"a": fine, "b": (coarse + 2**-11,), "c": fine}
    before = {"a": fine, "b": (coarse,), "c": fine}
    assert example.require_same(before, after) == 2**-11
    with pytest.raises(ValueError, match="differ by"):
        example.require_same(before, {**after, "a": fine + 1})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.zeros(2), torch.tensor([0.0, 1e-9])),
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(1)),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
        ({"y": torch.ones(2)}, {}),
    ],
)
def test_outputs_that_no_ratio_compares_are_different(before, after):
    with pytest.raises(ValueError, match="differ by inf|argument 2"):
        example.require_same(before, after)


def test_outputs_that_are_no_floats_are_compared_too():
    yes, no = torch.tensor([True, False]), torch.tensor([False, False])
    assert example.require_same(yes, yes) == 0
    with pytest.raises(ValueError, match="differ by 1"):
        example.require_same(yes, no)
    assert example.require_same(None, None) == 0  # no tensor at all
