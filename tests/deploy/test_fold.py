"""Folding changes no output, leaves alone what it may not touch, and says why."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion, parametrizations, prune

from bnutils import deploy, models, norm
from bnutils.data.vision import import_mnist

BN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def alive(model: nn.Module, dtype=torch.float64) -> nn.Module:
    """The model in evaluation mode, with statistics and parameters that are not neutral."""
    g = torch.Generator().manual_seed(1)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=g))
            module.running_var.copy_(torch.rand(n, generator=g) + 0.3)
            for p in module.parameters():
                p.data.copy_(torch.randn(n, generator=g))
    return model.to(dtype).eval()


def gap(model, folded, *inputs) -> float:
    with torch.no_grad():
        y, z = model(*inputs), folded(*inputs)
    return float((y - z).abs().max() / y.abs().max())


def data(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(2))


def layers():
    """One layer of every kind, with the shape of its input."""
    yield "Linear", nn.Linear(6, 8), nn.BatchNorm1d(8), (5, 6)
    yield "Linear, own BN", nn.Linear(6, 8, bias=False), norm.BatchNorm1d(8), (5, 6)
    for d in (1, 2, 3):
        for groups in (1, 2):
            for bias in (True, False):
                for name in ("Conv", "ConvTranspose"):
                    kind = getattr(nn, f"{name}{d}d")
                    layer = kind(4, 6, 3, stride=2, padding=1, groups=groups, bias=bias)
                    label = f"{name}{d}d, groups={groups}, bias={bias}"
                    yield label, layer, BN[d](6), (2, 4, *(7, 6, 5)[:d])
    yield "depthwise", nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), (2, 4, 5, 5)
    reflect = nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect")
    yield "reflect", reflect, nn.BatchNorm1d(6), (2, 4, 7)
    yield "affine=False", nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), (5, 6)
    yield "eps", nn.Linear(6, 8), nn.BatchNorm1d(8, eps=0.5), (5, 6)
    yield "SyncBatchNorm", nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6), (2, 4, 5, 5)


KINDS = list(layers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", KINDS, ids=lambda case: case[0])
def test_folding_changes_nothing_but_rounding(case, dtype):
    _, layer, bn, shape = case
    model = alive(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(bn)), dtype)
    folded, report = deploy.fold(model)
    assert not [m for m in folded.modules() if hasattr(m, "running_var")]
    assert len(report.folded) == 1
    limit = 1e-6 if dtype == torch.float32 else 1e-12
    assert gap(model, folded, data(*shape, dtype=dtype)) < limit
    assert {p.dtype for p in folded.parameters()} == {dtype}


def test_weights_are_those_of_pytorchs_own_fusion():
    model = alive(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    theirs = fusion.fuse_conv_bn_eval(model[0], model[1])
    ours = deploy.fold(model).model[0]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_batch_norm_without_bias():
    bn = norm.BatchNorm1d(8, bias=False)
    model = alive(nn.Sequential(nn.Linear(6, 8, bias=False), bn))
    assert gap(model, deploy.fold(model).model, data(5, 6)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(dtype):
    model = alive(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), dtype)
    folded = deploy.fold(model).model
    assert folded[0].weight.dtype == dtype
    assert gap(model, folded, data(5, 6, dtype=dtype)) < 0.05


class Backwards(nn.Module):
    """Registers its modules in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.norm_of_second = nn.BatchNorm1d(5)
        self.second, self.first = nn.Linear(4, 5), nn.Linear(3, 4)
        self.norm_of_first = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.norm_of_first(self.first(x)).relu()
        return self.norm_of_second(self.second(x))


def test_flow_of_data_decides_not_the_order_of_registration():
    model = alive(nn.ModuleDict({"inner": nn.Sequential(Backwards())})["inner"])
    folded, report = deploy.fold(model)
    pairs = {(f.norm, f.layer) for f in report.folded}
    assert pairs == {
        ("0.norm_of_second", "0.second"),
        ("0.norm_of_first", "0.first"),
    }
    assert gap(model, folded, data(6, 3)) < 1e-12


class Net(nn.Module):
    """A layer and a batch norm, joined by the function given."""

    def __init__(self, function, **modules):
        super().__init__()
        self.a, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def keep_attribute(m, x):
    m.last = m.a(x)
    return m.bn(m.last)


def aliased(m, x):
    z = m.a(x)
    z.relu_()
    return m.bn(z)


