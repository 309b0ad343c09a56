"""What stands around a batch norm: biases, dropout, axes, several calls."""

from __future__ import annotations

import pytest
import torch
from patients import (
    Called,
    Opaque,
    batches,
    both,
    codes,
    net,
    trained,
    used,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bnutils import doctor, models
from bnutils.doctor.observe import observe, recomputed


@both
def test_bias_before_batch_norm_is_redundant(opaque):
    model = Called(
        lambda m, x: m.out(F.relu(m.bn(m.fc(x)))),
        opaque=opaque,
        fc=nn.Linear(6, 8),
        bn=nn.BatchNorm1d(8),
        out=nn.Linear(8, 2),
    )
    assert [f.path for f in doctor.examine(model, batches())["redundant-bias"]] == [
        "fc"
    ]
    assert ("redundant-bias" in codes(model)) is not opaque


def test_findings_of_a_kind_come_in_the_order_of_the_model():
    model = models.mlp((6, 8, 8, 8, 8, 8, 8, 3))
    paths = [f.path for f in doctor.examine(model)]
    assert paths == [f"linear{i}" for i in range(1, 7)]


@both
@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.bn(F.relu(m.fc(x))),  # a nonlinearity between
        lambda m, x: m.bn(h := m.fc(x)) + h,  # a skip connection sees the bias
        lambda m, x: m.bn(m.act(m.fc(x))),  # a module between
    ],
)
def test_bias_that_has_an_effect_is_not_redundant(forward, opaque):
    modules = {
        "fc": nn.Linear(6, 8),
        "bn": nn.BatchNorm1d(8),
        "act": nn.ReLU(inplace=True),
    }
    model = Called(forward, opaque=opaque, **modules)
    assert codes(model) == codes(model, batches()) == []


def test_bias_of_the_last_axis_is_not_redundant_for_channels_in_axis_1():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(5))
    report = doctor.examine(model, batches(shape=(5, 6)))
    assert [(f.code, f.severity) for f in report] == [("wrong-axis", "note")]


def test_bias_before_a_frozen_batch_norm_is_not_redundant():
    model, _ = trained(net(bias=True))
    model[1].eval().requires_grad_(False)
    assert "redundant-bias" not in codes(model, batches())


@both
def test_dropout_before_batch_norm(opaque):
    model = Called(
        lambda m, x: m.bn(m.fc(m.drop(x))),
        opaque=opaque,
        drop=nn.Dropout(0.5),
        fc=nn.Linear(6, 8, bias=False),
        bn=nn.BatchNorm1d(8),
    )
    (one,) = doctor.examine(model, batches())["dropout-before-norm"]
    assert one.path == "bn"
    assert (
        1.5 < one.value < 2.5
    )  # inputs of mean 0: the variance is 1/(1 - p) times as large


def test_functional_dropout_is_found_in_either_mode():
    model = Called(
        lambda m, x: m.bn(F.dropout(x, 0.5, m.training)), bn=nn.BatchNorm1d(6)
    )
    assert codes(model) == codes(model.eval(), batches()) == ["dropout-before-norm"]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)],
        [nn.Dropout(0.0), nn.BatchNorm1d(6)],
        [nn.Dropout(0.5), nn.LayerNorm(6), nn.BatchNorm1d(6)],
    ],
)
def test_dropout_elsewhere_is_fine(layers):
    assert (
        codes(nn.Sequential(*layers)) == codes(nn.Sequential(*layers), batches()) == []
    )


def test_checkpointing_runs_the_norm_twice():
    inner = net()
    model = Called(
        lambda m, x: checkpoint(m.inner, x, use_reentrant=False), inner=inner
    )
    (one,) = doctor.examine(model, batches())["recomputed"]
    assert (one.path, one.value) == ("inner.1", 2)
    assert "recomputed" not in codes(inner, batches())


@both
def test_one_norm_at_two_places(opaque):
    modules = {"fc": nn.Linear(6, 6, bias=False), "bn": nn.BatchNorm1d(6)}
    model = Called(lambda m, x: m.bn(m.fc(F.relu(m.bn(x)))), opaque=opaque, **modules)
    (one,) = doctor.examine(model, batches())["shared-norm"]
    assert one.value == 2
    assert ("shared-norm" in codes(model)) is not opaque


