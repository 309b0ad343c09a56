"""The article's network, with any normalisation."""

import math

import pytest
import torch
from torch import nn

from bnutils import models, norm


def weights(seed: int = 0, **options) -> list[torch.Tensor]:
    """Weights of the linear layers, drawn after seeding."""
    torch.manual_seed(seed)
    net = models.mlp((20, 16, 12, 5), **options)
    return [m.weight.detach() for m in net if isinstance(m, nn.Linear)]


def test_default_is_the_network_of_the_article():
    named = models.mlp().named_children()
    assert [(name, type(m)) for name, m in named] == [
        ("linear1", nn.Linear),
        ("norm1", nn.BatchNorm1d),
        ("act1", nn.ReLU),
        ("linear2", nn.Linear),
        ("norm2", nn.BatchNorm1d),
        ("act2", nn.ReLU),
        ("linear3", nn.Linear),
    ]
    # 784*512+512 + 2*512 + 512*256+256 + 2*256 + 256*10+10, counted by hand
    assert sum(p.numel() for p in models.mlp().parameters()) == 537_354
    assert models.mlp()(torch.randn(4, 784)).shape == (4, 10)


def test_without_norm_only_the_norms_are_missing():
    names = [name for name, _ in models.mlp(norm=None).named_children()]
    assert names == ["linear1", "act1", "linear2", "act2", "linear3"]


@pytest.mark.parametrize(
    "options",
    [
        {"norm": None},
        {"norm": norm.BatchNorm1d},
        {"norm": lambda width: nn.Linear(width, width)},  # draws random numbers itself
        {"bias": False},
        {"activation": nn.Sigmoid},
        {"activation": nn.PReLU},
    ],
)
def test_same_seed_gives_the_same_linear_weights(options):
    expected = weights()
    found = [w for w in weights(**options) if w.shape in ((16, 20), (12, 16), (5, 12))]
    assert len(found) == 3
    assert all(map(torch.equal, found, expected))
    assert not any(map(torch.equal, weights(seed=1), expected))


def test_default_initialisation_is_that_of_pytorch():
    torch.manual_seed(0)
    linears = [nn.Linear(20, 16), nn.Linear(16, 12), nn.Linear(12, 5)]
    assert all(map(torch.equal, weights(), [m.weight for m in linears]))


def test_bias_false_leaves_out_what_a_norm_takes_out():
    def has_bias(**options):
        net = models.mlp((20, 16, 5), bias=False, **options)
        return [m.bias is not None for m in net if isinstance(m, nn.Linear)]

    assert has_bias() == [False, True]
    assert has_bias(norm=None) == [True, True]
    net = models.mlp((20, 16, 5), bias=False)
    assert [name for name, _ in net.linear1.named_parameters()] == ["weight"]


def test_norm_and_activation_are_those_given():
    net = models.mlp(
        (20, 16, 12, 5),
        norm=lambda width: nn.BatchNorm1d(width, momentum=0.5),
        activation=nn.Tanh,
    )
    assert [m.num_features for m in (net.norm1, net.norm2)] == [16, 12]
    assert net.norm2.momentum == 0.5 and net.norm1 is not net.norm2
    assert isinstance(net.act1, nn.Tanh) and net.act1 is not net.act2


def test_init_std_is_the_standard_deviation_of_gaussian_weights():
    torch.manual_seed(0)
    net = models.mlp((784, 512, 10), init_std=0.1)
    w = net.linear1.weight.detach()
    n = w.numel()
    assert abs(w.mean()) < 4 * 0.1 / math.sqrt(n)
    assert abs(w.std() - 0.1) < 4 * 0.1 / math.sqrt(2 * n)
    assert abs((w.abs() < 0.1).double().mean() - 0.6827) < 0.003  # one sigma
    assert not net.linear1.bias.any() and not net.linear2.bias.any()


def test_init_scale_multiplies_the_initial_weights_only():
    torch.manual_seed(0)
    plain = models.mlp((20, 16, 5), norm=None).state_dict()
    torch.manual_seed(0)
    scaled = models.mlp((20, 16, 5), norm=None, init_scale=3.0).state_dict()
    torch.testing.assert_close(scaled["linear2.weight"], 3 * plain["linear2.weight"])
    assert torch.equal(scaled["linear1.bias"], plain["linear1.bias"])
    assert all(p.requires_grad for p in models.mlp((4, 2), init_scale=3.0).parameters())


@pytest.mark.parametrize("sizes", [(), (784,), (784, 0, 10), (784, -1), (784, 2.0, 10)])
def test_senseless_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be the widths of input"):
        models.mlp(sizes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": nn.BatchNorm1d(512)}, r"norm must be a class .* nn.BatchNorm1d"),
        ({"norm": "batch"}, "norm must be a class .* but got 'batch'"),
        ({"activation": nn.ReLU()}, r"activation must be .* but got ReLU\(\)"),
        ({"activation": None}, "activation must be .* but got None"),
    ],
)
def test_layers_already_made_are_refused(options, words):
    with pytest.raises(TypeError, match=words):
        models.mlp((784, 512, 10), **options)
