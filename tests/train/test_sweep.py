"""Sweeps: order, errors, grids, and Ctrl-C at random moments in a real process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from bnutils import sweep

GRID = list(itertools.product((0.1, 1.0), (1, 2, 3)))


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)  # a pending signal arrives here at the latest


def test_runs_each_setting_once_in_order():
    seen = []
    results = sweep.run(lambda *s: seen.append(s) or len(seen), GRID, progress=False)
    assert seen == GRID == results.settings == list(results)
    assert list(results.values()) == [1, 2, 3, 4, 5, 6]
    assert not results.interrupted and results.note == ""
    assert repr(results) == "results of 6 runs"


def test_array_has_the_shape_of_the_grid_and_of_one_result():
    results = sweep.run(lambda r, s: (r, s), GRID, progress=False)
    array = results.array((0.1, 1.0), (1, 2, 3))
    assert array.shape == (2, 3, 2)
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


def test_training_that_is_interrupted_does_not_count():
    """train.fit turns Ctrl-C into a note; the sweep must stop all the same."""
    code = textwrap.dedent(
        """
        import os, signal, warnings
        warnings.simplefilter("ignore")
        from bnutils import data, models, sweep, train
        digits = data.load()
        def experiment(seed):
            if seed == 2:
                step = lambda n, h: n == 5 and os.kill(os.getpid(), signal.SIGINT)
            else:
                step = None
            net = models.mlp((784, 8, 10))
            history = train.fit(net, digits, epochs=1, on_step=step, threads=1)
            return len(history.loss)
        results = sweep.run(experiment, [(s,) for s in (1, 2, 3)])
        print(list(results), results.note)
        """
    )
    environment = {**os.environ, "BNUTILS_DATA": "digits"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[(1,)] interrupted after 1 of 3 runs"


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
        ([(1,), (2,), (1,)], ValueError, r"\(1,\) occurs more than once"),
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
