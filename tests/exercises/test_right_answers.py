"""The book's own answers are right, in whatever way a learner may write them.

Each checker asks the same in each run, of arrays that are its own, allows for rounding, and
leaves the learner's random numbers alone.
"""

from __future__ import annotations

import copy
import functools
import pkgutil

import numpy as np
import pytest
import torch
from solutions import solution

from bnutils import exercises

MODULES = pkgutil.iter_modules(exercises.__path__)
CHAPTERS = sorted(module.name.removeprefix("ch") for module in MODULES)
NUMBERS = [number for chapter in CHAPTERS for number in exercises.registry(chapter)]
KEEPS = {"06.3"}  # judges whether the answer leaves alone what it is given
EXACT = {"06.4", "11.2"}


def arrays(value) -> list:
    """Arrays and tensors in a value, however deep."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    items = value if isinstance(value, list | tuple) else []
    return [found for item in items for found in arrays(item)]


def frozen(value) -> list[np.ndarray]:
    """Copies of the arrays, parameters and buffers, and of the numbers beside them."""
    values = [
        item.state_dict() if isinstance(item, torch.nn.Module) else item
        for item in value
    ]
    numbers = [np.array(v) for v in values if isinstance(v, int | float)]
    return numbers + [exercises.as_array(a) for a in arrays(values)]


def function(number):
    """The book's answer, which is right; skips the test if it is a number or a class."""
    answer = solution(number)
    assert exercises.check(number, answer)
    if not callable(answer) or isinstance(answer, type):
        pytest.skip("the answer is not a function")
    return answer


@pytest.mark.parametrize("number", NUMBERS)
def test_an_exercise_without_an_answer_says_so(number):
    assert "not answered yet" in exercises.check(number, ...).remark


@pytest.mark.parametrize("number", NUMBERS)
def test_each_run_asks_the_same_and_draws_no_numbers_of_the_learners(number):
    answer, runs = function(number), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        state, asked = torch.get_rng_state(), []

        @functools.wraps(answer)
        def watched(*args, asked=asked, **kwargs):
            asked.append(frozen([*args, *kwargs.values()]))
            return answer(*args, **kwargs)

        assert exercises.check(number, watched)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(asked)
    for first, second in zip(*runs, strict=True):
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("number", [n for n in NUMBERS if n not in KEEPS])
def test_a_right_answer_may_write_into_what_it_was_handed(number):
    answer = function(number)

    @functools.wraps(answer)
    def spoiling(*args, **kwargs):
        result = answer(*args, **kwargs)
        if given := arrays([args, kwargs]):
            result = copy.deepcopy(result)
        for a in given:
            if isinstance(a, np.ndarray):
                a[...] = 77
            elif not a.requires_grad:
                a.fill_(77)
        return result

    assert exercises.check(number, spoiling)


def rounded(value):
    """The value as if computed in another order; whole numbers stay."""
    if isinstance(value, float | np.floating):
        return value * (1 + 5e-8)
    if isinstance(value, np.ndarray | torch.Tensor):
        whole = "int" in str(value.dtype) or "bool" in str(value.dtype)
        return value if whole else value * (1 + 5e-8)
    if type(value) in (list, tuple):
        return type(value)(map(rounded, value))
    return value


@pytest.mark.parametrize("number", [n for n in NUMBERS if n not in EXACT])
def test_a_right_answer_may_round_differently(number):
    answer = function(number)

    @functools.wraps(answer)
    def rounding(*args, **kwargs):
        return rounded(answer(*args, **kwargs))

    assert exercises.check(number, rounding)