CASES = [
    ("follows a ReLU", lambda m, x: m.bn(m.act(m.a(x))), {"act": nn.ReLU()}),
    ("follows add", lambda m, x: m.bn(m.a(x) + x), {}),
    ("follows the model's input", lambda m, x: m.a(m.bn(x)), {}),
    ("also goes to add", lambda m, x: (z := m.a(x)) + m.bn(z), {}),
    ("also goes to relu_", aliased, {}),
    ("also goes to the model's output", lambda m, x: (m.bn(z := m.a(x)), z)[0] + z, {}),
    (
        "after different layers",
        lambda m, x: m.bn(m.b(m.bn(m.a(x)))),
        {"b": nn.Linear(4, 4)},
    ),
    ("also used without", lambda m, x: m.bn(m.a(x)) + m.a(2 * x), {}),
    ("not called", lambda m, x: m.a(x), {}),
    ("kept in an attribute", keep_attribute, {}),
    ("also read directly", lambda m, x: m.bn(m.a(x)) @ m.a.weight, {}),
    (
        "follows a BatchNorm1d",
        lambda m, x: m.bn(m.first(x)),
        {"first": nn.BatchNorm1d(4)},
    ),
]


@pytest.mark.parametrize(
    ("reason", "function", "modules"), CASES, ids=[c[0] for c in CASES]
)
def test_what_does_not_directly_follow_is_kept(reason, function, modules):
    if "output" in reason:

        def function(m, x):
            z = m.a(x)
            return torch.stack([m.bn(z), z])

        reason = "also goes to stack"
    model = alive(Net(function, **copy.deepcopy(modules)))
    folded, report = deploy.fold(model)
    assert not report.folded
    (kept,) = [k for k in report.kept if k.norm == "bn"]
    assert reason in kept.reason
    assert gap(model, folded, data(5, 4)) == 0


def test_output_of_the_layer_that_is_returned_is_kept():
    class Both(Net):
        def forward(self, x):
            z = self.a(x)
            return self.bn(z), z

    (kept,) = deploy.fold(alive(Both(None))).report.kept
    assert kept.reason == "the output of 'a' also goes to the model's output"


def test_two_batch_norms_of_one_layer_are_kept():
    model = Net(lambda m, x: m.bn(m.a(x)) + m.other(m.a(x)), other=nn.BatchNorm1d(4))
    report = deploy.fold(alive(model)).report
    assert {k.reason for k in report.kept} == {
        "'a' is also used without this batch norm"
    }


def test_a_pair_that_is_used_twice_is_folded_once():
    model = alive(Net(lambda m, x: m.bn(m.a(x)) - m.bn(m.a(x * x))))
    folded, report = deploy.fold(model)
    assert len(report.folded) == 1
    assert gap(model, folded, data(5, 4)) < 1e-12


def test_one_module_under_two_names_and_in_a_list_is_folded_everywhere():
    model = Net(lambda m, x: [x := step(x) for step in m.steps][-1])
    model.steps, model.alias = [model.a, model.bn], model.bn
    alive(model)
    folded, report = deploy.fold(model)
    assert len(report.folded) == 1
    assert folded.alias is folded.bn is folded.steps[1]
    assert gap(model, folded, data(5, 4)) < 1e-12


def test_shared_weights_are_kept():
    other = nn.Linear(4, 4)
    model = Net(lambda m, x: m.other(m.bn(m.a(x))), other=other)
    other.weight = model.a.weight
    (kept,) = deploy.fold(alive(model)).report.kept
    assert kept.reason == "the weights of 'a' are also those of 'other'"


@pytest.mark.parametrize("where", ["a", "bn"])
def test_hooks_are_respected(where):
    model = alive(Net(lambda m, x: m.bn(m.a(x))))
    seen = []
    getattr(model, where).register_forward_hook(lambda *args: seen.append(args[2]))
    (kept,) = deploy.fold(model).report.kept
    assert kept.reason == f"a hook on '{where}' would see other values"
    assert not seen  # the model was not run


def test_hook_around_the_pair_does_not_matter():
    model = alive(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))))
    model[0].register_forward_hook(lambda *args: None)
    assert len(deploy.fold(model).report.folded) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (parametrizations.weight_norm, "'a' has a parametrization"),
        (parametrizations.spectral_norm, "'a' has a parametrization"),
        (lambda a: prune.l1_unstructured(a, "weight", 3), "a hook on 'a'"),
    ],
)
def test_weights_that_are_computed_are_kept(change, reason):
    model = Net(lambda m, x: m.bn(m.a(x)))
    change(model.a)
    with torch.no_grad():
        model(torch.randn(5, 4))
    (kept,) = deploy.fold(alive(model)).report.kept
    assert reason in kept.reason


