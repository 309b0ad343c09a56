"""More public reports, rebuilt like those of ``public_cases`` and in the same table.

Their expectations were written and committed before the doctor saw them. Some sources
describe what is right, so that the healthy twin stands beside the sick one.
"""

from __future__ import annotations

import copy
from dataclasses import make_dataclass

import torch
from patients import Called
from public_cases import (
    blobs,
    calm,
    cnn,
    healthy,
    images,
    mlp,
    pairs,
    settled,
    sick,
    train,
)
from torch import nn
from torch.nn import functional as F

# ------------------------------------------------------------------ other weights


def _pull(mean: nn.Module, tensors: dict, rate: float) -> None:
    """Move those of an average's tensors that are named a share of the way."""
    with torch.no_grad():
        for name, value in mean.state_dict().items():
            if name in tensors and value.is_floating_point():
                value.lerp_(tensors[name], rate)


def _followed(every: bool, rate: float, warm_up: int, passes: int):
    """A network, and an average of it: of all its tensors, or of its parameters."""
    model, batches = mlp(), pairs(*blobs())
    optimizer = train(model, batches, passes=warm_up) if warm_up else None
    mean = copy.deepcopy(model)

    def follow():
        state = model.state_dict() if every else dict(model.named_parameters())
        _pull(mean, state, rate)

    train(model, batches, optimizer, passes, after=follow)
    return mean.eval(), batches, None


@sick(
    "open-mmlab/mmpretrain#870, huggingface/pytorch-image-models#245",
    "stale-statistics",
    "evaluation-differs",
    fresh=True,
)
def an_average_of_everything_too_slow():
    return _followed(True, 0.01, 0, 6)


@healthy("lucidrains/ema-pytorch#29", fresh=True)
def an_average_of_everything_that_caught_up():
    model, batches, optimizer = settled()
    mean = copy.deepcopy(model)
    train(
        model,
        batches,
        optimizer,
        8,
        after=lambda: _pull(mean, model.state_dict(), 0.1),
    )
    return mean.eval(), batches, None


@sick(
    "DLR-RM/stable-baselines3#996, pytorch/ignite#2590",
    "stale-statistics",
    "evaluation-differs",
    fresh=True,
)
def a_target_network_whose_statistics_stay():
    return _followed(False, 0.1, 1, 12)


@sick(
    "LaurentMazare/tch-rs#628, keras-team/keras-io#198",
    "never-updated",
    fresh=True,
)
def trained_in_evaluation_mode_from_the_start():
    model, batches = mlp().eval(), pairs(*blobs())
    train(model, batches, torch.optim.SGD(model.parameters(), 0.02, 0.9))
    return model, batches, None


@healthy("backseason/PoolNet#30: pretrained norms, never in training mode", fresh=True)
def pretrained_norms_kept_in_evaluation_mode():
    model, batches, _ = settled()
    train(model.eval(), batches, torch.optim.SGD(model.parameters(), 1e-3), 2)
    return model, batches, None


@healthy(
    "princeton-vl/RAFT#141, filipradenovic/cnnimageretrieval-pytorch#19", fresh=True
)
def norms_frozen_for_another_domain():
    """The weights learned with the statistics as they are: new ones would spoil that."""
    model, _, _ = settled()
    batches = pairs(*blobs(shift=2.5, scale=1.3))
    for norm in (model[1], model[4]):
        norm.eval()
    calm(model, batches, 6, torch.optim.SGD(model.parameters(), 0.05, 0.9))
    return model, batches, None


@sick(
    "ARM-software/ML-KWS-for-MCU#77",
    "stale-statistics",
    "evaluation-differs",
    fresh=True,
)
def folded_into_the_convolution_and_kept():
    from bnutils import deploy

    x, y = images()
    model, batches = cnn(), pairs(3 * x + 2, y)
    calm(model, batches, 3)
    folded, _ = deploy.fold(copy.deepcopy(model).eval())
    with torch.no_grad():
        for i in (0, 3):
            model[i].weight.copy_(folded[i].weight)
            model[i].bias = nn.Parameter(folded[i].bias.detach().clone())
    return model.eval(), batches, None


@healthy("pytorch/pytorch#110361", fresh=True)
def counts_that_loading_set_to_zero():
    model, batches, _ = settled()
    for norm in (model[1], model[4]):
        norm.num_batches_tracked.zero_()
    return model.eval(), batches, None


# ------------------------------------------------------------------ norms of one's own


class OwnNorm(nn.Module):
    """A batch norm with its activation; it counts nothing, and takes single rows."""

    def __init__(self, channels, slope=0.01):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.slope = slope

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(x.var(0), 0.1)
        out = (x - mean) / (var + 1e-5).sqrt() * self.weight + self.bias
        return F.leaky_relu(out, self.slope)


def _own():
    return nn.Sequential(nn.Linear(6, 16, bias=False), OwnNorm(16), nn.Linear(16, 4))


