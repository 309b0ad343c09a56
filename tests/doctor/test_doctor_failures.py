"""What does not run, cannot be copied or traced, is said; the rest is examined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from patients import (
    Called,
    batches,
    used,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from bnutils import doctor
from bnutils.doctor.codes import TABLE


def test_dropout_is_named_when_only_evaluation_runs():
    def forward(m, x):
        if m.training:
            raise ValueError("targets are missing")
        return m.inner(x)

    model = Called(forward, inner=nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(6)))
    report = doctor.examine(model, batches())
    assert report.codes == ["dropout-before-norm"]
    assert "targets are missing" in report.notes[0]


def test_length_other_than_channels_fails_and_is_said():
    report = doctor.examine(nn.BatchNorm1d(8), torch.randn(16, 5, 8))
    assert report.codes == ["forward-fails"]
    assert "(16, 5, 8)" in report.findings[0].evidence


def test_model_that_cannot_be_copied_is_examined_without_running_it():
    class Stubborn(nn.BatchNorm1d):
        def __deepcopy__(self, memo):
            raise RuntimeError("one of a kind")

    model = nn.Sequential(Stubborn(6, momentum=0.0))
    report = doctor.examine(model, batches())
    assert report.codes == ["momentum-zero"]
    assert "one of a kind" in report.notes[0]


class Fails(nn.Module):
    def __init__(self, words="no\nmore", when=lambda module: True):
        super().__init__()
        self.words, self.when = words, when

    def forward(self, x):
        if isinstance(x, torch.Tensor) and self.when(self):
            raise RuntimeError(self.words)
        return x


def test_a_failing_forward_is_one_finding_with_the_first_line_of_its_error():
    model = nn.Sequential(used(), Fails("w" * 200 + "\nmore"))
    report = doctor.examine(model, torch.randn(20, 4))
    (one,) = report
    assert (one.code, one.path, one.value) == ("forward-fails", "", 1)
    assert one.evidence == "input (20, 4): RuntimeError: " + "w" * 150
    assert (report.batches, report.notes) == (0, [])


def test_an_error_without_words_is_named_by_its_class():
    (one,) = doctor.examine(nn.Sequential(used(), Fails("")), torch.randn(20, 4))
    assert one.evidence == "input (20, 4): RuntimeError: "


def test_where_training_mode_fails_batch_norm_alone_is_in_it():
    model = nn.Sequential(used(), Fails(when=lambda module: module.training))
    report = doctor.examine(model, [10 + torch.randn(32, 4)] * 2)
    assert report.codes == ["stale-statistics"]
    assert report.notes == [
        "training mode failed (RuntimeError: no): only batch norm was in it"
    ]
    assert report.batches == 2


def test_a_backward_that_fails_is_a_note():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    model = Called(lambda m, x: Once.apply(m.bn(x)), bn=nn.BatchNorm1d(4))
    report = doctor.examine(model, torch.randn(32, 4))
    assert "backward not run: RuntimeError: no way back" in report.notes


def test_the_backward_runs_in_the_mode_in_which_the_forward_ran():
    def forward(m, x):
        if m.training:
            raise ValueError("targets are missing")
        return checkpoint(m.bn, x, use_reentrant=False)

    report = doctor.examine(Called(forward, bn=nn.BatchNorm1d(4)), torch.randn(32, 4))
    assert report.codes == ["recomputed"]
    assert len(report.notes) == 1  # of the training mode that failed


def test_a_model_that_runs_in_its_own_precision_alone_is_judged_by_its_graph():
    modules = {"fc": nn.Linear(4, 3), "bn": nn.BatchNorm1d(3)}
    model = Called(lambda m, x: m.bn(m.fc(x)) @ m.table, **modules)
    model.table = torch.ones(3, 2)  # no buffer: stays float32
    report = doctor.examine(model, torch.randn(32, 4))
    assert [(f.code, f.path) for f in report] == [("redundant-bias", "fc")]
    (note,) = report.notes
    assert note.startswith("biases not tested: RuntimeError: ")


def test_a_failure_of_the_copy_without_hooks_is_not_the_models():
    """The model needs a hook of its user, which a copy does not get."""
    model = nn.Sequential(used(), nn.Linear(2, 3))
    model[0].register_forward_hook(lambda module, args, y: y[:, :2])
    report = doctor.examine(model, torch.randn(20, 4))
    assert not report["forward-fails"]
    (note,) = [note for note in report.notes if "hooks" in note]
    assert "1 hooks of yours were left out" in note
    assert report.checked["forward-fails"][""].startswith("could not: the copy fails")


def test_a_failure_of_the_watching_is_the_doctors():
    class Odd(nn.BatchNorm1d):
        def register_forward_pre_hook(self, hook, **options):
            return super().register_forward_pre_hook(lambda *_: 1 / 0)

    report = doctor.examine(nn.Sequential(Odd(4)), torch.randn(20, 4))
    assert not report["forward-fails"]
    assert any("a fault of the doctor" in note for note in report.notes)


def test_a_check_that_fails_is_said_and_the_others_go_on(monkeypatch):
    broken = replace(TABLE["momentum-one"], check=lambda case, path, norm: 1 / 0)
    monkeypatch.setitem(TABLE, "momentum-one", broken)
    report = doctor.examine(nn.BatchNorm1d(4, momentum=0.0))
    assert report.codes == ["momentum-zero"]
    assert "momentum-one at '': the check failed (ZeroDivisionError" in report.notes[0]
    assert "check failed" in report.checked["momentum-one"][""]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("expected scalar type Half but found Float"), "the same dtype"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "shape and dtype"),
        (RuntimeError("tensors on different devices: device cpu"), "on one device"),
        (AttributeError("no attribute 'head'"), "model's own code"),
        (TypeError("missing 1 required positional argument: 'mask'"), "call=lambda"),
    ],
)
def test_each_failure_has_its_own_remedy(error, words):
    def forward(m, x):
        raise error

    (one,) = doctor.examine(Called(forward, bn=used()), torch.randn(8, 4))
    assert one.code == "forward-fails"
    assert words in one.remedy


def test_a_synchronised_norm_among_several_processes_is_not_run(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(used()))
    report = doctor.examine(model, torch.randn(8, 4))
    assert report.batches == 0
    assert "would wait for the other processes" in report.notes[0]
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    assert not any("would wait" in note for note in doctor.examine(model).notes)
