"""On three processes, the layer does what one does on the whole batch.

One job answers all: each rank returns what it found, by name, and the tests compare it.
"""

from __future__ import annotations

import re
import sys

import cloudpickle
import pytest
import torch
from torch import distributed, nn

from bnutils import data, norm, sync
from bnutils.sync import functional, mnist

# The ranks need not import this file, nor pytest: its functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

C = 5
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # in float64
PARTS = {
    "equal": (4, 4, 4),
    "unequal": (2, 7, 3),
    "one empty": (5, 0, 7),
    "single rows": (1, 1, 1),
    "all in one": (0, 0, 6),
}
OPTIONS = {
    "defaults": {},
    "average": {"momentum": None, "eps": 1e-3},
    "no affine": {"affine": False},
    "no bias": {"bias": False},
    "untracked": {"track_running_stats": False},
}
CASES = [(p, o, length) for p in PARTS for o in OPTIONS for length in (0, 3)]


def rank() -> int:
    return distributed.get_rank()


# What each rank does


def everything(make, part, dy, state, options):
    """Two steps: output, gradients, their gradients, and the state afterwards."""
    layer = make(C, dtype=torch.float64, **options)
    layer.load_state_dict(state)
    steps = []
    for scale in (1.0, -2.0):
        x = (scale * part).requires_grad_()
        slope = dy.clone().requires_grad_()
        y = layer(x)
        first = torch.autograd.grad(
            y, [x, *layer.parameters()], slope, create_graph=True
        )
        again = torch.autograd.grad(first[0].sin().sum(), [x, slope])
        found = {"y": y, "dx": first[0], "dx/dx": again[0], "dx/dslope": again[1]}
        local = {f"d{n}": g for (n, _), g in zip(layer.named_parameters(), first[1:])}
        steps.append(({k: v.detach() for k, v in found.items()}, local))
    return steps, dict(layer.state_dict())


def on_my_part(cases):
    results = []
    for options, state, x, dy, parts in cases:
        mine = [t.split(parts)[rank()].clone() for t in (x, dy)]
        results.append(everything(sync.BatchNorm1d, *mine, state, options))
    return results


def in_groups(x, dy):
    """A layer that ranks 0 and 1 share, and one for each rank alone."""
    pair = distributed.new_group([0, 1])
    alone = [distributed.new_group([r]) for r in range(3)]
    layer = sync.BatchNorm1d(C, process_group=pair)
    part = x[rank()].clone().requires_grad_()
    y = layer(part)
    y.backward(dy[rank()])
    plain = norm.BatchNorm1d(C)(x[rank()])
    mine, other = (
        sync.BatchNorm1d(C, process_group=alone[r]) for r in (rank(), (rank() + 1) % 3)
    )
    return {
        "y": y.detach(),
        "dx": part.grad,
        "dweight": layer.weight.grad,
        "dbias": layer.bias.grad,
        "mean": layer.running_mean,
        "alone as the plain layer": torch.equal(mine(x[rank()]), plain),
        "not in the group as the plain layer": torch.equal(other(x[rank()]), plain),
    }


def refused(layer, x):
    try:
        layer(x)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def refusals():
    """The errors, and how many batches count in the end."""
    layer = sync.BatchNorm1d(C)
    layer(torch.randn(2, C))
    found = {
        "one value in all": refused(layer, torch.ones(1 if rank() == 0 else 0, C)),
        "wrong channels": refused(layer, torch.ones(3, C + 1)),
        "wrong dimensions": refused(layer, torch.ones(3, C, 2, 2)),
        "wrong dtype": refused(layer, torch.ones(3, C).double()),
    }
    return found, layer.num_batches_tracked.item()


def costs(part, dy):
    """Lengths of what was sent, and the dtypes of what was kept for backward."""
    sent, kept, send = [], [], distributed.all_reduce

    def watched(tensor, **options):
        sent.append(tensor.numel())
        return send(tensor, **options)

    def pack(tensor):
        kept.append(tensor.dtype)
        return tensor

    distributed.all_reduce = watched
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = sync.BatchNorm1d(C)(part)
        y.backward(dy)
    finally:
        distributed.all_reduce = send
    return sent, set(kept)


