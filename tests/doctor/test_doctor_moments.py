"""Means and variances of what a batch norm received, with their errors, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from patients import (
    Called,
)
from torch import nn

from bnutils.doctor.moments import Moments
from bnutils.doctor.observe import observe


def moments_of(*batches):
    moments = Moments()
    for x in batches:
        moments.add(torch.as_tensor(x))
    return moments


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_are_those_of_numpy(dtype):
    rng = np.random.default_rng(0)
    x = 1000 + rng.normal(size=(4, 5, 3, 7)) * (1 + np.arange(5)[:, None, None])
    moments = moments_of(*torch.as_tensor(x, dtype=dtype))
    rtol = 1e-9 if dtype == torch.float64 else 2e-4  # inputs were rounded
    close = {"rtol": rtol, "atol": 0}
    np.testing.assert_allclose(moments.mean, x.mean((0, 1, 3)), **close)
    var = x.var((1, 3), ddof=1)  # of each batch
    np.testing.assert_allclose(moments.var, var.mean(0), **close)
    np.testing.assert_allclose(torch.stack(moments.means), x.mean((1, 3)), **close)
    np.testing.assert_allclose(torch.stack(moments.variances), var, **close)
    assert (moments.images, moments.sizes) == (20, [5] * 4)
    images = x.reshape(20, 3, 7)
    squares = (images - images.mean((0, 2))[:, None]) ** 2
    of_mean, of_var = moments.image_variances()
    np.testing.assert_allclose(of_mean, images.mean(2).var(0, ddof=1), **close)
    np.testing.assert_allclose(of_var, squares.mean(2).var(0, ddof=1), **close)


def test_batches_may_differ_in_size_and_one_value_has_no_variance():
    moments = moments_of(torch.ones(3, 2, 2), torch.ones(1, 2, 2), torch.ones(2, 2, 2))
    assert (moments.images, moments.sizes) == (6, [3, 1, 2])
    single = moments_of(torch.tensor([[5.0, 6.0]]))
    assert single.mean.tolist() == [5, 6]
    assert single.var.tolist() == [0, 0]
    assert [v.tolist() for v in single.image_variances()] == [[0, 0], [0, 0]]


def test_two_values_have_an_unbiased_variance():
    moments = moments_of(torch.tensor([[1.0], [-1.0]]))
    assert (moments.mean.item(), moments.var.item()) == (0, 2)
    assert moments.image_variances()[0].item() == 2


@pytest.mark.parametrize("value", [0.3, 0.7, 1.1])
def test_rounding_makes_no_variance_negative(value):
    """The square is rounded to float32, the mean is not."""
    moments = moments_of(torch.zeros(4, 1), torch.full((4, 1), value))
    assert moments.variances[1].item() < 0
    assert moments.var.item() == 0
    assert min(v.item() for v in moments.image_variances()) >= 0


ONE = [[[1.0]], [[-1.0]], [[1.0]], [[-1.0]]]  # four images of one value


@pytest.mark.parametrize(
    ("running", "memory", "expected"),
    [(4 / 3, 0.5, 2 / 7), (4 / 3, 0.0, 1 / 7), (8 / 3, 0.0, 2 / 7), (0.5, 0.0, 1 / 7)],
)
def test_standard_error_of_a_mean_by_hand(running, memory, expected):
    """Eight images, ±1: of variance 8/7, and a quarter of it for a batch's mean."""
    moments = moments_of(ONE, ONE)
    of_mean, of_var = moments.errors(torch.tensor([running]).double(), memory)
    assert of_mean.item() ** 2 == pytest.approx(expected)
    assert of_var.item() == 0  # all squares are alike


@pytest.mark.parametrize(("running", "factor"), [(20 / 3, 1), (40 / 3, 4), (1.0, 1)])
def test_standard_error_of_a_variance_by_hand(running, factor):
    """Squares 1 and 9, mean 5: shares vary by 16 · 8/7, means not at all."""
    batch = [[[1.0, -1.0]], [[3.0, -3.0]]] * 2
    moments = moments_of(batch, batch)
    assert moments.var.item() == pytest.approx(5 * 8 / 7)
    of_mean, of_var = moments.errors(torch.tensor([running]).double(), 0.0)
    size = max(running / (40 / 7), 1) ** 2
    assert of_mean.item() == 0
    assert of_var.item() ** 2 == pytest.approx(16 * 8 / 7 / 4 / 2 * size)


