"""The report as text, as a table and as data."""

from __future__ import annotations

import pytest
import torch
from patients import (
    batches,
    net,
    trained,
)
from torch import nn

from bnutils import doctor
from bnutils.doctor.codes import SEVERITIES, TABLE, Found, finding


def test_several_findings_come_worst_first():
    model, optimizer = trained(net(bias=True))
    model[1].running_var[0] = float("nan")
    report = doctor.examine(model, batches(), optimizer)
    assert report.codes == ["nonfinite-statistics", "redundant-bias"]


def test_report_as_text_table_and_data():
    model, optimizer = trained(net(bias=True))
    model[1].running_mean += 50
    report = doctor.examine(model, batches(), optimizer)
    text, table = str(report), report._repr_html_()
    assert text == repr(report)
    assert text.splitlines()[0] == "1 error, 1 note (1 batch norm, 8 batches examined)"
    assert max(map(len, text.splitlines())) <= 88
    assert [f.severity for f in report] == ["error", "note"]
    assert len(report) == 2
    assert report["dead-channels"] == []
    assert table.count("<tr>") == 3
    for one in report:
        assert one.code in text
        assert one.code in table
        assert one.code in doctor.CODES
        assert one.consequence
        assert one.remedy
        assert isinstance(one.value, float)
    with pytest.raises(KeyError, match="stale-statistics"):
        report["stale"]


def test_healthy_report_is_false_and_says_what_was_not_checked():
    report = doctor.examine(net())
    assert not report
    first, *rest = str(report).splitlines()
    assert first == "no finding (1 batch norm, 0 batches examined)"
    words = " ".join(" ".join(rest).split())
    assert words.startswith("not checked: ")
    assert "kinds (no batches were given)" in words
    assert "(no optimizer was given)" in words
    assert "<table" not in report._repr_html_()
    assert "kinds (no batches were given)" in report._repr_html_()


class Second(nn.Sequential):
    """Goes past the first of its two modules."""

    def forward(self, x):
        return self[1](x)


def test_report_says_what_became_of_each_check_at_each_norm():
    model, _ = trained(net())
    model.append(Second(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.0)))
    report = doctor.examine(model, batches(), torch.optim.SGD(model.parameters(), 0.1))
    assert set(report.checked) == set(doctor.CODES)
    checked = report.checked["momentum-zero"]
    assert checked == {"1": "fine", "4.0": "fine", "4.1": "found"}
    assert report.checked["tiny-batch"]["4.0"] == "could not: no batch reached it"
    assert report.checked["tiny-batch"]["1"] == "fine"
    assert report.checked["sync-without-group"]["1"].startswith("not applicable: ")
    assert report.checked["several-forwards"]["1"].startswith("could not: SGD counts")
    assert "no batch reached 4.0 (1 of 3)" in report.notes


def test_many_modules_of_one_finding_share_a_row():
    model = nn.Sequential(*(nn.BatchNorm1d(6, momentum=0.0) for _ in range(9)))
    report = doctor.examine(model)
    assert len(report) == 9
    assert "0, 1, 2 and 6 more" in str(report)
    assert report._repr_html_().count("<tr>") == 2


def test_report_escapes_names():
    model = nn.Sequential()
    model.add_module("<script>", nn.BatchNorm1d(3, momentum=0.0))
    table = doctor.examine(model)._repr_html_()
    assert "<script>" not in table
    assert "&lt;script&gt;" in table


def report_of(*findings, notes=(), norms=2, batches=1):
    made = [
        doctor.Finding.of(code, Found(f"{value} seen", value, None, severity), path)
        for code, path, value, severity in findings
    ]
    return doctor.Report(made, norms, batches, list(notes))


def dead(n):
    return [("dead-channels", f"n{i}", 1, None) for i in range(n)]


