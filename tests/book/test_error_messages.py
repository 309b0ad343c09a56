"""The page of error messages: each heading is what PyTorch says to the lines under it.

The page is the only place where they stand: this file reads it and runs it.
"""

from __future__ import annotations

import re
import sys
import warnings

import pytest
import torch
from provenance import ROOT
from torch import distributed, nn

PAGE = (ROOT / "book" / "errors.md").read_text("utf8")
PROCESSES = "Several processes"
REPORTED = "Reported on GPUs, not run here"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


OTHER = re.compile(r"PyTorch (\d+)\.(\d+): (?:[^`.]*`([^`]+)`|no message)")
RAN_WITH = {(2, 4), (2, 11)}  # besides 2.13; the page says so


def sections() -> dict[str, tuple[str, list[str]]]:
    """Heading of a message -> the group it is in, and the blocks of code under it."""
    found = {}
    for group in PAGE.split("\n## ")[1:]:
        title = group.partition("\n")[0]
        for section in group.split("\n### ")[1:]:
            heading, _, body = section.partition("\n")
            found[heading.strip("`")] = (title, BLOCK.findall(body))
    return found


SECTIONS = sections()
RELEASE = tuple(int(n) for n in torch.__version__.split(".")[:2])
pytestmark = pytest.mark.skipif(
    RELEASE < (2, 13) and RELEASE not in RAN_WITH,
    reason="the page quotes PyTorch 2.4, 2.11 and 2.13",
)


def words_here(heading: str) -> str | None:
    """The message as this version of PyTorch says it; None where it says nothing."""
    body = PAGE.partition(f"### `{heading}`")[2].partition("\n### ")[0]
    for major, minor, words in OTHER.findall(body):
        if (int(major), int(minor)) == RELEASE:
            return words or None
    return heading


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Files go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)


@pytest.fixture
def group_of_two():
    """Rank 0 of two processes, the other of which exists in name only."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    distributed.destroy_process_group()


def preamble() -> dict:
    return {"torch": torch, "nn": nn, "x": torch.randn(4, 3), "__name__": "page"}


def said(code: str, names: dict) -> str:
    """What the code raises, or else what it warns of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            exec(code, names)
        except Exception as error:
            return str(error)
    return "\n".join(str(w.message) for w in warned)


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_lines_raise_the_message_and_the_cure_does_not(heading, request):
    group, blocks = SECTIONS[heading]
    if group == PROCESSES:
        request.getfixturevalue("group_of_two")
    first, *cures = blocks
    names = preamble()
    message = said(first, names)
    expected = words_here(heading)
    if heading.startswith("Can't pickle") and sys.version_info[:2] != (3, 11):
        expected = "local object"
    if expected is None:
        assert message == ""
    else:
        assert expected in message, message[:500]
    for cure in cures:
        exec(cure, names)


def test_the_page_has_the_messages_that_people_paste():
    """Those seen in public, from the list that the page was written from."""
    pasted = [
        "Expected more than 1 value per channel when training",
        "expected 2D or 3D input (got 1D input)",
        "running_mean should contain",
        "mixed dtype (CPU): all inputs must share same datatype.",
        "mixed dtype (CPU): expect parameter to have scalar type of Float",
        "\"batch_norm\" not implemented for 'Long'",
        "Missing key(s) in state_dict",
        "Unexpected key(s) in state_dict",
        "size mismatch for",
        "result type Float can't be cast to the desired output type Long",
        "Batch norm got a batched tensor as input",
        "During a grad (vjp, jvp, grad, etc) transform",
        "Attempted to use an uninitialized parameter",
    ]
    assert [m for m in pasted if not any(h.startswith(m) for h in SECTIONS)] == []


def test_only_the_dated_box_goes_unchecked():
    unchecked = PAGE.partition(f"\n## {REPORTED}")[2]
    assert "\n### " not in unchecked
    assert re.search(r"Read on \d+ \w+ 20\d\d", unchecked)
    assert all(blocks for _, blocks in SECTIONS.values())


# What the text says beside the code: messages in quotation marks of other calls.
ALSO = {
    "expected 2D or 3D input (got 4D input)": "nn.BatchNorm1d(3)(torch.randn(2, 3, 4, 4))",
    "expected 4D input (got 2D input)": "nn.BatchNorm2d(3)(x)",
    "expected 5D input": "nn.BatchNorm3d(3)(x)",
    "weight should contain": (
        "nn.BatchNorm1d(3, track_running_stats=False)(torch.randn(8, 4))"
    ),
    "Cannot copy out of meta tensor; no data!": "nn.BatchNorm1d(3, device='meta').to('cpu')",
    "a leaf Variable that requires grad is being used in an in-place operation.": (
        "nn.BatchNorm1d(3).weight.fill_(0.5)"
    ),
    "running_mean must be defined in evaluation mode": (
        "nn.functional.batch_norm(x, None, None, training=False)"
    ),
    "Inference tensors cannot be saved for backward": (
        "with torch.inference_mode():\n    h = x + 1\n"
        "nn.BatchNorm1d(3)(h).sum().backward()"
    ),
    "bn.running_mean and bn.running_var must not be None": (
        "torch.nn.utils.fusion.fuse_linear_bn_eval(nn.Linear(3, 3).eval(),"
        " nn.BatchNorm1d(3, track_running_stats=False).eval())"
    ),
}


@pytest.mark.parametrize("message", ALSO)
def test_messages_in_the_text_are_verbatim(message):
    quoted = message.removeprefix("expected 2D or 3D input ")
    assert quoted in " ".join(PAGE.split())
    if RELEASE == (2, 4) and message.startswith("bn.running_mean and"):
        pytest.skip("PyTorch 2.4 has no such message")
    assert message in said(ALSO[message], preamble())


def test_half_precision_inputs_are_accepted_as_the_cure_says():
    assert said("nn.BatchNorm1d(3)(x.half())", preamble()) == ""


def test_the_chinese_page_quotes_the_same_messages():
    """Each heading of 报错与故障排查 begins a message that this page provokes."""
    chinese = (ROOT / "book" / "trouble_zh.md").read_text("utf8")
    quoted = re.findall(r"^### `(.+)`$", chinese, re.M)
    assert len(quoted) >= 8
    unknown = [q for q in quoted if not any(m.startswith(q) for m in SECTIONS)]
    assert not unknown