def test_an_alias_is_not_a_second_place():
    model = net()
    model.alias = nn.ModuleList([model[1]])
    wrapped = Called(lambda m, x: m.net[:4](x), net=model)
    assert codes(wrapped) == codes(wrapped, batches()) == []


def sequences(positions=8):
    """(N, L, C): every channel has its own mean and spread, positions are alike."""
    torch.manual_seed(0)
    c = torch.arange(8.0)
    return [c + (1 + c) * torch.randn(16, positions, 8) for _ in range(4)]


def test_channels_in_the_last_axis():
    (one,) = doctor.examine(nn.Sequential(nn.BatchNorm1d(8)), sequences())
    assert (one.code, one.severity, one.value) == ("wrong-axis", "warning", 8)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    (one,) = doctor.examine(model, sequences())
    assert (one.code, one.severity) == ("wrong-axis", "error")


def test_channels_in_axis_one():
    right = [x.transpose(1, 2) for x in sequences()]
    assert codes(nn.Sequential(nn.BatchNorm1d(8)), right) == []
    turned = Called(
        lambda m, x: m.bn(m.fc(x).transpose(1, 2)),
        fc=nn.Linear(8, 8, bias=False),
        bn=nn.BatchNorm1d(8),
    )
    assert "wrong-axis" not in codes(turned, sequences())
    conv = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8))
    assert codes(conv, sequences()) == []
    functional = Called(lambda m, x: m.bn(F.relu(m.conv(x))), conv=conv[0], bn=conv[1])
    assert codes(functional, sequences()) == []


@pytest.mark.parametrize("first", [True, False])
def test_the_nearest_dropout_is_named(first):
    def forward(m, x):
        parts = m.near(x), m.fc(m.far(x))
        return m.bn(parts[0] + parts[1] if first else parts[1] + parts[0])

    modules = {"fc": nn.Linear(4, 4, bias=False), "bn": nn.BatchNorm1d(4)}
    model = Called(forward, near=nn.Dropout(0.125), far=nn.Dropout(0.25), **modules)
    (one,) = doctor.examine(model)
    assert (one.path, one.evidence) == ("bn", "p = 0.125 in 'near'")


def test_the_shape_of_what_dropout_makes_is_not_its_data():
    parts = {"drop": nn.Dropout(0.5), "bn": nn.BatchNorm1d(4)}
    shape = Called(lambda m, x: m.bn(x.view(m.drop(x).shape)), **parts)
    assert not doctor.examine(shape)
    both = Called(lambda m, x: m.bn(x.view(m.drop(x).shape) + m.drop(x)), **parts)
    assert doctor.examine(both).codes == ["dropout-before-norm"]


def test_branches_that_meet_again_are_searched_once():
    def forward(m, x):
        x = m.drop(x)
        for _ in range(40):  # 2 ** 40 ways from the norm to the dropout
            x = x.relu() + x.tanh()
        return m.bn(x)

    model = Called(forward, drop=nn.Dropout(0.0), bn=nn.BatchNorm1d(4))
    assert not doctor.examine(model)


@pytest.mark.parametrize(
    ("drop", "rate"),
    [
        (lambda x: F.dropout(x), 0.5),
        (lambda x: F.dropout(x, 0.25), 0.25),
        (lambda x: F.dropout(x, p=0.25, training=True), 0.25),
        (lambda x: F.alpha_dropout(x, 0.125, True), 0.125),
        (lambda x: F.dropout(x, 0.5, False), None),
        (lambda x: F.dropout(x, training=False), None),
        (lambda x: F.dropout(x, 0.0), None),
        (lambda x: F.dropout(x, 1.0), None),
        (nn.Dropout(0.25), 0.25),
        (nn.Dropout(0.0), None),
        (nn.Dropout(1.0), None),  # leaves no variance at all
    ],
)
def test_dropout_counts_that_drops_some_but_not_all(drop, rate):
    is_module = isinstance(drop, nn.Module)
    modules = {"drop": drop} if is_module else {}
    modules["bn"] = nn.BatchNorm1d(4)
    model = Called(lambda m, x: m.bn((m.drop if is_module else drop)(x)), **modules)
    found = [(f.code, f.value) for f in doctor.examine(model)]
    assert found == ([("dropout-before-norm", rate)] if rate else [])