@pytest.mark.parametrize(
    ("findings", "norms", "batches", "headline"),
    [
        ([], 0, 0, "nothing to examine (0 batch norms, 0 batches)"),
        ([], 1, 1, "no finding (1 batch norm, 1 batch examined)"),
        (dead(1), 2, 8, "1 note (2 batch norms, 8 batches examined)"),
        (dead(2), 2, 2, "2 notes (2 batch norms, 2 batches examined)"),
        (
            [*dead(1), ("momentum-zero", "", 0, None), ("tiny-batch", "", 4, None)] * 2,
            2,
            1,
            "2 errors, 2 warnings, 2 notes (2 batch norms, 1 batch examined)",
        ),
    ],
)
def test_headline_counts_by_severity(findings, norms, batches, headline):
    report = report_of(*findings, norms=norms, batches=batches)
    assert str(report).splitlines()[0] == headline
    assert headline in report._repr_html_()
    assert (len(report), bool(report)) == (len(findings), bool(findings))


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (1, "n0"),
        (3, "n0, n1, n2"),
        (4, "n0, n1, n2, n3"),
        (5, "n0, n1, n2 and 2 more"),
    ],
)
def test_modules_of_one_finding_share_its_texts(n, names):
    lines = str(report_of(*dead(n))).splitlines()[1:]
    code = TABLE["dead-channels"]
    assert lines == [
        f"NOTE     dead-channels: {names}",
        "  found    1 seen",
        f"  means    {code.means}",
        f"  remedy   {code.remedy}",
    ]
    assert f"<td>{names}</td><td>1 seen</td>" in report_of(*dead(n))._repr_html_()


def test_the_largest_number_of_a_group_comes_first_and_is_the_evidence():
    values = {"a": 2, "": -7, "b": 3}
    report = report_of(*(("dead-channels", p, v, None) for p, v in values.items()))
    _, first, second, *_ = str(report).splitlines()
    assert first == "NOTE     dead-channels: the model, b, a"
    assert second == "  found    -7 seen (the model)"


def test_severities_of_one_code_are_apart_and_worst_comes_first():
    one = ("dead-channels", "x", 1, None), ("dead-channels", "y", 2, "warning")
    report = report_of(("momentum-zero", "z", 0, None), one[1], one[0])
    text = str(report).splitlines()
    assert [line for line in text if not line.startswith(" ")][1:] == [
        "ERROR    momentum-zero: z",
        "WARNING  dead-channels: y",
        "NOTE     dead-channels: x",
    ]


def test_lines_of_the_report_end_at_88_columns_and_go_on_under_the_text():
    words = "some-what hyphenated " * 9
    text = str(report_of(("momentum-zero", words, 0, None), notes=[words]))
    lines = text.splitlines()
    assert max(map(len, lines)) in range(80, 89)
    assert lines[2][10] == " " != lines[2][11]
    assert not any(line.endswith("-") for line in lines)
    assert lines[-3].startswith("note: some-what")
    exact = "a " * 40 + "bb"
    assert len(str(report_of(notes=[exact])).splitlines()) == 2  # 88 columns fit
    assert len(str(report_of(notes=[exact + "b"])).splitlines()) == 3


def test_notes_stand_below_the_table_or_the_headline():
    with_it = report_of(*dead(1), notes=["a < b", "c"])._repr_html_()
    assert with_it.endswith("</table><p>note: a &lt; b</p><p>note: c</p>")
    without = report_of(notes=["a < b"])._repr_html_()
    assert without == (
        "<p>no finding (2 batch norms, 1 batch examined)</p><p>note: a &lt; b</p>"
    )


def test_a_finding_is_added_by_one_entry_above_one_function():
    before = dict(TABLE)
    texts = {"what": "eps is large", "means": "a smaller output", "remedy": "1e-5"}

    @finding("large-eps", "note", **texts)
    def large_eps(case, path, norm):
        if norm.eps > 0.1:
            return Found(f"eps = {norm.eps:g}", norm.eps)

    try:
        model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, eps=0.5))
        (one,) = doctor.examine(model)
        assert (one.code, one.path, one.evidence) == ("large-eps", "1", "eps = 0.5")
        assert (one.severity, one.consequence, one.remedy) == (
            "note",
            "a smaller output",
            "1e-5",
        )
    finally:
        del TABLE["large-eps"]
    assert before == TABLE


def test_every_code_has_its_texts_and_severities_are_in_order():
    assert set(doctor.CODES) == set(TABLE)
    order = [SEVERITIES.index(TABLE[name].severity) for name in doctor.CODES]
    assert order == sorted(order)
    for code in TABLE.values():
        assert all((code.what, code.means, code.remedy))
        assert set(code.unless) <= set(TABLE)