def test_subclasses_with_a_forward_of_their_own_are_kept():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Padding(nn.Conv1d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight, bias).abs()

    class OwnNorm(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x).abs()

    replaced = nn.Linear(4, 4)
    replaced.forward = lambda x: x.abs()
    layers = Doubling(4, 4), Padding(4, 4, 1), nn.Linear(4, 4), replaced
    norms = nn.BatchNorm1d(4), nn.BatchNorm1d(4), OwnNorm(4), nn.BatchNorm1d(4)
    for layer, bn in zip(layers, norms, strict=True):
        model = alive(nn.Sequential(layer, bn))
        folded, report = deploy.fold(model)
        assert "forward of its own" in report.kept[0].reason
        x = data(5, 4, 3) if isinstance(layer, nn.Conv1d) else data(5, 4)
        assert gap(model, folded, x) == 0


def test_mere_subclasses_are_folded():
    class Layer(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)

    class Norm(nn.BatchNorm1d):
        pass

    model = alive(nn.Sequential(Layer(), Norm(4)))
    folded, report = deploy.fold(model)
    assert len(report.folded) == 1
    assert gap(model, folded, data(5, 4)) < 1e-12
    with pytest.raises(AssertionError):
        folded(data(4, 4, 4))


def test_other_classes_with_running_statistics_are_kept():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(4))
            self.register_buffer("running_var", torch.ones(4))

        def forward(self, x):
            return x - self.running_mean

    (kept,) = deploy.fold(nn.Sequential(nn.Linear(4, 4), Frozen()).eval()).report.kept
    assert "a Frozen is not a batch norm class" in kept.reason


def test_linear_on_sequences_is_no_pair():
    """Linear works on the last axis, the batch norm on axis 1; here both have length 4."""
    model = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    folded, _ = deploy.fold(model)
    with pytest.raises(AssertionError, match=r"\(N, C\)"):
        folded(data(5, 4, 4))
    folded, report = deploy.fold(model, data(5, 4, 4))
    assert "3 dimensions in the example" in report.kept[0].reason
    assert gap(model, folded, data(5, 4, 4)) == 0


def test_convolution_of_one_unbatched_signal_is_no_pair():
    model = alive(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)))
    model(data(3, 4))  # legal: (C, L) of the convolution is (N, C) of the batch norm
    with pytest.raises(AssertionError, match=r"\(N, C, L\)"):
        deploy.fold(model).model(data(3, 4))


def test_batch_norm_of_images_after_linear_is_kept():
    model = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4)))
    folded, report = deploy.fold(model)
    assert "last axis" in report.kept[0].reason
    assert gap(model, folded, data(2, 4, 3, 4)) == 0


def test_training_mode_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"training mode: '1' and 1 more.*eval\(\)"):
        deploy.fold(model)
    model.eval()[1].train()
    with pytest.raises(ValueError, match="'1';"):
        deploy.fold(model)
    outer = Backwards().eval()
    outer.training = True  # its forward may branch on it
    with pytest.raises(ValueError, match="the model itself"):
        deploy.fold(outer)


def test_the_mode_of_a_container_does_not_matter():
    wrapped = nn.Sequential(alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))))
    assert wrapped.training
    assert len(deploy.fold(wrapped).report.folded) == 1


def test_missing_statistics_are_refused_by_name():
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    model = nn.Sequential(inner).eval()
    with pytest.raises(ValueError, match=r"'0\.1'.*no running statistics"):
        deploy.fold(model)
    half = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    half[1].running_var = None
    with pytest.raises(ValueError, match="'1'"):
        deploy.fold(half)


def test_lazy_scripted_and_compiled_models_are_refused():
    lazy = nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d()).eval()
    with pytest.raises(ValueError, match="run the model once"):
        deploy.fold(lazy)
    model = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    with pytest.raises(TypeError, match="fold it first"):
        deploy.fold(torch.compile(model))


def test_what_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model.cache = model[0](torch.randn(2, 4))
    with pytest.raises(TypeError, match="cannot be copied"):
        deploy.fold(model)