@sick("facebookresearch/SparseConvNet#190", "nonfinite-statistics", fresh=True)
def a_single_row_through_a_norm_of_ones_own():
    model, batches, _ = settled(_own())
    model(batches[0][0][:1])
    return model.eval(), batches, None


@healthy("mapillary/inplace_abn#130", fresh=True)
def a_norm_with_its_activation_and_no_count():
    return settled(_own())


@sick("pytorch/pytorch#1206", "nonfinite-statistics", words="backbone", fresh=True)
def a_backbone_whose_statistics_are_nan():
    body, batches, _ = settled(mlp(classes=8))
    model = nn.Sequential()
    model.add_module("backbone", body)
    model.add_module("fc", nn.Linear(8, 4))
    train(model, batches, passes=2)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.fill_(float("nan"))
            module.running_var.fill_(float("nan"))
    return model, batches, None


@sick("pytorch/pytorch#20875", "unregistered-norm", fresh=True)
def norms_in_a_dictionary():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 16)
            self.norms = {"first": nn.BatchNorm1d(16)}
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.norms["first"](self.linear(x)).relu())

    model, batches = Net(), pairs(*blobs())
    train(model, batches)
    return model.eval(), batches, None


@sick("pytorch/pytorch#19902, #4253", "momentum-one", fresh=True)
def statistics_of_the_last_batch():
    return settled(mlp(momentum=1.0))


@sick(
    "pytorch/pytorch#100048: twenty norms in a chain",
    "evaluation-differs",
    never=("stale-statistics",),
    fresh=True,
)
def a_chain_of_norms_and_small_corrections():
    """Each stored variance is n / (n - 1) times that of the batch: twenty times over."""
    norms = [nn.BatchNorm1d(2, 1e-12, 0.01, affine=False) for _ in range(20)]
    model, x = nn.Sequential(*norms), torch.rand(64, 2) * 2 - 1
    for _ in range(2048):
        model(x)
    return model, [x] * 8, None


# ------------------------------------------------------------------ graphs, sequences

Graph = make_dataclass("Graph", ["x", "links"])


class GraphNet(nn.Module):
    """Sums over neighbours, as in a graph isomorphism network."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.lin1 = nn.Linear(6, 16)
        self.bn1 = nn.BatchNorm1d(16, momentum=momentum)
        self.lin2 = nn.Linear(16, 16)
        self.bn2 = nn.BatchNorm1d(16, momentum=momentum)
        self.head = nn.Linear(16, 4)

    def forward(self, data):
        h = self.bn1(self.lin1(data.x + data.links @ data.x)).relu()
        h = self.bn2(self.lin2(h + data.links @ h)).relu()
        return self.head(h)


def _graphs():
    x, y = blobs()
    links = (torch.rand(64, 64) < 0.05).float()
    return [(Graph(a, links), b) for a, b in pairs(x, y)]


@healthy("pyg-team/pytorch_geometric#2863", fresh=True)
def a_graph_network_that_settled():
    model, graphs = GraphNet(), _graphs()
    calm(model, graphs)
    return model, [graph for graph, _ in graphs], None


@sick("pgniewko/gt-pyg#112", "frozen-by-requires-grad", fresh=True)
def a_graph_network_frozen_until_the_next_train():
    model, graphs = GraphNet(), _graphs()
    optimizer = calm(model, graphs)
    for norm in (model.bn1, model.bn2):
        norm.requires_grad_(False).eval()
    train(model.train(), graphs, optimizer, 1)
    return model, [graph for graph, _ in graphs], None


@sick("danielegrattarola/spektral#417", "stale-statistics", fresh=True)
def a_graph_network_with_a_slow_momentum():
    model, graphs = GraphNet(momentum=0.01), _graphs()
    train(model, graphs, passes=5)
    return model.eval(), [graph for graph, _ in graphs], None


def _sequences(n=512, length=20):
    """Rows of different lengths, filled with zeros; shape (n, 6, length)."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, length + 1, (n,), generator=g)
    y = torch.randint(4, (n,), generator=g)
    x = 3 + y[:, None, None] + torch.randn(n, 6, length, generator=g)
    kept = torch.arange(length) < lengths[:, None]
    return x * kept[:, None], y, lengths


