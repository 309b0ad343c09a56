"""Which batch norms are folded and which stay, each with the reason in the report."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from trained import (
    Backwards,
    Branching,
    Net,
    alive,
    data,
    gap,
    keep_attribute,
    wide_pair,
)

from bnutils import deploy


def test_flow_of_data_decides_not_the_order_of_registration():
    model = alive(nn.ModuleDict({"inner": nn.Sequential(Backwards())})["inner"])
    folded, report = deploy.fold(model)
    pairs = {(f.norm, f.layer) for f in report.folded}
    assert pairs == {
        ("0.norm_of_second", "0.second"),
        ("0.norm_of_first", "0.first"),
    }
    assert gap(model, folded, data(6, 3)) < 1e-12


def aliased(m, x):
    z = m.a(x)
    z.relu_()
    return m.bn(z)


def added(m, x):
    z = m.a(x)
    return z + m.bn(z)


def stacked(m, x):
    z = m.a(x)
    return torch.stack([m.bn(z), z])


CASES = [
    ("follows a ReLU", lambda m, x: m.bn(m.act(m.a(x))), {"act": nn.ReLU()}),
    ("follows add", lambda m, x: m.bn(m.a(x) + x), {}),
    ("follows the model's input", lambda m, x: m.a(m.bn(x)), {}),
    ("also goes to add", added, {}),
    ("also goes to relu_", aliased, {}),
    ("also goes to stack", stacked, {}),
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


def test_shared_weights_are_kept():
    other = nn.Linear(4, 4)
    model = Net(lambda m, x: m.other(m.bn(m.a(x))), other=other)
    other.weight = model.a.weight
    (kept,) = deploy.fold(alive(model)).report.kept
    assert kept.reason == "the weights of 'a' are also those of 'other'"


def test_a_batch_norm_with_a_second_input_is_kept():
    class Conditional(nn.BatchNorm1d):
        def forward(self, x, gamma):
            return gamma * super().forward(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = nn.Linear(4, 4), Conditional(4)
            self.other, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x, gamma):
            return self.last(self.other(self.bn(self.fc(x), gamma)))

    model = Model().eval()
    folded, report = deploy.fold(model)
    assert [(k.norm, k.reason) for k in report.kept] == [
        ("bn", "called with several tensors or by keyword")
    ]
    assert [f.norm for f in report.folded] == ["last"]
    x, gamma = torch.randn(5, 4), torch.randn(5, 1)
    torch.testing.assert_close(folded(x, gamma), model(x, gamma))


def test_a_batch_norm_called_by_keyword_is_kept():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = wide_pair()

        def forward(self, x):
            return self.bn(input=self.fc(x))

    model, x = Model().eval(), torch.randn(5, 40)
    for example in (None, x):
        folded, report = deploy.fold(model, example)
        (kept,) = report.kept
        assert kept.reason == "called with several tensors or by keyword"
        torch.testing.assert_close(folded(x), model(x), rtol=0, atol=0)


# Hooks, parametrizations, classes


KINDS = ["forward", "forward_pre", "full_backward", "full_backward_pre"]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_every_kind_are_respected(kind):
    model = wide_pair()
    getattr(model[0], f"register_{kind}_hook")(lambda *args: None)
    (kept,) = deploy.fold(model).report.kept
    assert kept.reason == "a hook on '0' would see other values"


@pytest.mark.parametrize("where", ["a", "bn"])
def test_hooks_are_respected(where):
    model = alive(Net(lambda m, x: m.bn(m.a(x))))
    seen = []
    getattr(model, where).register_forward_hook(lambda *args: seen.append(args[2]))
    (kept,) = deploy.fold(model).report.kept
    assert kept.reason == f"a hook on '{where}' would see other values"
    assert not seen  # the model was not run


@pytest.mark.parametrize("where", ["0", "0.0", "0.0.0"])
def test_a_hook_around_the_layer_alone_is_respected(where):
    layer, bn = wide_pair()
    model = nn.Sequential(nn.Sequential(nn.Sequential(layer)), bn)
    model.eval().get_submodule(where).register_forward_hook(lambda *args: None)
    (kept,) = deploy.fold(model).report.kept
    assert kept.reason == f"a hook on '{where}' would see other values"


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


def test_a_look_alike_without_statistics_is_kept_not_refused():
    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", None)
            self.register_buffer("running_var", None)

        def forward(self, x):
            return x

    (kept,) = deploy.fold(nn.Sequential(nn.Linear(4, 4), Alike()).eval()).report.kept
    assert kept[:2] == ("1", "Alike")
    assert kept.reason == "a Alike is not a batch norm class that is known here"


def test_instance_norm_is_no_batch_norm():
    model = nn.Sequential(*wide_pair(), nn.InstanceNorm1d(30, track_running_stats=True))
    folded, report = deploy.fold(model.eval())
    assert str(report) == "folded 1 of 1 batch norms\n  1 (BatchNorm1d) into 0 (Linear)"
    assert isinstance(folded[2], nn.InstanceNorm1d)


# Shapes


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


def test_outputs_of_a_layer_that_are_not_the_channels_are_no_pair():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(5)).eval()
    x = torch.randn(4, 5, 6)  # legal: the batch norm's channels are axis 1
    folded, report = deploy.fold(model, x)
    assert report.kept[0].reason == "'0' has 8 outputs, the batch norm 5 channels"
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=0)


# What cannot be traced


def test_what_cannot_be_traced_is_taken_apart_and_said():
    model = alive(nn.Sequential(Branching(), nn.Linear(4, 4), nn.BatchNorm1d(4)))
    folded, report = deploy.fold(model)
    assert {f.norm for f in report.folded} == {"0.body.1", "2"}
    assert "forward of '0' cannot be traced" in report.kept[0].reason
    assert "part by part" in report.notes[0]
    assert gap(model, folded, data(5, 4)) < 1e-12


def test_optional_arguments_are_tried_both_ways():
    class Optional(Net):
        def forward(self, x, skip=None):
            z = self.a(x)
            return self.bn(z) + z if skip is None else self.bn(z) + skip

    model = alive(Optional(None))
    folded, report = deploy.fold(model)
    assert not report.folded
    assert gap(model, folded, data(5, 4)) == 0


def test_the_reason_is_that_of_the_call_without_optional_arguments():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = wide_pair()

        def forward(self, x, skip=None):
            z = self.fc(x)
            return self.bn(z.relu()) if skip is None else self.bn(z.tanh()) + skip

    (kept,) = deploy.fold(Optional().eval()).report.kept
    assert kept.reason == "follows relu"


class Untraced(nn.Module):
    """Raises for anything but data; has a container, which is never called itself."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(wide_pair())

    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            raise RuntimeError("first. second\nthird")
        return self.parts[1](self.parts[0](x))


def test_notes_name_the_forward_and_the_first_sentence_of_its_error():
    (note,) = deploy.fold(Untraced().eval()).report.notes
    assert note.startswith(
        "not traced: the forward of the model (RuntimeError: first). "
    )
    (note,) = deploy.fold(nn.Sequential(Untraced()).eval()).report.notes
    assert note.startswith("not traced: the forward of '0' (RuntimeError: first). ")


def test_a_layer_called_in_an_untraced_forward_is_kept_with_that_reason():
    (kept,) = deploy.fold(Untraced().eval()).report.kept
    assert kept.reason == (
        "the forward of the model cannot be traced (RuntimeError: first)"
    )


def test_a_batch_norm_beside_an_untraced_module_is_not_blamed_on_it():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(30)

        def forward(self, x):
            return x

    model = nn.Sequential(Untraced(), Idle()).eval()
    reasons = {k.norm: k.reason for k in deploy.fold(model).report.kept}
    assert reasons["1.bn"] == "not called in evaluation mode"
    assert "the forward of '0'" in reasons["0.parts.1"]
