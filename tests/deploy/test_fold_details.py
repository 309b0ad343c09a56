"""Folding at the edges: precision, modes, hooks, odd forwards, and outputs compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bnutils import deploy
from bnutils.deploy import example


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(dtype=torch.float32):
    """Layer and batch norm, with statistics and parameters that are not neutral."""
    torch.manual_seed(0)
    layer, bn = nn.Linear(40, 30), nn.BatchNorm1d(30)
    for values in (bn.running_mean, bn.weight.data, bn.bias.data):
        values.normal_()
    bn.running_var.uniform_(1e-4, 1e-3)
    return nn.Sequential(layer, bn).to(dtype).eval()


def test_float32_weights_are_those_of_float64_rounded_once():
    model = pair()
    folded = deploy.fold(model).model[0]
    w, b, gamma, beta, mean, var = (
        t.detach().numpy().astype(np.float64)
        for t in (*model[0].parameters(), *model[1].parameters(), *model[1].buffers())
        if t.dim()
    )
    scale = gamma / np.sqrt(var + model[1].eps)
    weight = (w * scale[:, None]).astype(np.float32)
    bias = (beta + (b - mean) * scale).astype(np.float32)
    np.testing.assert_array_equal(folded.weight.detach().numpy(), weight)
    np.testing.assert_allclose(folded.bias.detach().numpy(), bias, rtol=1e-7)


@pytest.mark.parametrize("needed", [True, False])
def test_frozen_weights_stay_frozen(needed):
    folded = deploy.fold(pair().requires_grad_(needed)).model
    assert [p.requires_grad for p in folded.parameters()] == [needed, needed]


def test_a_folded_model_is_in_evaluation_mode_throughout():
    folded = deploy.fold(pair()).model
    assert not any(m.training for m in folded.modules())
    assert str(deploy.fold(folded).report) == "folded 0 of 0 batch norms"


def test_what_stands_for_a_batch_norm_shows_what_may_pass():
    signals = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).eval()
    assert repr(deploy.fold(pair()).model[1]) == "PassOn((N, C))"
    assert repr(deploy.fold(signals).model[1]) == "PassOn((N, C, L))"


KINDS = ["forward", "forward_pre", "full_backward", "full_backward_pre"]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_every_kind_are_respected(kind):
    model = pair()
    getattr(model[0], f"register_{kind}_hook")(lambda *args: None)
    (kept,) = deploy.fold(model).report.kept
    assert kept.reason == "a hook on '0' would see other values"


def test_instance_norm_is_no_batch_norm():
    model = nn.Sequential(*pair(), nn.InstanceNorm1d(30, track_running_stats=True))
    folded, report = deploy.fold(model.eval())
    assert str(report) == "folded 1 of 1 batch norms\n  1 (BatchNorm1d) into 0 (Linear)"
    assert isinstance(folded[2], nn.InstanceNorm1d)


class Untraced(nn.Module):
    """Raises for anything but data; has a container, which is never called itself."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(pair())

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


def test_the_reason_is_that_of_the_call_without_optional_arguments():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = pair()

        def forward(self, x, skip=None):
            z = self.fc(x)
            return self.bn(z.relu()) if skip is None else self.bn(z.tanh()) + skip

    (kept,) = deploy.fold(Optional().eval()).report.kept
    assert kept.reason == "follows relu"


def test_the_example_runs_without_a_graph():
    class Looks(nn.Module):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return x

    seen = []
    deploy.fold(nn.Sequential(*pair(), Looks()).eval(), torch.randn(3, 40))
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
        assert (
            example.require_same((0, {"y": before}), (0, {"y": after})) == error
        )
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


def test_the_first_module_in_training_mode_is_named_where_no_batch_norm_is():
    model = nn.Sequential(*pair(), nn.Dropout(), nn.ReLU(), nn.Linear(30, 2)).eval()
    model[2].train(), model[4].train()
    with pytest.raises(ValueError, match="in training mode: '2' and 1 more;"):
        deploy.fold(model)


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


@pytest.mark.parametrize("where", ["0", "0.0", "0.0.0"])
def test_a_hook_around_the_layer_alone_is_respected(where):
    layer, bn = pair()
    model = nn.Sequential(nn.Sequential(nn.Sequential(layer)), bn)
    model.eval().get_submodule(where).register_forward_hook(lambda *args: None)
    (kept,) = deploy.fold(model).report.kept
    assert kept.reason == f"a hook on '{where}' would see other values"


def test_outputs_of_a_layer_that_are_not_the_channels_are_no_pair():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(5)).eval()
    x = torch.randn(4, 5, 6)  # legal: the batch norm's channels are axis 1
    folded, report = deploy.fold(model, x)
    assert report.kept[0].reason == "'0' has 8 outputs, the batch norm 5 channels"
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=0)


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
            self.fc, self.bn = pair()

        def forward(self, x):
            return self.bn(input=self.fc(x))

    model, x = Model().eval(), torch.randn(5, 40)
    for example in (None, x):
        folded, report = deploy.fold(model, example)
        (kept,) = report.kept
        assert kept.reason == "called with several tensors or by keyword"
        torch.testing.assert_close(folded(x), model(x), rtol=0, atol=0)
