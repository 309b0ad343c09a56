"""The figures that several chapters draw."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from bnutils import plot

mpl.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture
def axes():
    plot.use_style()
    figure, axes = plt.subplots(1, 2)
    yield axes
    plt.close(figure)


def luminance(colour: str) -> float:
    rgb = np.array(mpl.colors.to_rgb(colour))
    rgb = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(rgb @ [0.2126, 0.7152, 0.0722])


def test_with_and_without_differ_in_colour_and_in_line_style():
    assert plot.WITH["color"] != plot.WITHOUT["color"]
    assert plot.WITH["linestyle"] != plot.WITHOUT["linestyle"]


@pytest.mark.parametrize("style", [plot.WITH, plot.WITHOUT])
def test_line_colours_stand_out_from_white(style):
    assert 1.05 / (luminance(style["color"]) + 0.05) >= 3  # WCAG 2, graphics


def test_style_keeps_the_backend_and_forgets_earlier_settings():
    mpl.rcParams["lines.linewidth"] = 9
    backend = mpl.get_backend()
    plot.use_style()
    assert mpl.rcParams["lines.linewidth"] == 1.6
    assert mpl.get_backend() == backend


def test_band_is_mean_and_range(axes):
    runs = np.array([[1.0, 2.0], [3.0, 8.0]])
    plot.band(axes[0], [0, 1], runs, **plot.WITH)
    assert axes[0].lines[0].get_ydata().tolist() == [2, 5]
    path = axes[0].collections[0].get_paths()[0].vertices
    assert {tuple(p) for p in path} >= {(0, 1), (0, 3), (1, 2), (1, 8)}


def test_histograms_share_bins_and_add_up_to_100_percent(axes):
    values = {"a": np.array([0.0, 1.0]), "b": np.array([[2.0, 3.0], [9.0, 3.0]])}
    plot.histograms(axes, values, bins=9)
    edges = [sorted({p.get_x() for p in ax.patches}) for ax in axes]
    assert edges[0] == edges[1]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    heights = [sum(p.get_height() for p in ax.patches) for ax in axes]
    assert heights == pytest.approx([100, 100])


def test_histograms_puts_outliers_in_the_last_bin(axes):
    plot.histograms(axes, {"a": np.array([0.5, 7.0])}, bins=np.array([0.0, 1.0, 2.0]))
    assert [p.get_height() for p in axes[0].patches] == [50, 50]


def test_histograms_needs_an_axis_for_each(axes):
    with pytest.raises(ValueError, match="3 histograms"):
        plot.histograms(axes, dict.fromkeys("abc", np.zeros(2)))


def test_table_is_aligned_as_text_and_a_table_in_the_book():
    shown = plot.table(("arm", "rate"), [("with BN", 0.1), ("a|b", 30)])
    assert repr(shown) == "arm      rate\nwith BN   0.1\na|b        30"
    assert shown._repr_markdown_().splitlines() == [
        "| arm | rate |",
        "| :-- | --: |",
        "| with BN | 0.1 |",
        "| a\\|b | 30 |",
    ]


def test_table_refuses_a_row_of_another_length():
    with pytest.raises(ValueError, match="2 columns"):
        plot.table(("arm", "rate"), [("with BN",)])


def test_matrix_writes_every_number_at_its_example_and_channel(axes):
    plot.matrix(axes[0], [[1, -0.5], [0.125, -0.001]], rows=["row 1", "row 2"])
    written = {
        (int(t.get_position()[1]), int(t.get_position()[0])): t.get_text()
        for t in axes[0].texts
    }
    assert written == {(0, 0): "1", (0, 1): "−0.5", (1, 0): "0.12", (1, 1): "0"}
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["A", "B"]
    top, bottom = axes[0].get_ylim()[1], axes[0].get_ylim()[0]
    assert top < bottom  # the first row is drawn on top