@pytest.mark.parametrize(
    ("ratio", "severity"), [(2.1, None), (1.9, "warning"), (0.5, "warning")]
)
def test_dimension_1_holds_the_channels_if_it_varies_twice_as_much(ratio, severity):
    pattern = torch.tensor([0.0, 1.0, 2.0, 3.0])
    x = ratio**0.5 * pattern[:, None] + pattern + torch.zeros(16, 4, 4)
    found = doctor.examine(nn.BatchNorm1d(4), x)["wrong-axis"]
    assert [(f.severity, f.value) for f in found] == (
        [(severity, 4)] if severity else []
    )
    for f in found:
        whole = x.var().item() / pattern.var().item()
        assert f.evidence == (
            "input (16, 4, 4): length = channels = 4; means along dimension 1 vary by "
            f"{ratio / whole:.2g} of the variance, along dimension 2 by {1 / whole:.2g}"
        )


def test_the_spread_of_positions_and_channels_by_hand():
    channels = torch.tensor([0.0, 2.0, 4.0])[:, None].expand(5, 3, 3)  # (N, C, L)
    whole = 8 / 3 * 45 / 44  # of 0, 2 and 4, each 15 times, unbiased
    seen = observe(nn.BatchNorm1d(3), [channels]).seen[""]
    assert seen.spread == pytest.approx((4 / whole, 0.0))
    seen = observe(nn.BatchNorm1d(3), [channels.transpose(1, 2)]).seen[""]
    assert seen.spread == pytest.approx((0.0, 4 / whole))
    seen = observe(nn.BatchNorm1d(3), [torch.ones(5, 3, 3)]).seen[""]
    assert seen.spread == (0.0, 0.0)


def positions_and_channels(n=64):
    """Positions differ far more than channels: only the module before can tell."""
    return torch.arange(4.0)[:, None] * 5 + torch.randn(n, 4, 4)


KNOWN = [
    ("Linear", "error", lambda m, x: m.bn(m.fc(x))),
    ("Linear and ReLU", "error", lambda m, x: m.bn(m.act(m.drop(m.fc(x))))),
    ("convolution and ReLU", None, lambda m, x: m.bn(m.act(m.conv(x)))),
    ("convolution and a function", None, lambda m, x: m.bn(m.conv(x).relu())),
    ("batch norm", None, lambda m, x: m.bn(m.other(m.conv(x)))),
    ("the last of two", "error", lambda m, x: m.bn(m.fc(m.conv(x)))),
    ("the last of two, turned", None, lambda m, x: m.bn(m.conv(m.fc(x)))),
]


@pytest.mark.parametrize(("_", "severity", "forward"), KNOWN, ids=[k[0] for k in KNOWN])
def test_the_module_that_made_the_input_tells_its_axis(_, severity, forward):
    torch.manual_seed(0)
    model = Called(
        forward,
        bn=nn.BatchNorm1d(4),
        other=nn.BatchNorm1d(4),
        act=nn.ReLU(),
        drop=nn.Dropout(0.0),
        fc=nn.Linear(4, 4, bias=False),
        conv=nn.Conv1d(4, 4, 3, padding=1, bias=False),
    )
    found = doctor.examine(model, positions_and_channels())["wrong-axis"]
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_channels_of_the_data_decide_where_no_module_tells():
    x = positions_and_channels()
    model = Called(lambda m, x: m.bn(m.act(x)), bn=nn.BatchNorm1d(4), act=nn.Softplus())
    assert not doctor.examine(model, x)["wrong-axis"]  # dimension 1 varies most
    (one,) = doctor.examine(model, x.transpose(1, 2))["wrong-axis"]
    assert one.severity == "warning"
    turned = Called(
        lambda m, x: m.bn(m.fc(x).transpose(1, 2) * 1),
        bn=nn.BatchNorm1d(4),
        fc=nn.Linear(4, 4, bias=False),
    )
    assert not doctor.examine(nn.BatchNorm1d(1), torch.randn(64, 1, 1))["wrong-axis"]
    turned.fc.weight.data = torch.eye(4)
    assert not doctor.examine(turned, x.transpose(1, 2))["wrong-axis"]