def test_a_calm_channel_has_at_least_the_average_relative_spread():
    """Channel 0 varies by image alone, channel 1 within images alone."""
    batch = [[[s, s], [2.0, -2.0]] for s in (1.0, -1.0, 1.0, -1.0)]
    moments = moments_of(batch, batch)
    assert moments.var.tolist() == pytest.approx([8 / 7, 32 / 7])
    of_mean, _ = moments.errors(torch.zeros(2).double(), 0.0)
    assert of_mean.square().tolist() == pytest.approx([1 / 7, 1 / 2 / 4 / 2 * 32 / 7])


def test_a_constant_channel_has_the_average_relative_spread_of_its_running_variance():
    """Relative spreads 8/7 over 4/3, and none: 3/7 on average, of a variance of 2."""
    batch = torch.cat([torch.tensor(ONE), torch.zeros(4, 1, 1)], 1)
    moments = moments_of(batch, batch)
    of_mean, _ = moments.errors(torch.tensor([1.0, 2.0]).double(), 0.0)
    assert of_mean.square().tolist() == pytest.approx([1 / 7, 3 / 7 * 2 / 4 / 2])


def test_where_batches_scatter_more_than_images_explain_the_scatter_counts():
    shifted = [torch.tensor(ONE) + s for s in (0.0, 30.0, -30.0)]
    of_mean, _ = moments_of(*shifted).errors(torch.ones(1).double(), 1.0)
    images = torch.cat(shifted).var().item() / 4
    assert images < 900  # the variance of the three batch means
    assert of_mean.item() ** 2 == pytest.approx(900 * (1 / 3 + 1))
    two = moments_of(*shifted[1:])
    images = torch.cat(shifted[1:]).double().var().item() / 4
    assert two.errors(torch.ones(1).double(), 0.0)[0].item() ** 2 == pytest.approx(
        images / 2
    )  # two batches tell nothing of their own


def test_scatter_of_batch_means_relative_to_that_of_random_batches():
    shifted = [torch.tensor(ONE).double() + s for s in (0.0, 3.0, -3.0)]
    images = torch.cat(shifted).var().item()
    assert moments_of(*shifted).scatter() == pytest.approx(9 / (images / 4))
    constant = [torch.cat([x, torch.ones(4, 1, 1)], 1) for x in shifted]
    assert moments_of(*constant).scatter() == pytest.approx(9 / (images / 4))
    assert moments_of(*shifted[:2]).scatter() == 1  # too few
    assert moments_of(*shifted, shifted[0][:2]).scatter() == 1  # of unequal size
    assert moments_of(*[torch.ones(4, 1)] * 3).scatter() == 1  # nothing varies


def test_what_a_norm_receives_is_noted_over_all_batches_and_calls():
    torch.manual_seed(0)
    model = Called(
        lambda m, x: m.pooled(m.conv(x).mean(2)) + m.bn(m.bn(m.conv(x))).mean(2),
        conv=nn.Conv1d(2, 3, 2),
        bn=nn.BatchNorm1d(3),
        pooled=nn.BatchNorm1d(3),
    )
    data = [torch.randn(4, 2, 6), torch.randn(4, 2, 6), torch.randn(2, 2, 6)]
    seen = observe(model, data).seen
    assert {path: (s.calls, s.shape, s.per_image) for path, s in seen.items()} == {
        "pooled": (1, (4, 3), 1),
        "bn": (2, (4, 3, 5), 5),
    }
    assert seen["pooled"].moments.sizes == [4, 4, 2]
    assert seen["bn"].moments.sizes == [4, 4, 4, 4, 2, 2]
    means = [model.conv(x).mean((0, 2)) for x in data]
    torch.testing.assert_close(
        seen["pooled"].moments.mean.float(), torch.stack(means).mean(0)
    )


def test_values_per_image_count_rows_made_of_one_image():
    model = Called(lambda m, x: m.bn(x.reshape(-1, 3)), bn=nn.BatchNorm1d(3))
    (one,) = observe(model, [torch.randn(4, 5, 3)]).seen.values()
    assert (one.shape, one.per_image) == ((20, 3), 5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_standard_errors_and_scatter_go_with_the_scale_of_the_data(scale):
    batches = torch.randn(4, 32, 3).double()
    one, other = moments_of(*batches), moments_of(*(scale * batches))
    for power, a, b in zip(
        (1, 2), one.errors(one.var, 0.1), other.errors(other.var, 0.1)
    ):
        torch.testing.assert_close(b, scale**power * a, rtol=1e-5, atol=0)
    assert other.scatter() == pytest.approx(one.scatter(), rel=1e-5)
