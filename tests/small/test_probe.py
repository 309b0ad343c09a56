"""Recordings hold what really went through a module, and leave the model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnutils import probe


@pytest.fixture
def net():
    torch.manual_seed(0)
    parts = nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)
    return nn.Sequential(*parts).double()


@pytest.fixture
def x():
    return torch.randn(5, 3, dtype=torch.float64)


def hooks(net):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]


def test_outputs_and_inputs_are_those_of_the_formula(net, x):
    with probe.record(net) as seen:
        net(x)
    z = x @ net[0].weight.T + net[0].bias
    torch.testing.assert_close(seen.inputs["0"], x)
    torch.testing.assert_close(seen.outputs["0"], z)
    torch.testing.assert_close(seen.inputs["1"], z)  # before ReLU changed it in place
    torch.testing.assert_close(seen.outputs["1"], z.clamp(min=0))
    torch.testing.assert_close(seen.outputs["2"], net[2](z.relu()))


def test_gradients_are_those_of_the_outputs(net, x):
    with probe.record(net) as seen:
        net(x).square().sum().backward()
    top = 2 * seen.outputs["2"]
    torch.testing.assert_close(seen.gradients["2"], top)
    torch.testing.assert_close(seen.gradients["1"], top @ net[2].weight)
    open_ = (seen.inputs["1"] > 0).double()
    torch.testing.assert_close(seen.gradients["0"], top @ net[2].weight * open_)


def test_recordings_are_detached_copies(net, x):
    with probe.record(net) as seen:
        y = net(x)
    assert not any(v.requires_grad for v in seen.outputs.values())
    before = seen.outputs["2"].clone()
    y.data.zero_()
    assert torch.equal(seen.outputs["2"], before)


def test_the_last_call_counts(net, x):
    with probe.record(net) as seen:
        net(x).sum().backward()
        net(2 * x)
    torch.testing.assert_close(seen.inputs["0"], 2 * x)
    assert seen.gradients == {}  # the second call had no backward


def test_the_last_call_counts_within_one_backward():
    layer, x = nn.Linear(3, 3), torch.randn(5, 3)
    with probe.record(nn.Sequential(layer, layer)) as seen:
        (2 * layer(layer(x))).sum().backward()
    assert seen.gradients["0"].tolist() == [[2, 2, 2]] * 5
    torch.testing.assert_close(seen.inputs["0"], layer(x))
    torch.testing.assert_close(seen.outputs["0"], layer(layer(x)))


def test_without_gradients(net, x):
    with probe.record(net, gradients=False) as seen:
        net(x).sum().backward()
    assert seen.gradients == {}
    with probe.record(net) as seen, torch.no_grad():
        net(x)
    assert seen.outputs.keys() == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        (None, {"0", "1", "2"}),
        (nn.Linear, {"0", "2"}),
        ((nn.Linear, nn.ReLU), {"0", "1", "2"}),
        (["2"], {"2"}),
        ("1", {"1"}),
        (("0", "1"), {"0", "1"}),
        (lambda name, module: name == "" or isinstance(module, nn.ReLU), {"", "1"}),
    ],
)
def test_modules_are_chosen_by_name_type_or_predicate(net, x, modules, names):
    with probe.record(net, modules) as seen:
        net(x)
    assert seen.outputs.keys() == names


def test_module_that_was_not_called_is_absent(net, x):
    with probe.record(net) as seen:
        net[0](x)
    assert seen.outputs.keys() == {"0"}


def test_hooks_are_removed_whatever_happens(net, x):
    before = hooks(net)
    with pytest.raises(RuntimeError), probe.record(net):
        assert hooks(net) != before
        net(x[:, :2])
    assert hooks(net) == before


def test_unknown_name_lists_the_known(net):
    with (
        pytest.raises(KeyError, match="'9'; it has: 0, 1, 2"),
        probe.record(net, ["9"]),
    ):
        pass


def test_choosing_nothing_is_an_error(net):
    with pytest.raises(ValueError, match="no module"), probe.record(net, nn.Conv2d):
        pass


def test_module_that_returns_no_tensor_is_named(x):
    net = nn.Sequential(nn.LSTM(3, 2)).double()
    with (
        pytest.raises(TypeError, match=r"'0' \(LSTM\) returns a tuple"),
        probe.record(net),
    ):
        net(x)