def details(x, dy, slopes):
    """One finding a line or two, on this rank's four rows of twelve."""
    mine, world, found = x[rank()].clone(), distributed.group.WORLD, {}
    found["sent"], found["kept"] = costs(mine.clone().requires_grad_(), dy[rank()])

    one = sync.BatchNorm1d(1)
    found["one channel"] = one(mine[:, :1]).detach(), one.running_mean
    values = 2.0**23 + torch.arange(1, 17) * 12345
    constant = values.expand(3 + 2 * rank(), 16)
    found["constant and large"] = sync.BatchNorm1d(16, affine=False)(constant)
    found["large mean"] = sync.BatchNorm1d(C)(1e4 + mine).detach()
    for dtype in (torch.float16, torch.bfloat16):
        layer = sync.BatchNorm1d(C)
        found[dtype] = layer(mine.to(dtype)).detach(), dict(layer.state_dict())

    trained = sync.BatchNorm1d(C)
    trained(mine)
    if rank() == 0:  # in evaluation nobody waits for the others
        found["evaluation"] = trained.eval()(mine).detach()

    part = mine.clone().requires_grad_()
    sync.BatchNorm1d(C, affine=False)(part).relu_().sum().backward()  # y may be changed
    found["changed in place"] = part.grad is not None
    empty = sync.BatchNorm1d(C)(torch.ones(0, C, requires_grad=True))
    empty.sum().backward()
    found["nobody has data"] = tuple(empty.shape)
    turned = sync.BatchNorm1d(4)(torch.ones(3, 5, 4).transpose(1, 2))
    found["rows in memory"] = turned.is_contiguous()
    broken = mine.clone()
    if rank() == 0:
        broken[0, 0] = float("nan")
    found["nan"] = sync.BatchNorm1d(C)(broken).isnan().any(0).tolist()

    part = mine.clone().requires_grad_()
    _, rstd, mean, var, _ = functional.Standardize.apply(part, 1e-5, world)
    found["needs a gradient"] = [t.requires_grad for t in (rstd, mean, var)]
    rstd.backward(slopes[rank()])
    found["gradient of 1/std"] = part.grad
    term = torch.ones(3)
    found["sum"] = functional.AllSum.apply(term, world).tolist(), term.tolist()
    return found


def trained(digits, norms, batch_sizes):
    """Losses, last gradients and state of networks trained on 64 images."""
    found = {}
    for kind in norms:
        for size in batch_sizes:
            net, losses = mnist.fit(digits, kind, size)
            gradients = {f"d{name}": p.grad for name, p in net.named_parameters()}
            loss = {"loss": torch.tensor(losses)}
            found[kind, size] = dict(net.state_dict()) | gradients | loss
    return found


def all_of_it(cases, batch, slopes, digits):
    return {
        "cases": on_my_part(cases),
        "groups": in_groups(*batch),
        "refusals": refusals(),
        "details": details(*batch, slopes),
        "training": trained(digits, ["sync", "local"], [15, 7]),
    }


# The job, and what it is given


def case(parts, options, length):
    """Options and state of a layer, input, gradient and the parts, all in float64."""
    generator = torch.Generator().manual_seed(len(parts) + len(options) + length)
    rows = sum(PARTS[parts])
    shape = (rows, C, length) if length else (rows, C)
    x, dy = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    layer = norm.BatchNorm1d(C, dtype=torch.float64, **OPTIONS[options])
    state = layer.state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.5, 2, generator=generator)
    return OPTIONS[options], state, 30 + 3 * x, dy, PARTS[parts]


@pytest.fixture(scope="module")
def batch():
    """Input and gradient of the output: three ranks, four rows each."""
    x, dy = torch.randn(2, 3, 4, C, generator=torch.Generator().manual_seed(1))
    return 3 * x + 1, dy


