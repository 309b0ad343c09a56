"""Public reports about batch norm, rebuilt in small: what the doctor must and must not say.

Each case is a function that makes a model and what the doctor is given with it. Beside it
stand the source and three sets of codes: what names the problem, what points near it, and
what would be wrong to say. ``HEALTHY`` allows notes only. The cases were written from the
reports, before the doctor was asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass

import torch
from patients import Called
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Case:
    """One report: how to rebuild it, where it is from, and what should be said."""

    make: Callable
    source: str
    says: frozenset[str] = frozenset()
    half: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    healthy: bool = False
    words: str = ""  # must stand in the report as text
    fresh: bool = field(default=False)  # found after the others, and rebuilt unseen


def sick(source, *says, half=(), never=(), words="", fresh=False):
    def enter(make):
        sets = frozenset(says), frozenset(half), frozenset(never)
        CASES[make.__name__] = Case(make, source, *sets, words=words, fresh=fresh)
        return make

    return enter


def healthy(source, *, words="", fresh=False):
    def enter(make):
        CASES[make.__name__] = Case(
            make, source, healthy=True, words=words, fresh=fresh
        )
        return make

    return enter


# ------------------------------------------------------------------ small worlds


def blobs(n=512, channels=6, classes=4, shift=2.0, scale=1.0):
    """Points around a few centres, and which centre each is from."""
    g = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(classes, channels, generator=g)
    y = torch.randint(classes, (n,), generator=g)
    x = centres[y] + torch.randn(n, channels, generator=g) + shift
    return scale * x, y


def pairs(x, y, size=64):
    return list(zip(x.split(size), y.split(size), strict=True))


def images(n=256, size=8):
    """Two kinds of pictures, bright above or below; shape (n, 1, size, size)."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(2, (n,), generator=g)
    ramp = torch.linspace(-1, 1, size)[:, None] * (2 * y[:, None, None, None] - 1)
    return ramp + torch.randn(n, 1, size, size, generator=g), y


def mlp(width=16, inputs=6, classes=4, **options):
    return nn.Sequential(
        nn.Linear(inputs, width, bias=False),
        nn.BatchNorm1d(width, **options),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width, **options),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def cnn(**options):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8, **options),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1, drop=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.drop = drop  # stochastic depth: the branch is left out at random
        self.down = nn.Identity()
        if stride > 1:
            down = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.down = nn.Sequential(down, nn.BatchNorm2d(outputs))

    def forward(self, x):
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.training and self.drop:
            keep = torch.rand(len(x), 1, 1, 1) >= self.drop
            branch = branch * keep / (1 - self.drop)
        return (self.down(x) + branch).relu()


def resnet(drop=0.0):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8, 8, drop=drop),
        Block(8, 16, 2, drop=drop),
        Block(16, 32, 2, drop=drop),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return x, torch.tensor(data.target)


