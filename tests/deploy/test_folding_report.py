"""The report on a folded model reads well, however long it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trained import alive, data

from bnutils import deploy, models


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


def text_of(folded=0, kept=(), notes=(), error=None):
    folded = [deploy.FoldedNorm(f"n{i}", "B", f"l{i}", "L") for i in range(folded)]
    kept = [deploy.KeptNorm(path, "B", "why") for path in kept]
    return str(deploy.FoldReport(folded, kept, list(notes), error)).splitlines()


@pytest.mark.parametrize("n", [1, 12, 13, 14, 20])
def test_a_list_is_cut_only_where_that_saves_a_line(n):
    lines = text_of(n)[1:]
    if n <= 13:
        assert lines == [f"  n{i} (B) into l{i} (L)" for i in range(n)]
    else:
        assert len(lines) == 13
        assert lines[-1] == f"  ... and {n - 12} more"


@pytest.mark.parametrize(
    ("n", "names"),
    [(1, "a"), (3, "a, b, c"), (4, "a, b, c, d"), (5, "a, b, c and 2 more")],
)
def test_names_that_share_a_reason_stand_together(n, names):
    assert text_of(kept="abcdefg"[:n])[1:] == [f"kept {n}", f"  {names} (B): why"]


def test_notes_come_before_the_error():
    lines = text_of(notes=["one", "two"], error=3e-7)
    assert lines[1:3] == ["note: one", "note: two"]
    assert lines[3] == "largest difference on the example: 3e-07 (relative)"
    assert text_of(error=0.0)[1] == "largest difference on the example: 0 (relative)"


def test_long_lines_go_on_indented_after_88_columns():
    words = "four " * 40
    first, *rest = text_of(notes=[words])[1:]
    assert len(first) <= 88 < len(first) + len(" four")
    assert all(line.startswith("      four") and len(line) <= 88 for line in rest)
    assert len(text_of(notes=["a " * 37 + "b" * 8])) == 2  # 88 columns fit
    assert len(text_of(notes=["a " * 37 + "b" * 9])) == 3  # 89 do not
