"""Masked batch norm is PyTorch's batch norm of the positions that are not padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from siblings import LONG, assert_close, make_input
from torch import nn

from bnutils import norm, relatives

LENGTHS = (5, 2, 1, 4, 3, 5)  # of the six sequences of LONG


def make_mask(lengths=LENGTHS, longest=5):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def layers(**options):
    """The masked layer and PyTorch's, C = 8, with the same parameters, in float64."""
    torch.manual_seed(2)
    theirs = nn.BatchNorm1d(8, **options).double()
    for p in theirs.parameters():
        nn.init.normal_(p, mean=1.5)
    ours = relatives.MaskedBatchNorm1d(8, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def unpadded(x, lengths=LENGTHS):
    """The sequences without their padding, end to end: shape (sum of lengths, C)."""
    return torch.cat(
        [row[:, :length].T for row, length in zip(x, lengths, strict=True)]
    )


def results(layer, x, forward):
    """Real rows of the output and the gradients of input and parameters, for one loss."""
    x = x.clone().requires_grad_()
    y = forward(layer, x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape).sin()
    first = torch.autograd.grad(
        (y * weights).sum(), (x, *layer.parameters()), create_graph=True
    )
    second = [torch.zeros_like(x)]  # of a map that is affine in x, in evaluation
    if first[0].requires_grad:
        second = torch.autograd.grad(
            first[0].square().sum(), x, allow_unused=True, materialize_grads=True
        )
    return [t.detach() for t in (y, *first, *second)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eps": 0.1, "momentum": None},
        {"affine": False},
        {"track_running_stats": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_real_positions_are_pytorchs_without_padding(options, training):
    ours, theirs = (layer.train(training) for layer in layers(**options))
    mask = make_mask()
    for seed in range(3):
        x = make_input(LONG, seed=seed)
        assert_close(
            results(ours, x, lambda f, z: unpadded(f(z, mask))),
            results(theirs, x, lambda f, z: f(unpadded(z))),
            1e-12,
        )
        assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_evaluation_after_training_is_pytorchs():
    ours, theirs = layers()
    for seed in range(3):
        x = make_input(LONG, seed=seed)
        ours(x, make_mask())
        theirs(unpadded(x))
    x = make_input(LONG, seed=9)
    y = ours.eval()(x, make_mask())
    assert_close([unpadded(y)], [theirs.eval()(unpadded(x))], 1e-12)


@pytest.mark.parametrize("filler", [0.0, 1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("training", [True, False])
def test_what_the_padding_holds_changes_nothing(filler, training):
    mask = make_mask()
    x = make_input(LONG)
    kept = []
    for z in (x, x.masked_fill(~mask[:, None], filler)):
        layer, _ = layers()
        z.requires_grad_()
        y = layer.train(training)(z, mask)
        (dx,) = torch.autograd.grad(y.square().sum(), z)
        kept.append([y.detach(), dx, *layer.state_dict().values()])
    for a, b in zip(*kept, strict=True):
        assert torch.equal(a, b)


def test_more_padding_changes_nothing():
    short, long = layers()[0], layers()[0]
    x = make_input(LONG)
    wide = torch.cat([x, torch.full((6, 8, 7), 3.0, dtype=x.dtype)], dim=2)
    y = short(x, make_mask())
    assert_close([long(wide, make_mask(longest=12))[..., :5]], [y], 1e-12)
    assert_close(short.state_dict().values(), long.state_dict().values(), 1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_padding_comes_out_as_zero_and_has_no_gradient(training):
    layer, _ = layers()
    padding = ~make_mask()[:, None].expand(LONG)
    x = make_input(LONG).requires_grad_()
    y = layer.train(training)(x, make_mask())
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    for tensor in (y, dx):
        assert (tensor[padding] == 0).all()
        assert (tensor[~padding] != 0).all()


def test_running_variance_counts_real_positions_only():
    layer = relatives.MaskedBatchNorm1d(8, momentum=1.0).double()
    x = make_input(LONG)
    layer(x, make_mask())
    rows = unpadded(x).numpy()
    np.testing.assert_allclose(layer.running_mean, rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(layer.running_var, rows.var(0, ddof=1), atol=1e-12)


@pytest.mark.parametrize("mask", [None, torch.ones(6, 5, dtype=torch.bool)])
def test_without_padding_it_is_batch_norm(mask):
    ours, theirs = layers()
    x = make_input(LONG)
    assert_close([ours(x, mask)], [theirs(x)], 1e-12)
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)


def test_without_a_mask_flat_input_is_batch_norm():
    ours, theirs = layers()
    x = make_input((6, 8))
    assert_close([ours(x)], [theirs(x)], 1e-12)


def test_holes_in_the_middle_are_padding_too():
    ours, theirs = layers()
    g = torch.Generator().manual_seed(3)
    mask = torch.rand(6, 5, generator=g) < 0.5
    x = make_input(LONG)
    y = ours(x, mask)
    assert_close([y.transpose(1, 2)[mask]], [theirs(x.transpose(1, 2)[mask])], 1e-12)


def test_a_batch_of_padding_alone_moves_no_statistics():
    layer, _ = layers()
    before = [t.clone() for t in (layer.running_mean, layer.running_var)]
    y = layer(make_input(LONG), torch.zeros(6, 5, dtype=torch.bool))
    assert (y == 0).all()
    assert_close([layer.running_mean, layer.running_var], before, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_and_is_computed_in_float32(dtype):
    x = make_input(LONG).to(dtype)
    half, full = (relatives.MaskedBatchNorm1d(8) for _ in range(2))
    y = half(x, make_mask())
    assert y.dtype == dtype
    assert torch.equal(y, full(x.float(), make_mask()).to(dtype))


def test_output_is_laid_out_by_rows_whatever_the_input_is():
    x = make_input((6, 5, 8)).transpose(1, 2)
    assert layers()[0](x, make_mask()).is_contiguous()


def test_it_is_a_batch_norm_with_the_same_arguments_and_repr():
    layer = relatives.MaskedBatchNorm1d(6, 0.1, 0.3, False)
    assert (layer.eps, layer.momentum, layer.weight) == (0.1, 0.3, None)
    assert isinstance(layer, norm.BatchNorm1d)
    assert repr(layer) == "Masked" + repr(norm.BatchNorm1d(6, 0.1, 0.3, False))


# What it refuses


@pytest.mark.parametrize(
    ("shape", "mask", "error", "says"),
    [
        (LONG, make_mask().long(), TypeError, "got torch.int64"),
        (LONG, make_mask().double(), TypeError, "mask.bool()"),
        (LONG, make_mask().tolist(), TypeError, "got list"),
        (LONG, make_mask().T, ValueError, "(N, L) = (6, 5)"),
        (LONG, make_mask()[:, 0], ValueError, "has (6,)"),
        (LONG, make_mask()[:, None], ValueError, "has (6, 1, 5)"),
        ((6, 8), make_mask(), ValueError, "got 2D input"),
        ((6, 8, 5, 1), make_mask(), ValueError, "got 4D input"),
        ((6, 7, 5), make_mask(), RuntimeError, "7 elements not 8: the input (6, 7, 5)"),
        (LONG, make_mask((1, 0, 0, 0, 0, 0)), ValueError, "more than 1 value"),
    ],
)
def test_wrong_calls_say_what_was_expected_and_change_nothing(shape, mask, error, says):
    layer, _ = layers()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(error) as caught:
        layer(torch.ones(shape, dtype=torch.float64), mask)
    assert says in str(caught.value)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_one_real_position_is_enough_in_evaluation():
    layer, theirs = (layer.eval() for layer in layers())
    x = make_input(LONG)
    y = layer(x, make_mask((1, 0, 0, 0, 0, 0)))
    assert_close([y[:1, :, 0]], [theirs(x[:1, :, 0])], 1e-12)


def test_integers_and_other_dtypes_are_refused():
    layer, _ = layers()
    with pytest.raises(NotImplementedError, match="int64"):
        layer(torch.ones(LONG, dtype=torch.long), make_mask())
    with pytest.raises(RuntimeError, match="mixed dtype"):
        layer(torch.ones(LONG), make_mask())


def test_a_mask_on_another_device_is_refused():
    layer, _ = layers()
    with pytest.raises(RuntimeError, match="the mask is meta"):
        layer(make_input(LONG), make_mask().to("meta"))
