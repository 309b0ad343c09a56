"""The functions of chapters 2 to 4: against numbers by hand, PyTorch and finite differences."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bnutils import norm

SHAPES = [(7, 3), (2, 3), (4, 3, 5), (1, 3, 2)]


@pytest.fixture(autouse=True)
def device():
    """NumPy's values are on the CPU."""
    torch.manual_seed(0)


def arrays(shape):
    rng = np.random.default_rng(3)
    x, dy = 2 + 3 * rng.standard_normal((2, *shape))
    weight, bias = rng.standard_normal((2, shape[1]))
    return x, dy, weight, bias


def test_numpy_forward_gives_numbers_computed_by_hand():
    x = np.array([[1.0, 10.0], [3.0, 50.0]])  # means 2, 30; variances 1, 400
    y = norm.batch_norm_forward(x, np.array([3.0, 1.0]), np.array([1.0, 0.0]), eps=0)
    np.testing.assert_allclose(y, [[-2, -1], [4, 1]])
    y = norm.batch_norm_forward(x, np.ones(2), np.zeros(2), eps=3)
    np.testing.assert_allclose(y[:, 0], [-0.5, 0.5])  # eps is inside the root


def test_numpy_backward_gives_numbers_computed_by_hand():
    a = math.sqrt(1.5)
    x, dy = np.array([[-a], [0], [a]]), np.array([[1.0], [0], [0]])
    dx, dweight, dbias = norm.batch_norm_backward(dy, x, np.array([2.0]), eps=0)
    np.testing.assert_allclose(dx[:, 0], [1 / 3, -2 / 3, 1 / 3])
    np.testing.assert_allclose((dweight, dbias), ([-a], [1]))


@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_numpy_functions_agree_with_pytorch(shape, eps):
    values = arrays(shape)
    x, dy, weight, bias = map(torch.tensor, values)
    leaves = [v.requires_grad_() for v in (x, weight, bias)]
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    expected = torch.autograd.grad(y, leaves, dy)
    ours = norm.batch_norm_forward(values[0], *values[2:], eps)
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-10, atol=1e-12)
    grads = norm.batch_norm_backward(values[1], values[0], values[2], eps)
    for got, want in zip(grads, expected):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4)])
def test_numpy_gradients_are_the_slopes_of_the_loss(shape):
    x, dy, weight, bias = arrays(shape)
    values = [x, weight, bias]
    grads = norm.batch_norm_backward(dy, x, weight, 0.1)
    for value, grad in zip(values, grads):
        slopes = np.empty_like(value)
        for index in np.ndindex(value.shape):
            old, losses = value[index], []
            for step in (1e-5, -1e-5):
                value[index] = old + step
                losses.append((dy * norm.batch_norm_forward(*values, 0.1)).sum())
            value[index] = old
            slopes[index] = (losses[0] - losses[1]) / 2e-5
        np.testing.assert_allclose(grad, slopes, rtol=1e-6, atol=1e-7)


def test_numpy_functions_leave_their_inputs_alone():
    values = arrays((4, 3, 5))
    before = copy.deepcopy(values)
    norm.batch_norm_forward(values[0], *values[2:])
    norm.batch_norm_backward(values[1], values[0], values[2])
    for now, then in zip(values, before):
        np.testing.assert_array_equal(now, then)


def test_eps_is_1e_minus_5_unless_given():
    x, dy, weight, bias = arrays((4, 3))
    y = norm.batch_norm_forward(x, weight, bias)
    np.testing.assert_array_equal(y, norm.batch_norm_forward(x, weight, bias, 1e-5))
    grads = norm.batch_norm_backward(dy, x, weight)
    for got, want in zip(grads, norm.batch_norm_backward(dy, x, weight, 1e-5)):
        np.testing.assert_array_equal(got, want)
    x, mean = torch.tensor(x), torch.zeros(3)
    y = norm.normalize(x, mean, mean)
    torch.testing.assert_close(y, F.batch_norm(x, mean.double(), mean.double()))


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_stats_are_mean_and_biased_variance(shape):
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    mean, var = norm.batch_stats(x)
    channels = x.transpose(0, 1).reshape(3, -1).numpy()
    np.testing.assert_allclose(mean, np.mean(channels, axis=1))
    np.testing.assert_allclose(var, np.var(channels, axis=1))


def test_batch_stats_of_a_hand_example():
    mean, var = norm.batch_stats(torch.tensor([[[1.0, 2], [0, 0]], [[3, 6], [0, 4]]]))
    assert mean.tolist() == [3, 1]
    assert var.tolist() == [3.5, 3]


@pytest.mark.parametrize("shape", [(4096, 3), (64, 3, 64)])
@pytest.mark.parametrize("offset", [10.0**k for k in range(1, 7)])
def test_mean_is_as_exact_as_float32_can_hold(offset, shape):
    x = (torch.randn(shape, dtype=torch.float64) + offset).float()
    mean, _ = norm.batch_stats(x)
    exact = x.double().transpose(0, 1).reshape(3, -1).mean(1).numpy()
    assert np.all(abs(mean.numpy() - exact) <= 0.6 * np.spacing(np.float32(exact)))


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_variance_survives_an_offset(offset):
    x = (torch.randn(256, 3, dtype=torch.float64) + offset).float()
    _, var = norm.batch_stats(x)
    np.testing.assert_allclose(var, x.double().numpy().var(0), rtol=0.01)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
def test_normalize_is_pytorchs_evaluation(shape, affine):
    x = torch.randn(shape, dtype=torch.float64)
    mean, weight, bias = torch.randn(3, 3, dtype=torch.float64)
    weight = weight if affine in ("both", "weight") else None
    bias = bias if affine in ("both", "bias") else None
    var = torch.rand(3, dtype=torch.float64)
    y = norm.normalize(x, mean, var, weight, bias, 0.01)
    one, zero = torch.ones(3).double(), torch.zeros(3).double()
    w, b = one if weight is None else weight, zero if bias is None else bias
    torch.testing.assert_close(y, F.batch_norm(x, mean, var, w, b, False, 0, 0.01))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_per_channel_broadcasts_along_the_channels(shape):
    values = torch.arange(3.0)
    wide = norm.per_channel(values, torch.empty(shape))
    assert wide.shape == (1, 3, *[1] * (len(shape) - 2))
    assert torch.equal(wide.flatten(), values)
