"""The bar: where someone watches, one at a time, saying what is in work."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import tqdm

from bnutils import sweep, train
from bnutils.progress import bar


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function that says whether a bar was shown, in a terminal or not."""
    for name in ("CI", "BNUTILS_PROGRESS"):
        monkeypatch.delenv(name, raising=False)

    def show(tty: bool = False, wanted: bool | None = None) -> bool:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: tty, raising=False)
        with bar(3, wanted) as advance:
            for _ in range(3):
                advance()
        out, err = capsys.readouterr()
        assert out == ""
        return "step 1 of 3" in err

    return show


def test_a_bar_is_shown_in_a_terminal_and_nowhere_else(shown, monkeypatch):
    assert shown(tty=True)
    assert not shown(tty=False)
    assert not shown(tty=True, wanted=False)
    assert shown(tty=False, wanted=True)


@pytest.mark.parametrize(("name", "value"), [("BNUTILS_PROGRESS", "0"), ("CI", "true")])
def test_the_environment_silences_what_was_not_asked_for(
    shown, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    assert not shown(tty=True)
    assert shown(tty=True, wanted=True)


def test_a_bar_is_shown_in_jupyter(shown, monkeypatch):
    kernel = SimpleNamespace(kernel="an object")
    jupyter = SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", jupyter)
    tqdm_of_terminals = SimpleNamespace(tqdm=tqdm.std.tqdm)
    monkeypatch.setitem(sys.modules, "tqdm.auto", tqdm_of_terminals)
    assert shown()
    jupyter.get_ipython = lambda: None  # imported by a script
    assert not shown()


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What each bar showed: its descriptions and positions, in order."""
    bars = []

    class Recorder(tqdm.std.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append([])

        def update(self, n=1):
            super().update(n)
            assert "%" in str(self) and "<" in str(self)  # it knows the end
            bars[-1].append((self.desc, round(self.n, 6)))

    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=Recorder))
    return bars


def test_a_training_inside_a_sweep_moves_the_sweeps_bar(drawn, net, toy):
    def experiment(epochs):
        train.fit(net, toy, epochs=epochs, batch_size=45, progress=True)
        return epochs

    sweep.run(experiment, [(1,), (2,)], progress=True)
    (one,) = drawn
    assert one == [
        *[("run 1 of 2", 0.5), ("run 1 of 2", 1.0), ("run 2 of 2", 1.0)],
        *[("run 2 of 2", 1 + part / 4) for part in (1, 2, 3, 4)],
        ("run 2 of 2", 2.0),
    ]


def test_a_run_of_two_trainings_does_not_move_beyond_its_end(drawn):
    with bar(2, True, "run") as advance:
        for _ in range(2):
            with bar(1) as inner:
                inner()
        advance()
    assert [n for _, n in drawn[0]] == [1, 1, 1]


def test_inside_a_bar_that_is_not_wanted_nothing_is_shown(drawn):
    with bar(2, False), bar(3, True) as advance:
        advance()
    assert drawn == []


def test_after_an_error_the_next_bar_is_shown(drawn):
    with pytest.raises(ZeroDivisionError), bar(2, True):
        1 / 0  # noqa: B018
    with bar(3, True) as advance:
        advance()
    assert drawn == [[], [("step 2 of 3", 1)]]
