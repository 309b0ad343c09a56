"""The report: true for what is right, readable, for classes and for functions."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from wrong_layers import BiasedRunningVariance, KerasDefaults

from bnutils import conformance, fast, norm
from bnutils.conformance import __main__ as program

LAYERS = [nn.BatchNorm1d, norm.BatchNorm1d, fast.TorchBatchNorm1d]
if not fast.available("kernel"):
    LAYERS.append(fast.KernelBatchNorm1d)


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize(
    "seeds",
    [range(2), pytest.param(range(2, 60), marks=pytest.mark.nightly)],
    ids=["few", "many"],
)
def test_right_classes_pass_every_check_on_every_seed(cls, seeds):
    for seed in seeds:
        report = conformance.compare(cls, seed=seed)
        assert report.passed, str(report)
        assert report
        assert len(report) >= 20
        assert not report.causes


def test_a_half_finished_class_is_credited_with_what_it_can():
    class Half(nn.Module):
        def __init__(self, num_features):
            super().__init__()

        def forward(self, x):
            return norm.normalize(x, *norm.batch_stats(x))

    report = conformance.compare(Half)
    assert report["training output (N, C)"].passed
    assert report["training output (N, C, L)"].passed
    assert "track_running_stats" in report["constructor"].detail


def test_a_report_is_true_when_all_checks_passed():
    report = conformance.compare(BiasedRunningVariance)
    assert not report
    assert not conformance.Report("Empty failures", (conformance.Check("a", False),))
    assert conformance.Report("No failure", (conformance.Check("a", True),))


def test_report_reads_as_text_and_as_table():
    report = conformance.compare(BiasedRunningVariance)
    lines, table = str(report).splitlines(), report._repr_html_()
    assert lines[0].startswith("BiasedRunningVariance: ")
    assert lines[1].startswith("likely causes")
    assert lines[2].startswith("  - the biased variance is stored")
    assert len(
        [line for line in lines if "agrees " in line or "DIFFERS" in line]
    ) == len(report)
    assert any(line.startswith("DIFFERS  running variance") for line in lines)
    assert table.count("<tr>") == len(report) + 1
    assert table.index("<li>the biased variance") < table.index("<table>")
    assert "✗ differs</td><td>running variance" in table
    assert [c.name for c in report][:2] == ["constructor", "state_dict"]
    right = conformance.compare(norm.BatchNorm1d)
    assert len(str(right).splitlines()) == len(right) + 1
    assert right._repr_html_().startswith("<table>")


def test_report_escapes_what_a_class_says():
    class Rude(norm.BatchNorm1d):
        def forward(self, x):
            raise ValueError("<script>")

    assert "<script>" not in conformance.compare(Rude)._repr_html_()


def test_unknown_check_names_those_there_are():
    with pytest.raises(KeyError, match="gradients"):
        conformance.compare(norm.BatchNorm1d)["grads"]


def test_pytorchs_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    conformance.compare(KerasDefaults)
    assert torch.equal(torch.rand(1), expected)


def test_two_reports_are_the_same():
    reports = [conformance.compare(KerasDefaults) for _ in range(2)]
    assert str(reports[0]) == str(reports[1])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (functools.partial(norm.BatchNorm1d), "BatchNorm1d"),
        (lambda c, **options: norm.BatchNorm1d(c, **options), "<lambda>"),
        (lambda *args, **options: norm.BatchNorm1d(*args, **options), "<lambda>"),
    ],
    ids=["partial", "options", "any arguments"],
)
def test_functions_that_make_layers_are_compared(make, name):
    report = conformance.compare(make)
    assert report, str(report)
    assert report.subject == name


def test_defaults_behind_a_function_are_compared_too():
    report = conformance.compare(
        lambda c, **options: norm.BatchNorm1d(c, **{"eps": 1e-3, **options})
    )
    assert report["constructor"].detail.startswith("default of eps: 0.001")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (norm.BatchNorm1d(3), "takes a class, here BatchNorm1d.*made already"),
        ("BatchNorm1d", "takes a class or a function .* but got 'BatchNorm1d'"),
    ],
)
def test_what_makes_no_layers_is_refused(thing, words):
    with pytest.raises(TypeError, match=words):
        conformance.compare(thing)


def test_the_command_line_prints_the_report_and_says_whether_it_passed(capsys):
    assert program.main(["bnutils.norm:BatchNorm1d"]) == 0
    assert "26 of 26 checks agree" in capsys.readouterr().out
    assert program.main(["wrong_layers:BiasedRunningVariance", "--seed", "3"]) == 1
    assert "DIFFERS  running variance" in capsys.readouterr().out


@pytest.mark.parametrize(
    "target", ["bnutils.nowhere:X", "bnutils.norm:X", "bnutils.norm:__all__", "a b"]
)
def test_the_command_line_ends_with_2_where_there_is_nothing_to_compare(target, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main([target])
    assert stop.value.code == 2
    assert target in capsys.readouterr().err