class Amplifier(nn.Dropout):
    """In training mode each channel has a known multiple of its variance."""

    def __init__(self, *ratios):
        super().__init__(0.25)
        self.scale = torch.tensor(ratios).sqrt()

    def forward(self, x):
        return x * self.scale if self.training else x


@pytest.mark.parametrize(
    ("ratios", "scale", "ratio"),
    [
        ((2.0, 4.0), (1.0, 1.0), 8**0.5),  # the geometric mean
        ((2.0, 4.0, 1.0), (1.0, 1.0, 0.0), 8**0.5),  # but for constant channels
        ((1.16,), (1.0,), 1.16),
        ((1.14,), (1.0,), None),
        ((0.5,), (1.0,), None),
        ((1.0,), (0.0,), None),
    ],
)
def test_dropout_is_harmful_from_fifteen_percent_of_variance(ratios, scale, ratio):
    bn = nn.BatchNorm1d(len(ratios))
    model = Opaque(lambda m, x: m.bn(m.drop(x)), drop=Amplifier(*ratios), bn=bn)
    x = torch.randn(64, len(ratios)) * torch.tensor(scale)
    found = doctor.examine(model, x)["dropout-before-norm"]
    assert [f.value for f in found] == (
        [pytest.approx(ratio, rel=1e-4)] if ratio else []
    )
    for one in found:
        assert one.evidence == (
            f"p = 0.25 in 'drop'; variance in training {ratio:.2f} "
            "of that in evaluation"
        )


@pytest.mark.parametrize(
    ("forward", "paths"),
    [
        (lambda m, x: m.bn(m.drop(x)), ["bn"]),
        (lambda m, x: m.bn(m.fc(m.drop(x))), ["bn"]),
        (lambda m, x: m.bn(m.ln(m.drop(x))), []),
        (lambda m, x: m.bn(m.gn(m.drop(x))), []),
        (lambda m, x: m.bn(m.none(x)), []),
        (lambda m, x: m.bn(m.drop(m.ln(x))), ["bn"]),
        (lambda m, x: m.other(m.bn(m.drop(x))), ["bn"]),
        (lambda m, x: m.other(m.drop(m.bn(x))), ["other"]),
        (lambda m, x: m.drop(m.bn(x)), []),
    ],
)
def test_dropout_before_a_norm_in_what_cannot_be_traced(forward, paths):
    torch.manual_seed(0)
    model = Opaque(
        forward,
        drop=nn.Dropout(0.5),
        none=nn.Dropout(0.0),
        fc=nn.Linear(4, 4, bias=False),
        ln=nn.LayerNorm(4),
        gn=nn.GroupNorm(1, 4),
        bn=nn.BatchNorm1d(4),
        other=nn.BatchNorm1d(4),
    )
    found = doctor.examine(model, torch.randn(256, 4))["dropout-before-norm"]
    assert [f.path for f in found] == paths
    assert all("in 'drop'; variance" in f.evidence for f in found)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Called, Opaque])
def test_biases_are_redundant_unless_the_norm_is_frozen(training, kind):
    model = kind(
        lambda m, x: m.b(m.fc2(m.a(m.fc1(x)))),
        a=nn.BatchNorm1d(6),
        b=nn.BatchNorm1d(3),
        fc1=nn.Linear(4, 6),
        fc2=nn.Linear(6, 3),
    ).train(training)
    model.a.eval()
    found = doctor.examine(model, torch.randn(64, 4))["redundant-bias"]
    both = [("fc1", 6), ("fc2", 3)]
    assert [(f.path, f.value) for f in found] == (both[1:] if training else both)
    assert found[-1].evidence == "3 parameters without effect"


def test_one_bias_that_matters_does_not_hide_another():
    def forward(m, x):
        z = m.fc1(x)
        return m.b(m.fc2(m.a(z))) + z.mean().detach()  # the mean sees its bias

    parts = {"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4)}
    model = Opaque(forward, a=nn.BatchNorm1d(4), b=nn.BatchNorm1d(4), **parts)
    found = doctor.examine(model, torch.randn(64, 4))["redundant-bias"]
    assert [f.path for f in found] == ["fc2"]


def test_biases_of_a_model_on_whole_numbers_are_tested_too():
    words = nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)
    x = torch.randint(10, (32, 3), generator=torch.Generator().manual_seed(0))
    assert doctor.examine(nn.Sequential(*words), x).codes == ["redundant-bias"]


