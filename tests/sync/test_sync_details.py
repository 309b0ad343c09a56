"""Small promises of synchronised batch norm: what is sent, kept and left alone."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn

from bnutils import sync
from bnutils.sync import functional as _sync

ROWS, C = (5, 6), 16
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def details(x, dy, slopes):
    """What each of two ranks finds on its part of the batch, and what it sent."""
    rank, world, sent, kept = distributed.get_rank(), distributed.group.WORLD, [], []
    x, dy = (t.split([5, 6])[rank].clone() for t in (x, dy))
    send = distributed.all_reduce

    def watched(t, **options):
        sent.append(t.numel())
        return send(t, **options)

    def pack(t):
        kept.append(str(t.dtype))
        return t

    distributed.all_reduce = watched
    found, layer = {"sent": sent, "kept": kept}, sync.BatchNorm1d(x.size(1))
    part = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(part)
    y.backward(dy)
    distributed.all_reduce = send

    one = sync.BatchNorm1d(1)
    found["one channel"] = one(x[:, :1]).detach()
    found["its mean"] = one.running_mean
    large = (2.0**23 + torch.arange(1, 1 + x.size(1)) * 12345).expand(x.shape)
    found["large"] = sync.BatchNorm1d(x.size(1), affine=False)(large)

    half = sync.BatchNorm1d(x.size(1))
    half(x.bfloat16())
    found["state after half"] = {k: v.clone() for k, v in half.state_dict().items()}

    part = x.clone().requires_grad_()
    _, rstd, mean, var, _ = _sync.Standardize.apply(part, 1e-5, world)
    found["needs a gradient"] = [t.requires_grad for t in (rstd, mean, var)]
    rstd.backward(slopes[rank])
    found["gradient of 1/std"] = part.grad

    term = torch.ones(3)
    total = _sync.AllSum.apply(term, world)
    found["term and sum"] = [term.tolist(), total.tolist()]
    return found


@pytest.fixture(scope="module")
def data():
    """Input, gradient of the output, and one of 1/std for each rank."""
    g = torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, sum(ROWS), C, generator=g)
    return 3 * x + 1, dy, torch.randn(2, C, generator=g)


@pytest.fixture(scope="module")
def ranks(data):
    return sync.run(details, *data)


def test_as_many_numbers_are_sent_as_the_docstring_says(ranks):
    for found in ranks:
        assert found["sent"] == [C + 1, C, 2 * C]


def test_what_is_kept_for_backward_has_the_dtype_of_the_input(ranks):
    for found in ranks:
        assert set(found["kept"]) == {"torch.float32"}


def test_a_layer_of_one_channel(ranks, data):
    whole, x = nn.BatchNorm1d(1), data[0][:, :1]
    y = whole(x).detach()
    found = torch.cat([found["one channel"] for found in ranks])
    torch.testing.assert_close(found, y, **CLOSE)
    for found in ranks:
        torch.testing.assert_close(found["its mean"], whole.running_mean, **CLOSE)


def test_a_constant_channel_becomes_zero_however_large_it_is(ranks):
    """Sums of such values have more digits than float32."""
    for found, rows in zip(ranks, ROWS, strict=True):
        assert found["large"].shape == (rows, C)
        assert not found["large"].any()


def test_statistics_of_half_precision_input_are_those_of_float32(ranks, data):
    whole = nn.BatchNorm1d(C)
    whole(data[0].bfloat16().float())
    for found in ranks:
        after = found["state after half"]
        torch.testing.assert_close(after, dict(whole.state_dict()), **CLOSE)


def test_statistics_carry_no_gradient_but_the_scale_does(ranks):
    for found in ranks:
        assert found["needs a gradient"] == [True, False, False]


def test_the_scale_alone_has_a_gradient(ranks, data):
    x, _, slopes = data
    x = x.double().requires_grad_()
    rstd = (x.var(0, unbiased=False) + 1e-5).rsqrt()
    rstd.backward(slopes.double().sum(0))  # of the sum of both ranks' losses
    found = torch.cat([found["gradient of 1/std"] for found in ranks])
    torch.testing.assert_close(found, x.grad.float(), **CLOSE)


def test_a_sum_over_the_ranks_leaves_its_terms_as_they_are(ranks):
    for found in ranks:
        assert found["term and sum"] == [[1.0] * 3, [2.0] * 3]