def _over_time():
    return nn.Sequential(
        nn.Conv1d(6, 16, 3, padding=1, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


@sick(
    "SeanNaren/deepspeech.pytorch#312, Tomiinek/Multilingual_Text_to_Speech#81",
    "batches-differ",
    half=("evaluation-differs",),
    fresh=True,
)
def padded_sequences_sorted_by_length():
    x, y, lengths = _sequences()
    order = lengths.argsort()
    return settled(_over_time(), (x[order], y[order]), 6)


@healthy("pytorch/pytorch#25910, #70529: padded, in random order", fresh=True)
def padded_sequences_in_random_order():
    x, y, _ = _sequences()
    return settled(_over_time(), (x, y), 6)


@healthy("SeanNaren/deepspeech.pytorch#360: all steps as rows", fresh=True)
def a_norm_over_all_steps_of_a_sequence():
    def forward(m, x):
        h, _ = m.rnn(x)
        n, steps, width = h.shape
        h = m.bn(h.reshape(n * steps, width)).view(n, steps, width)
        return m.head(h.mean(1))

    model = Called(
        forward,
        rnn=nn.GRU(6, 16, batch_first=True),
        bn=nn.BatchNorm1d(16),
        head=nn.Linear(16, 4),
    )
    x, y, _ = _sequences(256)
    return settled(model, (x.transpose(1, 2), y), 6)


@healthy("wenet-e2e/wenet#59, NVIDIA-NeMo/Speech#1898: a conformer", fresh=True)
def the_convolution_module_of_a_conformer():
    class Conformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6)
            self.up = nn.Conv1d(6, 32, 1)
            self.depthwise = nn.Conv1d(16, 16, 5, padding=2, groups=16)
            self.bn = nn.BatchNorm1d(16)
            self.down = nn.Conv1d(16, 6, 1)
            self.drop = nn.Dropout(0.1)
            self.head = nn.Linear(6, 4)

        def forward(self, audio, length=None):
            h = F.glu(self.up(self.norm(audio).transpose(1, 2)), dim=1)
            h = self.down(F.silu(self.bn(self.depthwise(h)))).transpose(1, 2)
            return self.head((audio + self.drop(h)).mean(1)), length

    model = Conformer()
    x, y, lengths = _sequences(256)
    batches = pairs(x.transpose(1, 2), y)
    optimizer = train(model, batches, passes=12, loss=_first)
    for group in optimizer.param_groups:
        group["lr"] /= 30
    train(model, batches, optimizer, 20, loss=_first)
    given = [
        {"audio": a, "length": n}
        for a, n in zip(x.transpose(1, 2).split(64), lengths.split(64), strict=True)
    ]
    return model, given, None


def _first(out, y):
    return F.cross_entropy(out[0], y)


# ------------------------------------------------------------------ batches, pairs, GANs


@sick("DLR-RM/stable-baselines3#535", "batch-of-one", fresh=True)
def one_observation_at_a_time():
    model, batches, _ = settled()
    return model, list(batches[0][0].split(1))[:16], None


@sick("discuss.pytorch.org 73156: one image of two values", "tiny-batch", fresh=True)
def two_values_for_a_norm():
    model = nn.Sequential(
        nn.BatchNorm2d(1, affine=False), nn.Flatten(), nn.Linear(2, 1)
    )
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    for _ in range(100):
        model(x)
    return model, [x] * 8, None


@sick(
    "pytorch/examples#514: real and generated images in turn",
    "stale-statistics",
    "evaluation-differs",
    fresh=True,
)
def a_discriminator_examined_on_real_images():
    x, _ = images()
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    for _ in range(8):
        for real in x.split(64):
            fake = 0.3 * torch.randn_like(real) - 0.5
            loss = sum(
                F.cross_entropy(model(part), torch.full((64,), kind))
                for kind, part in enumerate((real, fake))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), list(x.split(64)), None


@sick("facebookresearch/pytorch_GAN_zoo#118", "batch-dependent", fresh=True)
def the_spread_of_the_batch_as_a_feature():
    def forward(m, x):
        h = m.body(x)
        spread = h.std(0).mean().expand(len(h), 1)
        return m.head(torch.cat([h, spread], 1))

    model = Called(forward, body=mlp(classes=8), head=nn.Linear(9, 4))
    model, batches, _ = settled(model)
    return model.eval(), batches, None


@healthy("csinva/gan-vae-pretrained-pytorch#2", fresh=True)
def a_generator_fed_with_noise():
    model = nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    noise = [torch.randn(64, 8, 1, 1) for _ in range(8)]
    goal = torch.linspace(-1, 1, 8).expand(64, 1, 8, 8)
    calm_batches = [(z, goal) for z in noise]
    optimizer = train(model, calm_batches, loss=F.mse_loss)
    for group in optimizer.param_groups:
        group["lr"] /= 30
    train(model, calm_batches, optimizer, 12, loss=F.mse_loss)
    return model, noise, None


@healthy("adambielski/siamese-triplet#16: one network, three inputs", fresh=True)
def three_inputs_through_one_network():
    class Triplet(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, anchor, same, other):
            return self.body(anchor), self.body(same), self.body(other)

    model, batches, _ = settled()
    triples = [(x, x + 0.01 * torch.randn_like(x), x.roll(1, 0)) for x, _ in batches]
    return Triplet(model), triples, None


@healthy("pytorch/pytorch#5406: a new model in both modes", fresh=True)
def a_new_model_in_evaluation_mode():
    return cnn().eval(), images()[0].split(64), None


@healthy("pytorch/pytorch#181696: compiled", fresh=True)
def a_compiled_model():
    model, batches, optimizer = settled()
    return torch.compile(model, backend="eager"), batches, optimizer
