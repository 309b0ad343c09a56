"""The book's figure style, and the figures and tables that several chapters draw.

In a notebook figures are vector drawings on white. The book's pages exchange the colours of this
module, black, white and greys for others in the dark; a label drawn on a map, whose ground stays
as it is, keeps its colour by ``gid="on-map"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "WIDTH",
    "WITH",
    "WITHOUT",
    "Table",
    "band",
    "histograms",
    "matrix",
    "table",
    "use_style",
]

# Okabe & Ito's palette: distinguishable with every common colour blindness.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#707070"

WIDTH = 6.4  # inches, the widest figure of the book

WITH: dict[str, Any] = {"color": BLUE, "linestyle": "-", "label": "with BN"}
WITHOUT: dict[str, Any] = {"color": ORANGE, "linestyle": "--", "label": "without BN"}

_STYLE: dict[str, Any] = {
    "figure.figsize": (WIDTH, 3.2),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY, GREY]),
    "grid.alpha": 0.25,
    "svg.hashsalt": "book",  # the same names inside a drawing on every run
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def use_style() -> None:
    """Set the book's Matplotlib style; in a notebook, draw figures as SVG."""
    mpl.rcParams.update(mpl.rcParamsDefault | _STYLE | {"backend": mpl.get_backend()})
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None})


def band(ax: Axes, x: ArrayLike, runs: ArrayLike, **style: Any) -> None:
    """Draw the mean of several runs as a line and their range as a band.

    Parameters
    ----------
    ax : Axes
    x : sequence of length T
    runs : array, shape (seeds, T)
    **style
        Of the line, for example ``**WITH``.
    """
    runs = np.asarray(runs, dtype=float)
    (line,) = ax.plot(x, runs.mean(0), **style)
    ax.fill_between(
        x, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, lw=0
    )


def histograms(
    axes: Sequence[Axes],
    values: Mapping[str, ArrayLike],
    bins: np.ndarray | int = 60,
    **style: Any,
) -> None:
    """Draw one histogram per entry of ``values``, titled by name, on a common scale.

    Parameters
    ----------
    axes : as many Axes as there are entries
    values : name to array of any shape
    bins : edges shared by all panels, or their number over the common range
    **style
        Of the filled histogram, for example ``color=plot.BLUE``.

    Raises
    ------
    ValueError
        Fewer axes than arrays.
    """
    if len(axes) < len(values):
        raise ValueError(f"{len(values)} histograms need as many axes, got {len(axes)}")
    flat = {name: np.asarray(v, dtype=float).ravel() for name, v in values.items()}
    if isinstance(bins, int):
        every = np.concatenate(list(flat.values()))
        bins = np.linspace(every.min(), every.max(), bins + 1)
    for ax, (name, v) in zip(axes, flat.items()):
        share = np.full(v.size, 100 / v.size)
        ax.hist(np.clip(v, bins[0], bins[-1]), bins, weights=share, **style)
        ax.set_title(name)


def matrix(
    ax: Axes,
    values: ArrayLike,
    title: str = "",
    *,
    columns: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    color: str = "by channel",
) -> None:
    """Draw a small batch as a table of numbers, one row per example, one colour per channel.

    Parameters
    ----------
    ax : Axes
    values : array, shape (N, C), or (C,) for one number per channel
    title : str
    columns, rows : sequence of str, lengths C and N, optional
        Labels; by default A, B, ... and none.
    color : str
        "by channel", or one colour for all cells.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    tints = (SKY, ORANGE, GREEN, PURPLE)
    for (n, c), value in np.ndenumerate(table):
        tint = tints[c % len(tints)] if color == "by channel" else color
        box = (c, n), 0.96, 0.92
        ax.add_patch(mpl.patches.Rectangle(*box, color=tint, alpha=0.3, lw=0))
        # "+ 0" makes a zero of the -0.0 that rounding leaves.
        text = f"{round(value, 2) + 0:g}".replace("-", "−")
        ax.text(c + 0.48, n + 0.46, text, ha="center", va="center")
    labels = columns or [chr(ord("A") + c) for c in range(table.shape[1])]
    ax.set_xticks(np.arange(table.shape[1]) + 0.48, labels)
    ax.set_yticks(np.arange(table.shape[0]) + 0.46, rows or [""] * table.shape[0])
    ax.set(xlim=(0, table.shape[1]), ylim=(table.shape[0], 0), title=title)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


class Table:
    """Rows under headings; Jupyter and the book show it as a table, ``print`` aligns it.

    Attributes
    ----------
    headings : list of str
    rows : list of list of str
    """

    def __init__(
        self, headings: Sequence[object], rows: Sequence[Sequence[object]]
    ) -> None:
        self.headings = [str(cell) for cell in headings]
        self.rows = [[str(cell) for cell in row] for row in rows]
        wrong = [row for row in self.rows if len(row) != len(self.headings)]
        if wrong:
            raise ValueError(
                f"a table of {len(self.headings)} columns cannot hold the row {wrong[0]}"
            )

    def __repr__(self) -> str:
        """Align the columns: the first to the left, the others, numbers mostly, right."""
        lines = [self.headings, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        aligned = []
        for first, *others in lines:
            cells = [c.rjust(width) for c, width in zip(others, widths[1:])]
            aligned.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
        return "\n".join(aligned)

    def _repr_markdown_(self) -> str:
        # A bar inside a cell would end the cell.
        lines = [[cell.replace("|", "\\|") for cell in self.headings]]
        lines += [[":--", *["--:"] * (len(self.headings) - 1)]]
        lines += [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def table(headings: Sequence[object], rows: Sequence[Sequence[object]]) -> Table:
    """Make a table to be shown as the last value of a cell.

    Parameters
    ----------
    headings : sequence of str
        Names of the columns.
    rows : sequence of sequences
        As many cells as there are headings; anything but text becomes text.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        A row has more or fewer cells than there are headings.
    """
    return Table(headings, rows)