def test_calls_in_the_backward_are_counted_apart():
    model = Called(
        lambda m, x: m.b(checkpoint(m.a, m.b(m.fc(x)), use_reentrant=False)),
        fc=nn.Linear(4, 4),
        a=nn.BatchNorm1d(4),
        b=nn.BatchNorm1d(4),
    )
    assert recomputed(model, torch.randn(8, 4)) == {"a": (1, 1), "b": (2, 0)}
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
    report = doctor.examine(model, torch.randn(8, 4))
    assert {f.code: (f.path, f.value) for f in report if "bias" not in f.code} == {
        "recomputed": ("a", 2),
        "shared-norm": ("b", 2),
    }
    (one,) = report["recomputed"]
    assert one.evidence == "1 call in the forward, 1 more in the backward"
    (one,) = report["shared-norm"]
    assert one.evidence.startswith("called 2 times per forward, up to ")


def test_models_without_a_gradient_have_no_backward():
    assert recomputed(nn.BatchNorm1d(4, affine=False), torch.randn(8, 4)) == {
        "": (1, 0)
    }


def test_what_cannot_be_read_from_a_graph_is_seen_in_a_run():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model.append(nn.Sequential(nn.Identity()))
    model[3].forward = torch.Tensor.relu  # has no signature, which tracing asks for
    report = doctor.examine(model, torch.randn(256, 4))
    (note,) = report.notes
    assert note.startswith("not traced: ValueError: ")
    assert report.codes == ["dropout-before-norm", "redundant-bias"]


def test_checkpointing_in_training_alone_is_seen():
    def forward(m, x):
        return checkpoint(m.bn, x, use_reentrant=False) if m.training else m.bn(x)

    model = Called(forward, bn=nn.BatchNorm1d(4))
    assert doctor.examine(model, torch.randn(32, 4)).codes == ["recomputed"]


ELEMENTWISE = [
    *(nn.Identity(), nn.Dropout(0.0), nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU()),
    *(nn.Tanh(), nn.Sigmoid(), nn.ELU(), nn.Hardswish(), nn.MaxPool1d(1)),
]


@pytest.mark.parametrize("through", ELEMENTWISE, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("wrong", [True, False])
def test_the_axis_of_channels_is_seen_through_elementwise_modules(through, wrong):
    layer = nn.Linear(2, 2, bias=False) if wrong else nn.Conv1d(2, 2, 1, bias=False)
    model = nn.Sequential(layer, through, nn.BatchNorm1d(2))
    x = torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(0))
    other = x[:, 1] if wrong else x[:, :, 1]
    other += 3  # the data alone would say the contrary
    found = doctor.examine(model, x)["wrong-axis"]
    assert [f.severity for f in found] == ["error"] * wrong


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dropout_that_was_not_measured_counts_by_its_rate(p):
    def forward(m, x):
        if m.training:
            raise ValueError("targets are missing")
        return m.bn(m.drop(x))

    model = Opaque(forward, drop=nn.Dropout(p), bn=nn.BatchNorm1d(4))
    found = doctor.examine(model, torch.randn(32, 4))["dropout-before-norm"]
    assert [f.evidence for f in found] == ["p = 0.5 in 'drop'"] * (p == 0.5)


