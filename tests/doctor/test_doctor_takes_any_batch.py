"""One rule for what a batch is: how the model is called, what is its size and target."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bnutils import _batches, doctor

A, B, C = torch.zeros(4, 2), torch.ones(4, 2), torch.arange(4)
PICTURES = [torch.zeros(3, 5, 6), torch.zeros(3, 7, 4)]


@dataclass
class Fields:
    x: torch.Tensor
    y: torch.Tensor


Named = namedtuple("Named", ["x", "y"])


def one(x): ...
def one_of_another_name(batch): ...
def two(a, b): ...
def two_by_name(x, y): ...
def supervised(images, targets=None): ...
def by_name(input_ids, mask=None, labels=None): ...
def only_named(*, x, y=None): ...
def anything(*inputs): ...
def any_names(x, **rest): ...


@pytest.mark.parametrize(
    ("forward", "batch", "args", "kwargs"),
    [
        (one, A, (A,), {}),
        (one, (A, C), (A,), {}),
        (one, [A, C], (A,), {}),
        (one, ((A, B), C), (A,), {}),
        (two, ((A, B), C), (A, B), {}),
        (two, [[A, B], C], (A, B), {}),
        (two, (A, B), (A, B), {}),
        (two, (A, B, C), (A, B), {}),
        (anything, (A, C), (A,), {}),
        (one, {"x": A, "y": C}, (), {"x": A}),
        (one_of_another_name, {"x": A}, ({"x": A},), {}),
        (one_of_another_name, ({"x": A}, C), ({"x": A},), {}),
        (two_by_name, {"x": A, "y": B, "z": C}, (), {"x": A, "y": B}),
        (by_name, {"input_ids": A, "labels": C}, (), {"input_ids": A, "labels": C}),
        (by_name, UserDict(input_ids=A), (), {"input_ids": A}),
        (by_name, ({"input_ids": A}, C), (), {"input_ids": A, "labels": C}),
        (any_names, {"x": A, "z": C}, (), {"x": A, "z": C}),
        (only_named, {"x": A, "z": C}, (), {"x": A}),
        (two_by_name, Fields(A, B), (), {"x": A, "y": B}),
        (one_of_another_name, Fields(A, B), (Fields(A, B),), {}),
        (two_by_name, Named(A, B), (), {"x": A, "y": B}),
        (one_of_another_name, Named(A, B), (A,), {}),
        (supervised, (A, C), (A,), {"targets": C}),
        (supervised, A, (A,), {}),
        (supervised, (PICTURES, [1, 2]), (PICTURES,), {"targets": [1, 2]}),
        (one, PICTURES, (PICTURES,), {}),
        (one, "text", ("text",), {}),
    ],
)
def test_arguments_come_from_the_batch_by_the_signature(forward, batch, args, kwargs):
    model = nn.Module()
    model.forward = forward
    for wrapped in (model, nn.DataParallel(model)):
        assert _batches.arguments(wrapped, batch) == (args, kwargs)


@pytest.mark.parametrize(
    ("forward", "batch", "words"),
    [
        (two, A, "needs 2 inputs .a, b., the batch has 1"),
        (two, (A,), "the batch has 1: give call="),
        (
            two_by_name,
            {"x": A},
            "needs 'y', which the batch has not .it has 'x'.: give",
        ),
        (two, {"x": A}, "needs 'a', 'b', which the batch has not"),
    ],
)
def test_what_is_missing_is_named(forward, batch, words):
    model = nn.Module()
    model.forward = forward
    with pytest.raises(TypeError, match=words):
        _batches.arguments(model, batch)


def test_a_function_of_ones_own_comes_first():
    model = nn.Identity()
    assert _batches.feed(model, (A, B)) is A
    assert _batches.feed(model, (A, B), lambda m, batch: m(batch[1])) is B


def test_a_scripted_model_gets_the_first_element():
    model = torch.jit.script(nn.Linear(2, 3))
    assert _batches.feed(model, (A, C)).shape == (4, 3)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (A, 4),
        (torch.tensor(1.0), 0),
        ((A, C), 4),
        ({"id": "7", "x": A}, 4),
        (Fields(A, C), 4),
        ((PICTURES, [1, 2]), 2),
        (("text", 3), 0),
        ([], 0),
        (({"x": A[:0]}, C), 0),
    ],
)
def test_the_size_is_that_of_the_first_tensor(batch, size):
    assert _batches.size_of(batch) == size


@pytest.mark.parametrize(
    "batch",
    [
        A,
        (A, 3),
        [A, "a"],
        {"x": A},
        OrderedDict(x=A),
        Named(A, C),
        Fields(A, C),
        (A, [C]),
    ],
)
def test_a_copy_has_the_same_form_and_tensors_of_its_own(batch):
    twin = _batches.clone(batch)
    assert type(twin) is type(batch)
    ours, theirs = list(_batches.tensors_in(batch)), list(_batches.tensors_in(twin))
    assert len(ours) == len(theirs) > 0
    for x, y in zip(ours, theirs, strict=True):
        assert torch.equal(x, y)
        assert x.data_ptr() != y.data_ptr()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (A, True),
        (C, True),
        ({"x": A, "y": B / 0}, False),
        ((A, [B * float("nan")]), False),
    ],
)
def test_finite_means_every_floating_point_tensor(batch, expected):
    assert _batches.finite(batch) is expected


@pytest.mark.parametrize(
    ("batch", "target"),
    [
        (A, None),
        ((A, C), C),
        ({"x": A, "label": C}, C),
        (Fields(A, C), C),
        ((A,), None),
    ],
)
def test_the_target_is_what_comes_second_or_is_called_so(batch, target):
    assert _batches.target_of(batch) is target


@pytest.mark.parametrize(
    ("output", "main"),
    [
        (A, A),
        ((torch.tensor(0.5), A), A),
        ({"loss": torch.tensor(0.5), "hidden": B, "logits": A}, A),
        ({"loss": torch.tensor(0.5)}, None),
        ([C, B], B),
        (torch.zeros(3, 2), None),
    ],
)
def test_the_main_output_has_a_row_for_each_example(output, main):
    assert _batches.main_output(output, 4) is main


def test_some_rows_of_a_batch_are_taken_from_every_part():
    batch = {"x": torch.arange(4), "names": list("abcd"), "level": 3, "pair": (A, C)}
    part = _batches.rows(batch, slice(1, 3))
    assert part["x"].tolist() == [1, 2]
    assert part["names"] == ["b", "c"]
    assert part["level"] == 3
    assert [len(t) for t in part["pair"]] == [2, 2]
    assert _batches.rows((PICTURES, [1, 2]), slice(0, 1)) == (PICTURES[:1], [1])


@pytest.mark.parametrize("pack", [tuple, list, lambda parts: Fields(*parts)])
def test_two_batches_are_mixed_example_by_example(pack):
    one, two = torch.arange(4), torch.arange(10, 14)
    even, odd = _batches.mixed(pack((one, 2 * one)), pack((two, 2 * two)))
    for got, expected in ((even, [0, 2, 10, 12]), (odd, [1, 3, 11, 13])):
        x, y = _batches.tensors_in(got)
        assert x.tolist() == expected
        assert y.tolist() == [2 * v for v in expected]


def test_lists_for_each_example_are_mixed_as_well():
    other = [torch.ones(3, 2, 2), torch.ones(3, 4, 4)]
    even, odd = _batches.mixed((PICTURES, ["a", "b"]), (other, ["c", "d"]))
    assert (even[1], odd[1]) == (["a", "c"], ["b", "d"])
    assert even[0][0] is PICTURES[0]
    assert odd[0][1] is other[1]


class Gathered(nn.Module):
    """Sums over the ends of edges, a pair of row numbers each, as PyTorch Geometric has them."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 16, bias=False)
        self.bn = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x, edge_index):
        h = self.lin(x)
        h = torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])
        return self.head(self.bn(h).relu())


@pytest.mark.parametrize("growth", [0, 1])
def test_graphs_with_lists_of_edges_are_healthy_of_one_size_or_of_many(growth):
    torch.manual_seed(0)
    graphs = []
    for i in range(8):
        nodes = 40 + growth * i
        x = torch.randn(nodes, 8) + 0.1 * torch.randn(8)
        graphs.append((x, torch.randint(nodes, (2, 5 * nodes))))
    model = Gathered()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(40):
        for x, edges in graphs:
            optimizer.zero_grad()
            scores = model(x, edges)
            nn.functional.cross_entropy(scores, (x[:, 0] > 0).long()).backward()
            optimizer.step()
    report = doctor.examine(model, graphs, optimizer)
    assert report.batches == 8
    assert report.codes == []
    assert report.comparison.linked
    one = doctor.examine(model, graphs[:1], optimizer)
    assert "three graphs are needed" in " ".join(str(one).split())