def test_the_original_is_not_touched():
    model = alive(
        Net(keep_attribute, tail=nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    )
    before = copy.deepcopy(model.state_dict())
    modules = [(id(m), type(m)) for m in model.modules()]
    folded, _ = deploy.fold(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [(id(m), type(m)) for m in model.modules()] == modules
    assert not hasattr(model, "last")
    assert not hasattr(folded, "last")
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in folded.parameters()}


class Branching(nn.Module):
    """Its forward depends on the data, so it cannot be traced as a whole."""

    def __init__(self, reach_inside=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])
        self.reach_inside = reach_inside

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        y = self.body(x)
        if self.reach_inside:
            y = y + self.body[0](x)
        for part in self.parts:
            y = part(y)
        return y


def test_what_cannot_be_traced_is_taken_apart_and_said():
    model = alive(nn.Sequential(Branching(), nn.Linear(4, 4), nn.BatchNorm1d(4)))
    folded, report = deploy.fold(model)
    assert {f.norm for f in report.folded} == {"0.body.1", "2"}
    assert "forward of '0' cannot be traced" in report.kept[0].reason
    assert "part by part" in report.notes[0]
    assert gap(model, folded, data(5, 4)) < 1e-12


def test_an_example_is_compared():
    model = alive(Branching())
    assert deploy.fold(model, data(5, 4)).report.error < 1e-12
    inside = alive(Branching(reach_inside=True))
    with pytest.raises(ValueError, match="not the one that runs"):
        deploy.fold(inside, data(5, 4))


def test_optional_arguments_are_tried_both_ways():
    class Optional(Net):
        def forward(self, x, skip=None):
            z = self.a(x)
            return self.bn(z) + z if skip is None else self.bn(z) + skip

    model = alive(Optional(None))
    folded, report = deploy.fold(model)
    assert not report.folded
    assert gap(model, folded, data(5, 4)) == 0


def test_random_numbers_are_not_used_up():
    model = alive(Net(lambda m, x: m.bn(m.a(x)) + torch.rand(4)))
    state = torch.get_rng_state()
    deploy.fold(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_report_reads_well():
    torch.manual_seed(0)
    model = alive(models.mlp((6, 5, 4, 3)))
    model.append(nn.BatchNorm1d(3, affine=False))
    model.append(nn.BatchNorm1d(3))
    alive(model)
    _, report = deploy.fold(model, data(7, 6))
    assert str(report).splitlines()[:6] == [
        "folded 3 of 4 batch norms",
        "  norm1 (BatchNorm1d) into linear1 (Linear)",
        "  norm2 (BatchNorm1d) into linear2 (Linear)",
        "  7 (BatchNorm1d) into linear3 (Linear)",
        "kept 1",
        "  8 (BatchNorm1d): follows a BatchNorm1d",
    ]
    assert "largest difference on the example" in str(report)
    assert (
        str(deploy.fold(nn.Linear(2, 2).eval()).report) == "folded 0 of 0 batch norms"
    )


def test_long_reports_are_cut():
    pairs = [part for _ in range(20) for part in (nn.Linear(2, 2), nn.BatchNorm1d(2))]
    text = str(deploy.fold(alive(nn.Sequential(*pairs))).report)
    assert "... and 8 more" in text


def test_folded_models_go_on_living():
    """They can be copied, pickled, traced, exported and trained."""
    model = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.float32)
    folded = deploy.fold(model).model
    x = data(5, 4, dtype=torch.float32)
    exported = torch.export.export(folded, (x,)).module()
    for other in (
        pickle.loads(pickle.dumps(folded)),
        torch.fx.symbolic_trace(folded),
        exported,
    ):
        torch.testing.assert_close(other(x), folded(x))
    folded(x).sum().backward()
    assert folded[0].bias.grad is not None


@pytest.fixture(scope="module")
def torchvision():
    try:
        import_mnist()
    except ImportError as error:
        pytest.skip(str(error))
    import torchvision.models

    return torchvision


@pytest.mark.parametrize(
    ("name", "options", "norms", "folded"),
    [
        ("resnet18", {}, 20, 20),
        ("densenet121", {}, 121, 59),
        ("googlenet", {"init_weights": False}, 59, 57),
        ("mnasnet0_5", {}, 52, 52),
        ("shufflenet_v2_x0_5", {}, 56, 56),
    ],
)
def test_models_that_nobody_here_wrote(torchvision, name, options, norms, folded):
    make = getattr(torchvision.models, name)
    model = alive(make(weights=None, **options))
    result, report = deploy.fold(model)
    assert (len(report.folded), len(report.folded) + len(report.kept)) == (
        folded,
        norms,
    )
    assert gap(model, result, data(1, 3, 64, 64)) < 1e-11