@pytest.mark.parametrize("bias", [0.0, 1.0, -1.0])
def test_a_bias_of_any_size_is_tested_by_another(bias):
    parts = {"fc": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    skipped = Opaque(lambda m, x: m.bn(h := m.fc(x)) + h, **parts)
    skipped.fc.bias.data.fill_(bias)
    assert not doctor.examine(skipped, torch.randn(32, 4))["redundant-bias"]


def test_outputs_that_only_grow_with_a_bias_change_too():
    parts = {"fc": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    model = Opaque(lambda m, x: m.bn(m.fc(x)) + m.fc.bias.square().sum(), **parts)
    model.fc.bias.data.zero_()
    assert not doctor.examine(model, torch.randn(32, 4))["redundant-bias"]


@pytest.mark.parametrize("size", [1e9, -1e9])
def test_what_counts_as_a_change_goes_with_the_size_of_the_outputs(size):
    parts = {"fc": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    model = Opaque(lambda m, x: (9 + m.bn(m.fc(x))) * size, **parts)
    assert doctor.examine(model, torch.randn(32, 4)).codes == ["redundant-bias"]


SEQUENCES = [
    (nn.GRU(4, 4, batch_first=True), "error"),
    (nn.MultiheadAttention(4, 1, batch_first=True), "error"),
    (nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True), "error"),
    (nn.LayerNorm(4), "error"),
    (nn.GroupNorm(2, 4), None),
    (nn.InstanceNorm1d(4), None),
]


@pytest.mark.parametrize(
    ("layer", "severity"), SEQUENCES, ids=[type(m).__name__ for m, _ in SEQUENCES]
)
def test_the_axis_of_channels_is_known_for_layers_of_sequences(layer, severity):
    def forward(m, x):
        many = isinstance(m.layer, nn.MultiheadAttention)
        y = m.layer(x, x, x) if many else m.layer(x)
        return m.bn(y[0] if isinstance(y, tuple) else y)

    torch.manual_seed(0)
    x = positions_and_channels()  # dimension 1 varies most, as if it held channels
    x = x if severity else x.transpose(1, 2)
    model = Called(forward, layer=layer, bn=nn.BatchNorm1d(4))
    found = doctor.examine(model, x)["wrong-axis"]
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_two_channels_of_two_positions_are_enough_to_tell_the_axis():
    x = torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] += 3
    assert not doctor.examine(nn.BatchNorm1d(2), x)
    assert doctor.examine(nn.BatchNorm1d(2), x.transpose(1, 2)).codes == ["wrong-axis"]


class Turn(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).contiguous()


@pytest.mark.parametrize("turned", [True, False])
def test_a_module_of_somebody_else_may_have_turned_the_axes(turned):
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 4, 1, bias=False)
    conv.weight.data = torch.eye(4)[..., None]
    block = Called(lambda m, x: m.conv(x).abs(), conv=conv)  # has a known layer
    x = positions_and_channels() if turned else positions_and_channels().transpose(1, 2)
    parts = (conv, Turn()) if turned else (block,)
    report = doctor.examine(nn.Sequential(*parts, nn.BatchNorm1d(4)), x)
    assert report.codes == ["wrong-axis"] * turned


@pytest.mark.parametrize("linear_last", [True, False])
def test_the_layer_nearest_before_the_norm_tells_the_axis(linear_last):
    torch.manual_seed(0)
    conv, fc = nn.Conv1d(4, 4, 1, bias=False), nn.Linear(4, 4, bias=False)
    conv.weight.data, fc.weight.data = torch.eye(4)[..., None], torch.eye(4)
    parts = dict(conv=conv, fc=fc) if linear_last else dict(fc=fc, conv=conv)

    def forward(m, x):
        for name in parts:
            x = getattr(m, name)(x)
        return m.bn(x.abs())

    model = Called(forward, **parts, bn=nn.BatchNorm1d(4))
    report = doctor.examine(model, positions_and_channels().transpose(1, 2))
    assert report.codes == ["wrong-axis"] * linear_last


def test_one_channel_of_one_position_has_no_wrong_axis():
    bn = nn.BatchNorm1d(1)
    assert "wrong-axis" not in doctor.examine(bn, torch.randn(64, 1, 1)).codes


def test_what_the_backward_computes_again_is_seen_without_grad_too():
    def forward(m, x):
        return checkpoint(m.bn, x, use_reentrant=False)

    model = Called(forward, bn=nn.BatchNorm1d(4)).train()
    x = torch.randn(64, 4, requires_grad=False)
    with torch.no_grad():
        assert "recomputed" in doctor.examine(model, x).codes


@pytest.mark.parametrize(
    ("arguments", "found"), [((0.3,), 1), ((0.3, False), 0), ((0.0, True), 0)]
)
def test_dropout_by_position_is_read_from_the_graph(arguments, found):
    model = Called(lambda m, x: m.bn(F.dropout(x, *arguments)), bn=used())
    assert len(doctor.examine(model)["dropout-before-norm"]) == found
