"""Sweeps: order, errors, grids, and Ctrl-C in the middle."""

from __future__ import annotations

import itertools
import signal
import threading

import numpy as np
import pytest

from bnutils import sweep, train

GRID = list(itertools.product((0.1, 1.0), (1, 2, 3)))


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_runs_each_setting_once_in_order():
    seen = []
    results = sweep.run(lambda *s: seen.append(s) or len(seen), GRID, progress=False)
    assert seen == GRID == results.settings == list(results)
    assert list(results.values()) == [1, 2, 3, 4, 5, 6]
    assert not results.interrupted and results.note == ""
    assert repr(results) == "results of 6 runs"


def test_array_has_the_shape_of_the_grid_and_of_one_result():
    results = sweep.run(lambda r, s: (int(r), s), GRID, progress=False)
    array = results.array((0.1, 1.0), (1, 2, 3))
    assert array.shape == (2, 3, 2) and array.dtype == float
    assert array[1, 2].tolist() == [1.0, 3.0]
    assert results.array((1.0,), (3, 1))[0, :, 1].tolist() == [3.0, 1.0]


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
def test_interruption_keeps_what_is_done_and_says_how_far(swallowed):
    def experiment(rate, seed):
        if (rate, seed) == (1.0, 1):
            try:
                press()
            except KeyboardInterrupt:
                if not swallowed:
                    raise
        return seed

    before = signal.getsignal(signal.SIGINT)
    with pytest.warns(UserWarning, match="interrupted after 3 of 6 runs"):
        results = sweep.run(experiment, GRID, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert list(results) == GRID[:3] and results.interrupted
    assert repr(results) == "results of 3 runs (interrupted after 3 of 6 runs)"
    with pytest.raises(KeyError, match="interrupted after 3 of 6"):
        results[1.0, 2]
    array = results.array((0.1, 1.0), (1, 2, 3))
    assert array[0].tolist() == [1, 2, 3] and np.isnan(array[1]).all()


def test_interruption_before_the_first_result():
    with pytest.warns(UserWarning, match="after 0 of 6"):
        results = sweep.run(lambda r, s: press(), GRID, progress=False)
    assert not results
    with pytest.raises(ValueError, match=r"no result yet: interrupted after 0 of 6"):
        results.array((0.1, 1.0), (1, 2, 3))


@pytest.mark.usefixtures("on_the_cpu")
def test_training_that_is_interrupted_does_not_count(net, toy):
    """train.fit turns Ctrl-C into a note; the sweep must stop all the same."""

    def experiment(seed):
        def press_once(step, history):
            if (seed, step) == (2, 1):
                signal.raise_signal(signal.SIGINT)

        history = train.fit(net, toy, batch_size=30, on_step=press_once)
        assert history.interrupted == (seed == 2)
        return len(history.loss)

    with pytest.warns(UserWarning) as said:
        results = sweep.run(experiment, [(1,), (2,), (3,)])
    assert results == {(1,): 6}
    assert [str(w.message) for w in said] == ["interrupted after 1 of 3 runs"]
    assert said[0].filename == __file__  # the reader's own line


def test_outside_the_main_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(sweep.run(lambda s: s, [(1,)], progress=False))
    )
    thread.start()
    thread.join()
    assert found[0] == {(1,): 1}


def test_what_a_run_raises_ends_the_sweep():
    with pytest.raises(ZeroDivisionError):
        sweep.run(lambda s: 1 / s, [(1,), (0,)], progress=False)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ([], ValueError, "at least one setting"),
        ([1], TypeError, r"tuple of arguments, but got 1; .* \(1,\)"),
        (["ab"], TypeError, "tuple"),
        ([(1,), (2,), (2,)], ValueError, r"\(2,\) occurs more than once"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        sweep.run(lambda *s: s, settings)


def test_unknown_settings():
    results = sweep.run(lambda s: s, [(1,), (2,)], progress=False)
    with pytest.raises(KeyError, match="not one of the 2 settings"):
        results[(3,)]
    with pytest.raises(ValueError, match=r"\(3,\) is not a setting of this sweep"):
        results.array((1, 3))