@pytest.fixture(scope="module")
def slopes():
    return torch.randn(3, C, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def digits():
    """Images with a little to learn from, in float64."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(64) % 10
    x = torch.randn(64, 784, dtype=torch.float64, generator=generator)
    x[torch.arange(64), y] += 5
    split = data.Split(x, y)
    return data.Dataset("noise", "a test", split, split, split)


@pytest.fixture(scope="module")
def ranks(batch, slopes, digits):
    cases = [case(*key) for key in CASES]
    return sync.run(all_of_it, cases, batch, slopes, digits, processes=3, timeout=300)


@pytest.fixture(scope="module")
def found(ranks):
    """The details, rank by rank."""
    return [answer["details"] for answer in ranks]


# What must hold


@pytest.mark.parametrize("key", CASES, ids=lambda key: "-".join(map(str, key)))
def test_equals_one_process_on_the_whole_batch(ranks, key):
    options, state, x, dy, _ = case(*key)

    def reference(*args, bias=True, **options):
        layer = nn.BatchNorm1d(*args, **options)
        if not bias:
            layer.register_parameter("bias", None)
        return layer

    steps, after = everything(reference, x, dy, state, options)
    answers = [answer["cases"][CASES.index(key)] for answer in ranks]
    for number, (whole, summed) in enumerate(steps):
        parts = [steps_[number] for steps_, _ in answers]
        for name, expected in whole.items():
            joined = torch.cat([part[name] for part, _ in parts])
            torch.testing.assert_close(joined, expected, **EXACT)
        for name, expected in summed.items():  # weight and bias: each rank has its part
            total = sum(local[name] for _, local in parts)
            torch.testing.assert_close(total, expected, **EXACT)
    for _, mine in answers:
        torch.testing.assert_close(mine, after, **EXACT)
        torch.testing.assert_close(mine, answers[0][1], rtol=0, atol=0)  # same bits


def test_training_equals_one_process(ranks, digits):
    whole = trained(digits, ["local"], [15, 7])
    for answer in ranks:
        for size in (15, 7):  # equal parts; 3, 2 and 2 images
            one, all_ = whole["local", size], answer["training"]["sync", size]
            assert len(one["loss"]) == 64 // size
            torch.testing.assert_close(all_, one, **EXACT)
            local = answer["training"]["local", size]["loss"]
            assert (local - one["loss"]).abs().max() > 1e-4


def test_a_group_smaller_than_the_world_keeps_to_itself(ranks, batch):
    first, second, third = (answer["groups"] for answer in ranks)
    x, dy = batch
    whole, alone = nn.BatchNorm1d(C), nn.BatchNorm1d(C)
    both = x[:2].flatten(0, 1).requires_grad_()
    y = whole(both)
    y.backward(dy[:2].flatten(0, 1))
    for key, expected in (("y", y.detach()), ("dx", both.grad)):
        joined = torch.cat([first[key], second[key]])
        torch.testing.assert_close(joined, expected, **CLOSE)  # the dtype as well
    for key, expected in (("dweight", whole.weight.grad), ("dbias", whole.bias.grad)):
        torch.testing.assert_close(first[key] + second[key], expected, **CLOSE)
    for answer in (first, second):
        torch.testing.assert_close(answer["mean"], whole.running_mean, **CLOSE)
    torch.testing.assert_close(third["y"], alone(x[2]).detach(), **CLOSE)
    torch.testing.assert_close(third["mean"], alone.running_mean, **CLOSE)


@pytest.mark.parametrize("which", ["alone", "not in the group"])
def test_who_has_nobody_to_ask_has_the_plain_layer(ranks, which):
    for answer in ranks:
        assert answer["groups"][f"{which} as the plain layer"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("one value in all", "ValueError: Expected more than 1 value per channel"),
        ("wrong channels", "should contain 6 elements not 5"),
        ("wrong dimensions", r"2D or 3D input \(got 4D input\)"),
        ("wrong dtype", "mixed dtype"),
    ],
)
def test_every_rank_refuses_what_is_wrong_and_does_not_count_it(ranks, what, words):
    for answer in ranks:
        errors, batches = answer["refusals"]
        assert re.search(words, errors[what])
        assert batches == 1


def test_in_evaluation_it_is_the_plain_layer(found, batch):
    x, _ = batch
    whole = nn.BatchNorm1d(C)
    whole(x.flatten(0, 1))
    expected = whole.eval()(x[0]).detach()
    torch.testing.assert_close(found[0]["evaluation"], expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sent", [C + 1, C, 2 * C]),  # as many numbers as the docstring says
        ("kept", {torch.float32}),  # the sums travel in float64: nothing else is
        ("changed in place", True),
        ("nobody has data", (0, C)),
        ("rows in memory", True),
        ("nan", [True] + [False] * (C - 1)),
        ("needs a gradient", [True, False, False]),  # 1/std; not mean and variance
        ("sum", ([3.0] * 3, [1.0] * 3)),  # over three ranks; the term stays
    ],
)
def test_every_rank_finds(found, name, expected):
    for mine in found:
        assert mine[name] == expected


def test_a_layer_of_one_channel(found, batch):
    whole, x = nn.BatchNorm1d(1), batch[0].flatten(0, 1)[:, :1]
    y = whole(x).detach()
    joined = torch.cat([mine["one channel"][0] for mine in found])
    torch.testing.assert_close(joined, y, **CLOSE)
    for mine in found:
        mean = mine["one channel"][1]
        torch.testing.assert_close(mean, whole.running_mean, **CLOSE)


def test_a_constant_channel_becomes_zero_however_large_it_is(found):
    """Sums of such values have more digits than float32."""
    for rows, mine in zip((3, 5, 7), found, strict=True):
        assert mine["constant and large"].shape == (rows, 16)
        assert not mine["constant and large"].any()


def test_a_large_mean_costs_no_digits_of_the_variance(found, batch):
    x = 1e4 + batch[0].flatten(0, 1)
    expected = nn.BatchNorm1d(C, dtype=torch.float64)(x.double()).detach().float()
    joined = torch.cat([mine["large mean"] for mine in found])
    torch.testing.assert_close(joined, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(found, batch, dtype):
    whole, x = nn.BatchNorm1d(C), batch[0].flatten(0, 1).to(dtype)
    expected = whole(x.float()).detach()
    joined = torch.cat([mine[dtype][0] for mine in found])
    assert joined.dtype == dtype
    torch.testing.assert_close(joined, expected.to(dtype))
    for mine in found:
        torch.testing.assert_close(mine[dtype][1], dict(whole.state_dict()), **CLOSE)


def test_the_scale_alone_has_a_gradient(found, batch, slopes):
    x = batch[0].flatten(0, 1).double().requires_grad_()
    rstd = (x.var(0, unbiased=False) + 1e-5).rsqrt()
    rstd.backward(slopes.double().sum(0))  # of the sum of all ranks' losses
    joined = torch.cat([mine["gradient of 1/std"] for mine in found])
    torch.testing.assert_close(joined, x.grad.float(), **CLOSE)
