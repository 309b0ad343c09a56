"""The framework that checks a learner's answer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from bnutils import exercises
from bnutils.exercises import (
    as_array,
    class_of,
    close,
    exercise,
    find_mistake,
    find_remark,
    gap,
    is_tuple_of,
)


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


def test_a_function_that_works_and_returns_nothing_is_told_so(double):
    def answer(x):
        x = 2 * x

    verdict = exercises.check("99.1", answer)
    assert not verdict
    assert "returned nothing" in verdict.remark and "`return`" in verdict.remark


def test_a_body_of_dots_is_certainly_not_answered(double):
    def answer(x):
        # your code here
        ...

    assert "not answered yet" in exercises.check("99.1", answer).remark


def test_answer_that_raises_is_wrong_and_its_error_is_shown(double):
    def answer(x):
        x = int(x)
        return x / 0

    verdict = exercises.check("99.1", answer)
    assert not verdict
    assert verdict.remark == (
        "your answer raised ZeroDivisionError: division by zero, "
        "in the line `return x / 0`"
    )
    assert "in the line" not in exercises.check("99.1", [].index).remark  # it has none


def test_an_error_in_a_method_of_a_class_is_shown_with_its_line(monkeypatch):
    monkeypatch.setattr(exercises, "_CHECKERS", {})
    exercise("99.1")(lambda kind: kind().method())

    class Answer:
        def method(self):
            raise ValueError("mine")

    words = 'ValueError: mine, in the line `raise ValueError("mine")`'
    assert words in exercises.check("99.1", Answer).remark


def test_unknown_number_names_the_known_ones(double):
    with pytest.raises(KeyError, match=r"99\.7.*99\.1"):
        exercises.check("99.7", 1)
    with pytest.raises(KeyError, match="none in that chapter"):
        exercises.check("77.1", 1)


@pytest.mark.parametrize(("number", "meant"), [("6.1", "06.1"), ("6.4", "06.4")])
def test_a_number_without_its_zero_is_told_with_it(number, meant):
    with pytest.raises(KeyError, match=f"mean '{meant}'"):
        exercises.check(number, 1)


def test_close_needs_the_same_shape_and_gap_says_how_far():
    assert close([1.0, 2.0], torch.tensor([1.0, 2.0]))
    assert not close([1.0, 2.0], [[1.0, 2.0]])
    assert not close([1.0, 2.0], [1.0, 2.1])
    assert gap([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert gap([1.0], [[1.0]]) == float("inf")
    assert gap([], []) == 0


def test_checkers_are_imported_when_their_chapter_is_asked_for(monkeypatch):
    exercises.registry("06")  # so that what is taken away below comes back
    monkeypatch.setattr(exercises, "_CHECKERS", {})
    monkeypatch.delitem(sys.modules, "bnutils.exercises.ch06")
    assert list(exercises.registry("06"))[:2] == ["06.1", "06.2"]
    assert exercises.registry("99") == {}


def test_an_answer_is_called_with_what_the_checker_says(monkeypatch):
    monkeypatch.setattr(exercises, "_CHECKERS", {})
    exercise("99.1")(lambda answer: None if answer(2, x=3) == (2, 3) else "which?")
    assert exercises.check("99.1", lambda n, x=0: (n, x))


def test_two_mistakes_with_the_same_value_keep_their_remarks():
    mistakes = {"first": 2.0, "second": 2.0, "third": 3.0}
    assert find_mistake(2.0, mistakes) == "first"
    assert find_mistake(3.0, mistakes) == "third"
    assert find_mistake(4.0, mistakes) is None


def test_the_right_result_is_right_even_if_a_mistake_gives_it_too():
    assert find_remark(2.0, 2.0, {"that is a mistake": 2.0}) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mistakes": {"twice": 2.0}, "otherwise": "no"}, "twice"),
        ({"otherwise": "no"}, "no"),
        ({}, "off by 1"),
        ({"name": "the mean"}, "the mean is off by 1"),
        ({"tolerance": 0.6}, None),
    ],
)
def test_the_remark_on_another_result(options, words):
    assert find_remark(2.0, 1.0, **options) == words


def test_the_remark_on_another_shape_says_both():
    words = "the shape of the mean is (1, 2), but should be (2,)"
    assert find_remark([[1, 2]], [1, 2], name="the mean") == words
    assert "the result is (), but should be (2,)" in find_remark(1.0, [1, 2])


def test_parts_and_classes_are_recognised():
    assert is_tuple_of(2, (1, 2)) and is_tuple_of(2, [1, 2])
    assert not is_tuple_of(2, (1, 2, 3)) and not is_tuple_of(2, np.ones(2))
    assert class_of(int) is int and class_of(3) is None and class_of(len) is None


def test_a_class_that_is_handed_over_comes_to_the_checker_as_one(monkeypatch):
    monkeypatch.setattr(exercises, "_CHECKERS", {})
    exercise("99.1")(lambda answer: None if class_of(answer) is int else "which class?")
    assert exercises.check("99.1", int)
    assert not exercises.check("99.1", 3)


def test_as_array_detaches_tensors_and_copies():
    weight = torch.ones(2, requires_grad=True)
    assert as_array(weight).tolist() == [1, 1]
    original = np.ones(2)
    as_array(original)[0] = 5
    assert original[0] == 1