def train(model, batches, optimizer=None, passes=6, after=lambda: None, loss=None):
    """Train for some passes; the optimiser is returned."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, 0.9)
    for _ in range(passes):
        for x, y in batches:
            optimizer.zero_grad()
            out = model(x)
            (loss(out, y) if loss else F.cross_entropy(out, y)).backward()
            optimizer.step()
            after()
    return optimizer


def calm(model, batches, passes=12, optimizer=None):
    """Train until the weights hardly move, so that the statistics have caught up."""
    optimizer = optimizer or train(model, batches, passes=passes)
    for group in optimizer.param_groups:
        group["lr"] /= 30
    return train(model, batches, optimizer, passes)


def settled(model=None, data=None, passes=12):
    model = model or mlp()
    batches = pairs(*(data or blobs()))
    optimizer = calm(model, batches, passes)
    return model, batches, optimizer


class FrozenBatchNorm(nn.Module):
    """Like those of torchvision, maskrcnn-benchmark and DETR: four buffers, no mode."""

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        scale = self.weight / (self.running_var + self.eps).sqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


# ------------------------------------------------------------------ other weights


@sick("facebookresearch/moco#70, CuriousAI/mean-teacher#9", "never-updated", fresh=True)
def ema_of_parameters_alone():
    model, batches = mlp(), pairs(*blobs())
    mean = copy.deepcopy(model)

    def follow():
        with torch.no_grad():
            for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.1)

    train(model, batches, after=follow)
    return mean, batches, None


@sick(
    "odegeasslbc/FastGAN-pytorch#4, boschresearch/OASIS#21",
    "never-updated",
    fresh=True,
)
def ema_of_a_generator():
    noise = [torch.randn(64, 6) for _ in range(8)]
    model = mlp()
    mean = copy.deepcopy(model)

    def follow():
        with torch.no_grad():
            for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.1)

    batches = [(z, z[:, :4] ** 2) for z in noise]
    train(model, batches, after=follow, loss=F.mse_loss, passes=8)
    return mean.eval(), noise, None


@sick(
    "facebookresearch/schedule_free#11 and #60, mlcommons/algorithmic-efficiency#767",
    "stale-statistics",
    "evaluation-differs",
    fresh=True,
)
def averaged_weights_with_the_statistics_of_the_last():
    x, y = digits()
    model, batches = resnet(), pairs(x[:768], y[:768])
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    steps = 0

    def add():
        nonlocal steps
        steps += 1
        for name, p in model.named_parameters():
            total[name] += p.detach()

    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    train(model, batches, optimizer, 3, after=add)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(total[name] / steps)
    return model.eval(), batches[:8], None


@sick("timgaripov/swa#8", "nonfinite-statistics", fresh=True)
def negative_variances_after_averaging():
    model, batches, _ = settled()
    model[4].running_var[3] = -9.7
    return model, batches, None


@sick("facebookresearch/detectron2#3160", "nonfinite-statistics", fresh=True)
def variances_reduced_by_eps():
    model, batches, _ = settled(mlp(eps=1e-3))
    model[1].running_var[0] = 0.0
    for bn in (model[1], model[4]):
        bn.running_var -= bn.eps
    return model.eval(), batches, None


@sick(
    "mit-han-lab/once-for-all#15, mit-han-lab/gan-compression#65",
    "stale-statistics",
    "evaluation-differs",
    fresh=True,
)
def a_sub_network_with_the_statistics_of_the_whole():
    model, batches, _ = settled(mlp(width=32))
    with torch.no_grad():
        model[3].weight[:, 16:] = 0  # half of the channels are switched off
    return model.eval(), batches, None


@sick("fused checkpoint, strict=False", "never-updated")
def a_fused_checkpoint_in_a_model_with_norms():
    from bnutils import deploy

    x = 9 * torch.randn(512, 1, 8, 8) + 3
    trained = cnn()
    batches = [(a, b) for a, b in pairs(x, images(512)[1])]
    calm(trained, batches, 3)
    folded, _ = deploy.fold(trained.eval())
    model = cnn()
    model.load_state_dict(folded.state_dict(), strict=False)
    return model.eval(), batches, None


@sick("renamed keys", "never-updated")
def a_checkpoint_whose_norms_were_renamed():
    model, batches, _ = settled()
    fresh = mlp()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("4.")}
    fresh.load_state_dict(state, strict=False)
    return fresh.eval(), batches, None


# ------------------------------------------------------------------ numbers


@sick(
    "pytorch/pytorch#90342, #88474, #115500, #96798",
    "nonfinite-statistics",
    fresh=True,
)
def an_overflow_in_half_precision():
    model, batches, _ = settled()
    model(torch.full((8, 6), float("inf")))
    return model, batches, None


@sick("NVIDIA/apex#133", "forward-fails", words="dtype", fresh=True)
def a_half_precision_norm_in_a_single_precision_model():
    model, batches, _ = settled()
    model[1].half()
    model[0].half()
    return model, batches, None


@sick(
    "rounding in bfloat16",
    "stale-statistics",
    words="float32",
)
def statistics_rounded_to_bfloat16():
    """Steps of 0.1 times the difference round to nothing before the mean arrives."""
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4)).bfloat16()
    batches = [(100 + torch.randn(64, 6)).bfloat16() for _ in range(8)]
    for _ in range(40):
        for x in batches:
            model(x)
    with torch.no_grad():
        model[0].bias.normal_()  # it was trained
    return model.eval(), batches, None


@sick("a batch with NaN in the loader", "nonfinite-batch")
def a_batch_with_nan():
    model, batches, _ = settled()
    batches = [(x.clone(), y) for x, y in batches]
    batches[3][0][5, 2] = float("nan")
    return model, batches, None


@sick(
    "gmalivenko/pytorch2keras#120",
    "nonfinite-statistics",
    half=("stale-statistics",),
    words="swapped",
    fresh=True,
)
def mean_and_variance_swapped():
    model, batches, _ = settled(mlp(), blobs(shift=0.0))
    for bn in (model[1], model[4]):
        mean = bn.running_mean.clone()
        bn.running_mean.copy_(bn.running_var)
        bn.running_var.copy_(mean)
    return model.eval(), batches, None


@sick(
    "swapped arrays, all means positive",
    "stale-statistics",
    words="swapped",
)
def positive_means_and_variances_swapped():
    x = torch.randn(512, 6).abs() * torch.arange(1.0, 7.0) * 3 + 8
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4))
    batches = pairs(x, blobs()[1])
    calm(model, batches, 8)
    bn = model[0]
    mean = bn.running_mean.clone()
    bn.running_mean.copy_(bn.running_var)
    bn.running_var.copy_(mean)
    return model.eval(), batches, None


@sick(
    "a lost activation",
    "stale-statistics",
    words="ReLU",
)
def an_activation_lost_in_a_port():
    model, batches, _ = settled(
        nn.Sequential(
            nn.Linear(6, 16),
            nn.ReLU(),
            nn.BatchNorm1d(16),
            nn.Linear(16, 4),
        )
    )
    model[1] = nn.Identity()
    return model.eval(), batches, None


@sick(
    "LibreYOLO/libreyolo#700, #707",
    "eps-differs",
    half=("stale-statistics", "evaluation-differs"),
    fresh=True,
)
def another_eps_than_in_training():
    """Nothing in the model tells that it was trained with eps 1e-3."""
    model, batches, _ = settled(mlp(eps=1e-3), blobs(scale=0.02, shift=0.0))
    model[1].eps = model[4].eps = 1e-5
    return model.eval(), batches, None


# ------------------------------------------------------------------ modes


@sick("roytseng-tw/Detectron.pytorch#104", "train-mode-in-eval", fresh=True)
def an_overridden_train_leaves_a_norm_in_training_mode():
    class Detector(nn.Sequential):
        def train(self, mode=True):
            self.training = mode
            for part in list(self)[:4]:
                part.train(mode)
            return self  # forgets the rest

    model = Detector(*mlp())
    batches = pairs(*blobs())
    calm(model, batches, 4)
    return model.eval(), batches, None


@sick(
    "lightly-ai/lightly#1438, pytorch/vision#2079, pytorch/pytorch#86590",
    "frozen-by-requires-grad",
    fresh=True,
)
def frozen_by_requires_grad():
    model, batches, _ = settled()
    for part in list(model)[:5]:
        part.requires_grad_(False)
    return model.train(), batches, None


@sick("speediedan/finetuning-scheduler#13", "tracking-off", fresh=True)
def frozen_by_track_running_stats():
    model, batches, _ = settled()
    for bn in (model[1], model[4]):
        bn.track_running_stats = False
    return model, batches, None


@sick(
    "joeynmt/joeynmt#184, fartashf/vsepp#4, wkentaro/pytorch-fcn#56",
    "fewer-forwards",
    half=("stale-statistics", "evaluation-differs"),
    fresh=True,
)
def evaluation_mode_forgotten_after_validation():
    model, batches = mlp(), pairs(*blobs())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, batches[:4], optimizer, passes=1)
    model.eval()  # validation in the middle of the epoch, and no train() after it
    train(model, batches, optimizer, passes=8)
    return model.train(), batches, optimizer


@sick(
    "AntreasAntoniou/HowToTrainYourMAMLPytorch#3",
    "batch-dependent",
    fresh=True,
)
def training_true_written_into_the_forward():
    class Always(nn.BatchNorm1d):
        def forward(self, x):
            stored = self.running_mean, self.running_var
            return F.batch_norm(x, *stored, self.weight, self.bias, training=True)

    model = nn.Sequential(nn.Linear(6, 16), Always(16), nn.ReLU(), nn.Linear(16, 4))
    batches = pairs(*blobs())
    calm(model, batches, 4)
    return model.eval(), batches, None


@sick("tristandeleu/pytorch-maml#8, xu-ji/IIC#49", "no-running-stats", fresh=True)
def no_running_statistics():
    model, batches, _ = settled(mlp(track_running_stats=False), passes=4)
    return model, batches, None


@sick("pytorch/pytorch#46818", "unregistered-norm", fresh=True)
def norms_made_in_the_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(8, 4)

        def forward(self, x):
            x = nn.Linear(6, 8)(x)
            return self.last(nn.BatchNorm1d(8)(x).tanh())

    return Net(), pairs(*blobs()), None


@sick("open-mmlab/mmdetection#472: a plain list of layers", "unregistered-norm")
def norms_in_a_plain_list():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.norms = [nn.BatchNorm1d(8), nn.BatchNorm1d(8)]
            self.last = nn.Linear(8, 4)

        def forward(self, x):
            return self.last(self.norms[1](self.norms[0](self.first(x)).relu()))

    model, batches = Net(), pairs(*blobs())
    train(model, batches, passes=2)
    return model.eval(), batches, None


# ------------------------------------------------------------------ other data


@sick(
    "tensorflow/models#7604, bearpaw/pytorch-pose#4, yu-changqian/TorchSeg#33",
    "stale-statistics",
    half=("evaluation-differs",),
    words="scale",
    fresh=True,
)
def images_of_another_scale():
    model, batches, _ = settled()
    return model.eval(), [(255 * x, y) for x, y in batches], None


@sick(
    "another domain",
    "stale-statistics",
    half=("evaluation-differs",),
)
def images_of_another_domain():
    model, batches, _ = settled()
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    return model.eval(), [(x @ turn - 3, y) for x, y in batches], None


@sick(
    "yunjey/pytorch-tutorial#62, pytorch/pytorch#3869, #4741",
    "evaluation-differs",
    "stale-statistics",
    half=("stale-statistics",),
    words="recalibrated",
    fresh=True,
)
def a_short_training_at_a_high_rate():
    model = resnet()
    x, y = digits()
    batches = pairs(x[:1024], y[:1024])
    train(model, batches, torch.optim.SGD(model.parameters(), 0.3, 0.9), 2)
    return model, batches[:8], None


@sick(
    "stochastic depth",
    "evaluation-differs",
    "stale-statistics",
    half=("stale-statistics",),
    words="recalibrated",
)
def stochastic_depth():
    model = resnet(drop=0.5)
    x, y = digits()
    batches = pairs(x[:1024], y[:1024])
    train(model, batches, torch.optim.SGD(model.parameters(), 0.1, 0.9), 3)
    return model, batches[:8], None


@sick(
    "uci-cbcl/UFold#18, BCV-Uniandes/DMS#30",
    "evaluation-differs",
    half=("batches-differ", "stale-statistics"),
    words="did not help",
    fresh=True,
)
def single_images_that_differ():
    g = torch.Generator().manual_seed(1)
    level = 4 * torch.randn(64, 1, 1, 1, generator=g).exp()
    x, y = images(64)
    batches = pairs(x * level, y, size=1)
    model = cnn()
    train(model, batches, torch.optim.SGD(model.parameters(), 0.02), 30)
    return model, batches, None


@sick(
    "openpifpaf/openpifpaf#308, vlfeat/matconvnet#393, happynear/NormFace#4",
    "batches-differ",
    fresh=True,
)
def data_sorted_by_class():
    x, y = blobs()
    order = y.argsort()
    batches = pairs(x[order], y[order])
    model = mlp()
    train(model, batches, passes=3)
    return model, batches, None


# ------------------------------------------------------------------ settings


@sick(
    "fastestimator/fastestimator#1201, huggingface/transformers#19454",
    "momentum-one",
    fresh=True,
)
def the_momentum_of_keras():
    model, batches, _ = settled(mlp(momentum=0.99), passes=3)
    return model, batches, None


@sick(
    "momentum too small for the steps",
    "stale-statistics",
    words="start value",
)
def a_momentum_too_small_for_the_steps():
    model, batches, _ = settled(mlp(momentum=0.001), passes=2)
    return model, batches, None


@sick("ultralytics/yolov5#1630: accumulation", "several-forwards")
def gradients_accumulated():
    model, batches = mlp(), pairs(*blobs())
    optimizer = torch.optim.Adam(model.parameters())
    for i, (x, y) in enumerate(batches * 4, start=1):
        F.cross_entropy(model(x), y).backward()
        if i % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model, batches, optimizer


@sick("m2lines/Samudra#572", "several-forwards", fresh=True)
def an_extra_forward_for_every_step():
    model, batches = mlp(), pairs(*blobs())
    optimizer = torch.optim.Adam(model.parameters())

    def again():
        with torch.no_grad():
            model(batches[0][0])

    train(model, batches, optimizer, after=again)
    return model, batches, optimizer


@sick(
    "Tencent/YOLO-Master#262, pytorch/pytorch#96136, deepinsight/insightface#2053",
    "recomputed",
    fresh=True,
)
def checkpointing():
    model = Called(
        lambda m, x: checkpoint(m.inner, x, use_reentrant=False), inner=mlp()
    )
    batches = pairs(*blobs())
    train(model, batches, passes=2)
    return model, batches, None


# ------------------------------------------------------------------ batches


@sick(
    "fastai/fastai#1352, azavea/raster-vision#1029",
    "batch-of-one",
    never=("forward-fails",),
)
def a_last_batch_of_one():
    x, y = blobs(129)
    return mlp(), DataLoader(TensorDataset(x, y), 32), None


@sick("in the middle of a list", "batch-of-one")
def a_batch_of_one_in_the_middle():
    x, y = blobs(256)
    batches = pairs(x, y)
    return mlp(), [*batches[:2], (x[:1], y[:1]), *batches[2:]], None


@sick("at the end of a generator", "batch-of-one")
def a_batch_of_one_at_the_end_of_a_generator():
    x, y = blobs(129)
    return mlp(), (pair for pair in pairs(x, y)), None


@sick(
    "TRAILab/CaDDN#103, jfzhang95/pytorch-deeplab-xception#143",
    "batch-of-one",
    never=("forward-fails",),
    fresh=True,
)
def one_image_and_a_norm_after_global_pooling():
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = cnn()[:6]
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.conv, self.bn = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.branch(x)
            return x + self.bn(self.conv(self.pool(x)))

    return Pooling(), [x for x in images(8)[0].split(1)], None


@sick("wolny/pytorch-3dunet#53: two values per statistic", "tiny-batch")
def tiny_batches():
    model, batches = mlp(), pairs(*blobs(128), size=2)
    train(model, batches, torch.optim.SGD(model.parameters(), 0.01), 2)
    return model, batches, None


# ------------------------------------------------------------------ structure


@sick("pytorch/pytorch#1738, keras-team/keras#8794", "shared-norm", fresh=True)
def one_norm_for_several_time_steps():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.bn = nn.Linear(14, 8), nn.BatchNorm1d(8)
            self.last = nn.Linear(8, 4)

        def forward(self, x):
            h = torch.zeros(len(x), 8)
            for _ in range(4):
                h = h + self.bn(self.cell(torch.cat([x, 5 * h], 1))).relu()
            return self.last(h)

    model, batches = Recurrent(), pairs(*blobs())
    train(model, batches, passes=4)
    return model, batches, None


@sick("carpedm20/DCGAN-tensorflow#266: real and fake, one norm", "shared-norm")
def real_and_fake_through_one_norm():
    def forward(m, x):
        fake = 6 + 0.2 * torch.randn(len(x), 6)
        return m.net(x) - m.net(fake)

    model, batches = Called(forward, net=mlp()), pairs(*blobs())
    train(model, batches, passes=4)
    return model, batches, None


@sick("ruotianluo/self-critical.pytorch#44 and #65", "wrong-axis", fresh=True)
def norm_over_proposals():
    """(N, proposals, features): the number of proposals was given as num_features."""
    model = nn.Sequential(nn.Linear(12, 20, bias=False), nn.BatchNorm1d(5), nn.ReLU())
    return model, [torch.randn(32, 5, 12) for _ in range(4)], None


@sick("chapter 17, patient 10", "wrong-axis")
def rows_for_channels():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    return model, [torch.randn(32, 8, 8) for _ in range(4)], None


@sick("Li et al. 2018: dropout before batch norm", "dropout-before-norm")
def dropout_before_a_norm():
    model = nn.Sequential(
        nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16, bias=False),
        nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    batches = pairs(*blobs())
    calm(model, batches, 4)
    return model, batches, None


@sick("pytorch/vision#5443", "never-updated", fresh=True)
def frozen_norms_in_a_model_trained_from_scratch():
    model = cnn()
    model[1], model[4] = FrozenBatchNorm(8), FrozenBatchNorm(8)
    batches = pairs(*images())
    optimizer = train(model, batches, torch.optim.SGD(model.parameters(), 0.05, 0.9), 4)
    return model, batches, optimizer


@sick("a missing argument", "forward-fails", words="call=")
def a_second_argument_that_the_loader_has_not():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(6)

        def forward(self, x, mask):
            return self.bn(x) * mask

    return Two(), [torch.randn(32, 6) for _ in range(3)], None


# ------------------------------------------------------------------ healthy models


@healthy("a shape probe of a fresh model")
def one_dummy_forward():
    model = mlp()
    model(torch.zeros(2, 6))
    return model, pairs(*blobs()), torch.optim.SGD(model.parameters(), 0.1)


@healthy("a new norm on a pretrained backbone")
def a_new_norm_on_a_pretrained_backbone():
    model, batches, _ = settled()
    model[6] = nn.Sequential(
        nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)
    )
    return model, batches, torch.optim.SGD(model.parameters(), 0.1)


@healthy("two training stages")
def two_stages_of_training():
    model, batches = mlp(), pairs(*blobs())
    train(model, batches, torch.optim.Adam(model.parameters(), 0.01), 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    train(model, batches, optimizer, 8)
    return model, batches, optimizer


@healthy("He et al. 2019: zero-initialised residual branches")
def residuals_that_start_at_zero():
    model = resnet()
    for block in model:
        if isinstance(block, Block):
            nn.init.zeros_(block.bn2.weight)
    x, y = digits()
    model(x[:64])
    return model, pairs(x[:256], y[:256]), torch.optim.SGD(model.parameters(), 0.1)


@healthy("PatrickHua/SimSiam#1: two views of one batch", fresh=True)
def two_views():
    def forward(m, x):
        views = [x + 0.3 * torch.randn_like(x) for _ in range(2)]
        return m.net(views[0]) + m.net(views[1])

    model, batches = Called(forward, net=mlp()), pairs(*blobs())
    calm(model, batches, 6)
    return model, batches, None


@healthy("Hoffer et al. 2017: ghost batches")
def ghost_batches():
    def forward(m, x):
        parts = x.chunk(2) if m.training else (x,)
        return m.last(torch.cat([m.bn(m.first(part)) for part in parts]).relu())

    layers = {"first": nn.Linear(6, 16, bias=False), "bn": nn.BatchNorm1d(16)}
    model = Called(forward, **layers, last=nn.Linear(16, 4))
    batches = pairs(*blobs())
    calm(model, batches, 6)
    return model, batches, None


@healthy("facebookresearch/detr#327, tianzhi0549/FCOS#182", fresh=True)
def frozen_norms_with_statistics_of_their_own():
    trained, batches = cnn(), pairs(*images())
    calm(trained, batches, 6)
    model = copy.deepcopy(trained)
    for i in (1, 4):
        model[i] = FrozenBatchNorm(8)
        model[i].load_state_dict(trained[i].state_dict(), strict=False)
    optimizer = train(
        model, batches, torch.optim.SGD(model.parameters(), 1e-3), passes=1
    )
    return model, batches, optimizer


@healthy("jwyang/faster-rcnn.pytorch#288: norms kept in evaluation mode", fresh=True)
def a_frozen_subclass():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    model, batches, _ = settled()
    for i in (1, 4):
        bn = Frozen(16)
        bn.load_state_dict(model[i].state_dict())
        model[i] = bn.requires_grad_(False)
    return model.train(), batches, torch.optim.SGD(model[6].parameters(), 0.01)


@healthy("a frozen subclass that ignores its mode")
def a_subclass_whose_forward_is_frozen():
    class Frozen(nn.BatchNorm1d):
        def forward(self, x):
            stored = self.running_mean, self.running_var
            return F.batch_norm(x, *stored, self.weight, self.bias, False)

    model, batches, _ = settled()
    for i in (1, 4):
        bn = Frozen(16)
        bn.load_state_dict(model[i].state_dict())
        model[i] = bn.requires_grad_(False)
    return model.train(), batches, torch.optim.SGD(model[6].parameters(), 0.01)


@healthy("Shen et al. 2020: batch norm in a transformer with dropout")
def a_transformer_with_dropout():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, 0.1, batch_first=True)
            self.mlp = nn.Sequential(
                nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16)
            )
            self.drop = nn.Dropout(0.1)
            self.bn1, self.bn2 = nn.BatchNorm1d(16), nn.BatchNorm1d(16)

        def forward(self, x):
            x = x + self.drop(self.attention(x, x, x, need_weights=False)[0])
            x = self.bn1(x.transpose(1, 2)).transpose(1, 2)
            x = x + self.drop(self.mlp(x))
            return self.bn2(x.transpose(1, 2)).transpose(1, 2)

    model = Called(
        lambda m, x: m.last(m.layers(m.first(x)).mean(1)),
        first=nn.Linear(3, 16),
        layers=nn.Sequential(Layer(), Layer()),
        last=nn.Linear(16, 4),
    )
    x, y = blobs(384, channels=15)
    batches = pairs(x.unflatten(1, (5, 3)), y)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    train(model, batches, optimizer, 8)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    train(model, batches, optimizer, 8)
    return model, batches, None


@healthy("kamenbliznashki/normalizing_flows#13: a batch norm of one's own", fresh=True)
def a_norm_whose_momentum_weighs_the_old_value():
    class Own(nn.Module):
        def __init__(self, channels, momentum=0.9, eps=1e-5):
            super().__init__()
            self.momentum, self.eps = momentum, eps
            self.log_gamma = nn.Parameter(torch.zeros(channels))
            self.beta = nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

        def forward(self, x):
            mean, var = self.running_mean, self.running_var
            if self.training:
                mean, var = x.mean(0), x.var(0)
                for old, new in ((self.running_mean, mean), (self.running_var, var)):
                    old.mul_(self.momentum).add_(new.detach() * (1 - self.momentum))
            return (
                self.log_gamma.exp() * (x - mean) / (var + self.eps).sqrt() + self.beta
            )

    model = nn.Sequential(nn.Linear(6, 16), Own(16), nn.ReLU(), nn.Linear(16, 4))
    batches = pairs(*blobs())
    calm(model, batches, 6)
    return model, batches, None


@healthy(
    "huggingface/transformers#17554: a dict of arguments, an output with fields",
    fresh=True,
)
def arguments_by_keyword():
    Output = make_dataclass("Output", ["loss", "logits"])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, pixel_values, labels=None, return_dict=True):
            logits = self.net(pixel_values)
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return Output(loss, logits)

    model, batches, _ = settled()
    whole = Model()
    whole.net.load_state_dict(model.state_dict())
    named = [{"pixel_values": x, "labels": y, "id": 7} for x, y in batches]
    return whole, named, None


@healthy("a dict as one argument")
def a_dict_as_one_argument():
    model, batches, _ = settled()
    whole = Called(lambda m, batch: m.net(batch["image"]), net=model)
    return whole, [{"image": x, "label": y} for x, y in batches], None


@healthy("two inputs")
def two_inputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, a, b):
            return self.net(a + b)

    model, batches, _ = settled()
    whole = Pair()
    whole.net.load_state_dict(model.state_dict())
    return whole, [(0.5 * x, 0.5 * x) for x, _ in batches], None


@healthy("a list of images, and targets", fresh=True)
def a_detector_with_lists():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cnn()

        def forward(self, images, targets=None):
            if self.training and targets is None:
                raise ValueError("In training mode, targets should be passed")
            logits = self.net(torch.stack(images))
            if self.training:
                y = torch.stack([t["label"] for t in targets])
                return {"loss": F.cross_entropy(logits, y)}
            return [{"scores": row.softmax(0)} for row in logits]

    model, batches = cnn(), pairs(*images())
    calm(model, batches, 6)
    whole = Detector()
    whole.net.load_state_dict(model.state_dict())
    listed = [(list(x), [{"label": label} for label in y]) for x, y in batches]
    return whole, listed, None


@healthy("a dataclass")
def a_dataclass_of_arguments():
    Batch = make_dataclass("Batch", ["x", "y"])
    model, batches, _ = settled()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, batch):
            return self.net(batch.x)

    return Whole(), [Batch(x, y) for x, y in batches], None


@healthy("a norm called by keyword")
def a_norm_called_by_keyword():
    model, batches, _ = settled(
        Called(
            lambda m, x: m.last(m.bn(input=m.first(x)).relu()),
            first=nn.Linear(6, 16, bias=False),
            bn=nn.BatchNorm1d(16),
            last=nn.Linear(16, 4),
        )
    )
    return model, batches, None


@sick(
    "a norm unpickled from an old version",
    "forward-fails",
    words="track_running_stats",
)
def a_norm_from_an_old_checkpoint():
    """PyTorch itself asks it for the attribute, so the model does not run."""
    model, batches, _ = settled()
    for bn in (model[1], model[4]):
        del bn.track_running_stats
        del bn._buffers["num_batches_tracked"]
    return model.eval(), batches, None


@healthy("a batch without rows")
def a_batch_without_rows():
    model, batches, _ = settled()
    x, y = batches[0]
    return model, [*batches, (x[:0], y[:0])], None


@healthy("a scripted model")
def a_scripted_model():
    model, batches, _ = settled()
    return torch.jit.script(model.eval()), batches, None


@healthy("Lightning: train() means start the training")
def a_model_whose_train_starts_the_training():
    class Trainer(nn.Sequential):
        def train(self, data=None):
            raise RuntimeError("the training was started")

    model, batches, _ = settled()
    return Trainer(*model), batches, None


@healthy("ultralytics/ultralytics#5891: a model that settled")
def a_model_that_settled():
    return settled()


@healthy("a small ResNet on digits, trained until it settled")
def a_resnet_that_settled():
    model = resnet()
    x, y = digits()
    batches = pairs(x[:768], y[:768])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    train(model, batches, optimizer, 3)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    train(model, batches, optimizer, 3)
    return model, batches[:8], optimizer


@healthy("a model with strong dropout after its last norm")
def dropout_after_the_last_norm():
    model = mlp()
    model.insert(6, nn.Dropout(0.5))
    return settled(model)


@healthy("evaluation of a model without batch norm")
def no_batch_norm():
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    batches = pairs(*blobs())
    train(model, batches, passes=2)
    return model, batches, None


@healthy("a lazy model that never ran")
def a_lazy_model():
    model = nn.Sequential(nn.LazyLinear(8, bias=False), nn.LazyBatchNorm1d())
    return model, pairs(*blobs()), None


@healthy("a traced model")
def a_traced_model():
    model, batches, _ = settled()
    return torch.jit.trace(model.eval(), batches[0][0]), batches, None


@healthy("two heads, of which the data use one")
def a_head_that_no_batch_reaches():
    model, batches, _ = settled()
    other = copy.deepcopy(model)
    return Called(lambda m, x: m.a(x), a=model, b=other), batches, None
