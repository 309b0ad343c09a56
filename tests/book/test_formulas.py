"""Formulas as they are drawn when the book is built."""

from __future__ import annotations

import formulas
import pytest
from docutils import nodes

pytestmark = pytest.mark.skipif(
    not formulas.available(), reason="mini-racer is not installed"
)


def block(text: str, nowrap: bool = False) -> nodes.math_block:
    return nodes.math_block(text, text, nowrap=nowrap)


def test_formula_comes_with_mathml_for_screen_readers():
    html = formulas.ENGINE.draw(r"\frac{a}{b}", False)
    assert html.startswith("<mjx-container")
    assert "<mfrac><mi>a</mi><mi>b</mi></mfrac>" in html


def test_equation_stands_by_itself_and_a_formula_does_not():
    assert 'display="true"' in formulas.ENGINE.draw("x", True)
    assert 'display="true"' not in formulas.ENGINE.draw("x", False)


def test_style_sheet_has_the_letters_that_were_drawn():
    formulas.ENGINE.draw(r"\aleph", False)
    sheet = formulas.ENGINE.styles()
    assert "mjx-c2135" in sheet and "mjx-assistive-mml" in sheet and ".woff" in sheet


@pytest.mark.parametrize(
    ("node", "tex"),
    [
        (nodes.math("x^2", "x^2"), "x^2"),
        (block("x"), "x"),
        (block(r"a \\ b"), r"\begin{split}a \\ b\end{split}"),
        (
            block("a\n\nb"),
            r"\begin{align}\begin{aligned}a\\b\end{aligned}\end{align}",
        ),
        (
            block(r"\begin{align}a\end{align}", nowrap=True),
            r"\begin{align}a\end{align}",
        ),
    ],
)
def test_tex_is_what_sphinx_would_hand_to_the_page(node, tex):
    assert formulas.source_of(node) == (tex, isinstance(node, nodes.math_block))


def test_mistake_is_marked():
    assert "mjx-merror" in formulas.ENGINE.draw(r"\frac{a}{", True)
