"""The framework that checks a learner's answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bnutils import exercises
from bnutils.exercises import as_array, close, exercise, gap


@pytest.fixture
def double(monkeypatch):
    """A checker registered as exercise 99.1: double a number."""
    monkeypatch.setattr(exercises, "_CHECKERS", {})

    @exercise("99.1")
    def checker(answer):
        return None if answer(3) == 6 else "3 should become 6"


def test_right_answer_is_true_and_says_so(double):
    verdict = exercises.check("99.1", lambda x: 2 * x)
    assert verdict
    assert repr(verdict) == "Exercise 99.1: right"


def test_wrong_answer_is_false_with_the_checkers_remark(double):
    verdict = exercises.check("99.1", lambda x: x)
    assert not verdict
    assert repr(verdict) == "Exercise 99.1: 3 should become 6"


@pytest.mark.parametrize("answer", [None, ..., lambda x: None, lambda x: ...])
def test_skeleton_counts_as_unanswered(double, answer):
    verdict = exercises.check("99.1", answer)
    assert not verdict
    assert "not answered yet" in verdict.remark


def test_answer_that_raises_is_wrong_and_its_error_is_shown(double):
    verdict = exercises.check("99.1", lambda x: x / 0)
    assert not verdict
    assert "ZeroDivisionError" in verdict.remark


def test_unknown_number_names_the_known_ones(double):
    with pytest.raises(KeyError, match=r"99\.7.*99\.1"):
        exercises.check("99.7", 1)
    with pytest.raises(KeyError, match="none in that chapter"):
        exercises.check("77.1", 1)


def test_close_needs_the_same_shape_and_gap_says_how_far():
    assert close([1.0, 2.0], torch.tensor([1.0, 2.0]))
    assert not close([1.0, 2.0], [[1.0, 2.0]])
    assert not close([1.0, 2.0], [1.0, 2.1])
    assert gap([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert gap([1.0], [[1.0]]) == float("inf")
    assert gap([], []) == 0


def test_as_array_detaches_tensors_and_copies():
    weight = torch.ones(2, requires_grad=True)
    assert as_array(weight).tolist() == [1, 1]
    original = np.ones(2)
    as_array(original)[0] = 5
    assert original[0] == 1
