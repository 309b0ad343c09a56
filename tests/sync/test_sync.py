"""Synchronised batch norm equals one process on the whole batch, and no process stays."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from bnutils import conformance, data, models, norm, sync, train
from bnutils.sync import mnist as sync_mnist
from bnutils.sync import remote as _remote

ENDS_WITHIN = 60.0  # seconds from start to end of a job that fails; machines are busy
SIZES = {"equal": (4, 4, 4), "unequal": (2, 7, 3), "one empty": (5, 0, 7)}
SIZES |= {"single rows": (1, 1, 1), "all in one": (0, 0, 6)}
OPTIONS = {
    "defaults": {},
    "average": {"momentum": None, "eps": 1e-3},
    "no affine": {"affine": False},
    "no bias": {"bias": False},
    "untracked": {"track_running_stats": False},
}
CASES = {
    (sizes, options, length): (SIZES[sizes], OPTIONS[options], length)
    for sizes in SIZES
    for options in OPTIONS
    for length in (0, 3)
}


def case(sizes, options, length):
    """State of a layer, input, gradient and the parts' sizes, all in float64."""
    generator = torch.Generator().manual_seed(len(sizes) + sum(sizes) + length)
    shape = (sum(sizes), 5, length) if length else (sum(sizes), 5)
    x, dy = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    state = norm.BatchNorm1d(5, dtype=torch.float64, **options).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.5, 2, generator=generator)
    return options, state, 30 + 3 * x, dy, sizes


def everything(layer, part, dy):
    """Two steps: output, gradients, their gradients, and the state afterwards."""
    steps = []
    for scale in (1.0, -2.0):
        x = (scale * part).requires_grad_()
        slope = dy.clone().requires_grad_()
        y = layer(x)
        inputs = [x, *layer.parameters()]
        first = torch.autograd.grad(y, inputs, slope, create_graph=True)
        again = torch.autograd.grad(first[0].sin().sum(), [x, slope])
        steps.append([t.detach() for t in (y, *first, *again)])
    return steps, dict(layer.state_dict())


def on_each_rank(cases, text):
    """What a rank of three computes on its part of every case."""
    scope = {"torch": torch}
    exec(text, scope)
    results = []
    for options, state, x, dy, sizes in cases:
        layer = sync.BatchNorm1d(5, dtype=torch.float64, **options)
        layer.load_state_dict(state)
        rank = distributed.get_rank()
        parts = (t.split(sizes)[rank].clone() for t in (x, dy))
        results.append(scope["everything"](layer, *parts))
    return results


@pytest.fixture(scope="module")
def ranks():
    text = Path(__file__).read_text("utf8").split("def everything")[1]
    text = "def everything" + text.split("\n\n\n")[0]
    cases = [case(*parts) for parts in CASES.values()]
    return sync.run(on_each_rank, cases, text, processes=3)


@pytest.mark.parametrize("reference", [nn.BatchNorm1d, norm.BatchNorm1d])
@pytest.mark.parametrize("key", CASES, ids=lambda k: "-".join(map(str, k)))
def test_equals_one_process_on_the_whole_batch(ranks, key, reference):
    options, state, x, dy, _ = case(*CASES[key])
    bias = options.get("bias", True)
    if reference is nn.BatchNorm1d:
        options = {k: v for k, v in options.items() if k != "bias"}
    layer = reference(5, dtype=torch.float64, **options)
    if not bias:
        layer.register_parameter("bias", None)
    layer.load_state_dict(state)
    steps, after = everything(layer, x, dy)
    found = [results[list(CASES).index(key)] for results in ranks]
    close = {"rtol": 1e-10, "atol": 1e-10}
    for number, (y, dx, *rest) in enumerate(steps):
        mine = [steps[number] for steps, _ in found]
        for i, whole in ((0, y), (1, dx), (-2, rest[-2]), (-1, rest[-1])):
            torch.testing.assert_close(torch.cat([m[i] for m in mine]), whole, **close)
        for i, whole in enumerate(rest[:-2], 2):  # weight and bias: local parts
            torch.testing.assert_close(sum(m[i] for m in mine), whole, **close)
    for _, state in found:
        torch.testing.assert_close(state, after, **close)
        torch.testing.assert_close(state, found[0][1], rtol=0, atol=0)  # same bits


def test_behaves_like_pytorchs_layer_without_a_process_group():
    report = conformance.compare(sync.BatchNorm1d)
    assert report.passed, report


def special_cases():
    """Groups, modes, dtypes and refusals, on each of two ranks."""
    rank, found = distributed.get_rank(), {}
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4)
    whole = norm.BatchNorm1d(4)
    expected = whole(x.flatten(0, 1)).view_as(x)[rank]
    alone = [distributed.new_group([r]) for r in (0, 1)]
    mine = sync.BatchNorm1d(4, process_group=alone[rank])
    other = sync.BatchNorm1d(4, process_group=alone[1 - rank])
    plain = norm.BatchNorm1d(4)(x[rank])
    found["group of one"] = torch.equal(mine(x[rank]), plain)
    found["not in the group"] = torch.equal(other(x[rank]), plain)
    both = sync.BatchNorm1d(4, process_group=distributed.new_group([0, 1]))
    found["group of both"] = torch.allclose(both(x[rank]), expected, atol=1e-5)
    layer = sync.BatchNorm1d(4)
    layer(x[rank])
    if rank == 0:  # nobody waits for rank 1
        y = layer.eval()(x[rank][:1])
        found["evaluation"] = torch.allclose(y, whole.eval()(x[rank][:1]), atol=1e-5)
    layer.train()
    for dtype in (torch.float16, torch.bfloat16):
        y = layer(x[rank].to(dtype))
        found[str(dtype)] = y.dtype == dtype and torch.allclose(
            y.float(), expected, atol=0.03
        )
    for name, wrong in (
        ("one value in all", torch.ones(1 - rank, 4)),
        ("wrong channels", torch.ones(3, 5)),
        ("wrong dimensions", torch.ones(3, 4, 2, 2)),
        ("wrong dtype", torch.ones(3, 4).double()),
    ):
        try:
            layer(wrong)
        except (ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    far = 1e4 + torch.randn(2, 500, 4)
    y = sync.BatchNorm1d(4)(far[rank])
    found["large mean"] = torch.allclose(
        y, norm.BatchNorm1d(4)(far.flatten(0, 1)).view_as(far)[rank], atol=2e-3
    )
    in_place = sync.BatchNorm1d(4, affine=False)
    z = x[rank].clone().requires_grad_()
    in_place(z).relu_().sum().backward()  # y may be changed
    found["in place"] = z.grad is not None
    found["nobody has data"] = tuple(layer(torch.ones(0, 4)).shape) == (0, 4)
    turned = sync.BatchNorm1d(4)(torch.ones(3, 5, 4).transpose(1, 2))
    found["rows in memory"] = turned.is_contiguous()
    found["count"] = layer.num_batches_tracked.item()
    if rank == 0:
        x[0, 0, 0] = float("nan")
    found["nan"] = layer(x[rank]).isnan().any(0).tolist()
    try:
        nn.SyncBatchNorm(4)(x[rank])
    except ValueError as error:
        found["pytorch"] = str(error)
    return found


def test_groups_modes_dtypes_and_refusals():
    for found in sync.run(special_cases):
        right = {k: v for k, v in found.items() if isinstance(v, bool)}
        assert all(right.values()), right
        assert len(right) >= 8
        assert "more than 1 value per channel" in found["one value in all"]
        assert "should contain 5 elements not 4" in found["wrong channels"]
        assert "2D or 3D input (got 4D input)" in found["wrong dimensions"]
        assert "mixed dtype" in found["wrong dtype"]
        assert found["count"] == 4  # refused batches do not count
        assert found["nan"] == [True, False, False, False]
        assert "GPU" in found["pytorch"]


def pair_of_three(x, dy):
    """Output, gradients and state of a layer that ranks 0 and 1 of three share."""
    pair = distributed.new_group([0, 1])
    layer = sync.BatchNorm1d(5, process_group=pair)
    rank = distributed.get_rank()
    if rank == 2:  # alone from here on: nobody waits for it, and it for nobody
        return {"y": layer(x[rank]), "mean": layer.running_mean}
    part = x[rank].clone().requires_grad_()
    y = layer(part)
    y.backward(dy[rank])
    grads = {"dx": part.grad, "dweight": layer.weight.grad, "dbias": layer.bias.grad}
    return {"y": y.detach(), "mean": layer.running_mean, **grads}


def test_a_group_smaller_than_the_world_keeps_to_itself():
    x, dy = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    first, second, third = sync.run(pair_of_three, x, dy, processes=3)
    whole, alone = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    both = x[:2].flatten(0, 1).requires_grad_()
    y = whole(both)
    y.backward(dy[:2].flatten(0, 1))
    close = {"rtol": 1e-5, "atol": 1e-6}
    for key, expected in (("y", y.detach()), ("dx", both.grad)):
        found = torch.cat([first[key], second[key]])
        torch.testing.assert_close(found, expected, **close)  # the dtype as well
    for key, expected in (("dweight", whole.weight.grad), ("dbias", whole.bias.grad)):
        torch.testing.assert_close(first[key] + second[key], expected, **close)
    for found in (first, second):
        torch.testing.assert_close(found["mean"], whole.running_mean, **close)
    torch.testing.assert_close(third["y"], alone(x[2]).detach(), **close)
    torch.testing.assert_close(third["mean"], alone.running_mean, **close)


def test_the_constructor_passes_device_and_dtype_on():
    layer = sync.BatchNorm1d(4, device="meta", dtype=torch.float64)
    assert {v.device.type for v in layer.state_dict().values()} == {"meta"}
    assert layer.weight.dtype == layer.running_var.dtype == torch.float64


def test_convert_changes_the_class_and_nothing_else():
    torch.manual_seed(0)
    shared = nn.BatchNorm1d(4, momentum=None, eps=1e-3)
    inner = nn.Sequential(shared, norm.BatchNorm1d(4, affine=False).eval())
    model = nn.Sequential(inner, nn.Linear(4, 4), shared, nn.Dropout(0.5))
    inner[0].weight.requires_grad_(False)
    calls = []
    shared.register_forward_hook(lambda *args: calls.append(1))
    model(torch.randn(8, 4))
    before, after = copy.deepcopy(model), sync.convert(model, process_group=None)
    assert after is model
    assert type(model[2]) is type(model[0][1]) is sync.BatchNorm1d
    assert model[0][0] is model[2] is shared
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert list(model.state_dict()) == list(before.state_dict())
    assert (shared.momentum, shared.eps) == (None, 1e-3)
    for new, old in zip(model.modules(), before.modules()):
        assert new.training == old.training
    needed = [p.requires_grad for p in model.parameters()]
    assert needed == [p.requires_grad for p in before.parameters()]
    calls.clear()
    model(torch.randn(8, 4))
    assert len(calls) == 2
    shared._forward_hooks.clear()  # the local function above cannot be pickled
    x = torch.randn(3, 4)
    assert torch.equal(pickle.loads(pickle.dumps(model)).eval()(x), model.eval()(x))


def test_convert_takes_a_layer_itself_and_twice():
    layer = sync.convert(nn.BatchNorm1d(3))
    assert type(sync.convert(layer)) is sync.BatchNorm1d


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(3), nn.LazyBatchNorm1d(), type("My", (nn.BatchNorm1d,), {})(3)],
)
def test_convert_refuses_what_would_stay_local_and_changes_nothing(layer):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(layer))
    with pytest.raises(TypeError, match=r"cannot synchronise 1\.0"):
        sync.convert(model)
    assert type(model[0]) is nn.BatchNorm1d


@pytest.fixture
def no_leftovers():
    """Mark all processes that a test starts; none may be left when it ends."""
    marker = uuid.uuid4().hex
    yield {"BNUTILS_TEST": marker}
    if Path("/proc/self/environ").exists():
        end = time.monotonic() + 3
        while (left := marked(marker)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left


def marked(marker):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


MNIST = ("bnutils.sync.mnist", "--images", 64, "--dtype", "float64")


def trained(norms, batch_sizes):
    """Losses, last gradients and state of networks trained on 64 images."""
    digits, found = sync_mnist.load(64, torch.float64), {}
    for kind in norms:
        for size in batch_sizes:
            net, losses = sync_mnist.fit(digits, kind, size)
            state = dict(net.state_dict())
            state |= {f"d{name}": p.grad for name, p in net.named_parameters()}
            found[f"{kind} {size}"] = state | {"loss": torch.tensor(losses)}
    return found


def test_training_equals_one_process(monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", "digits")
    whole = trained(["local"], [16, 7])
    for found in sync.run(trained, ["sync", "local"], [16, 7]):
        for size in (16, 7):  # equal parts; 4 and 3 images
            one, both = whole[f"local {size}"], found[f"sync {size}"]
            assert len(one["loss"]) == 64 // size
            torch.testing.assert_close(both, one, rtol=1e-10, atol=1e-10)
            local = found[f"local {size}"]["loss"]
            assert (local - one["loss"]).abs().max() > 1e-4


def test_one_process_equals_the_books_loop(monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", "digits")
    digits = sync_mnist.load(64, torch.float32, torch.device("cpu"))
    whole = sync_mnist.experiment(digits, "sync", 32, lr=0.1, seed=3)
    torch.manual_seed(3)
    net = models.mlp((784, 128, 64, 10))
    options = {"optimizer": "plain_sgd", "schedule": "constant", "seed": 3}
    history = train.fit(net, digits, epochs=1, batch_size=32, lr=0.1, **options)
    assert whole["loss"] == pytest.approx(history.loss, abs=1e-6)


WAITING = """
from pathlib import Path
import time
from bnutils import sync
def wait(path):
    Path(path).touch()
    time.sleep(60)
sync.run(wait, {!r})
"""
STOPPED = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


HANGING = "--patience", 5


def launched(env, *arguments, **options):
    """What a job wrote, or its error; the seconds from its start, from the failure."""
    start = time.time()
    try:
        result = sync.launch(*arguments, env=env, **options)
    except sync.LaunchError as error:
        result = error
    said = result.stdout if isinstance(result, Exception) else result
    for report in map(json.loads, said.splitlines()):
        start = report.get("imed out|timeout", start)
    return result, time.time() - start


def interrupted(env, folder, number):
    """Send a signal to a launcher whose processes run; its exit code and stderr."""
    ready, script = folder / f"ready{number}", folder / f"script{number}.py"
    script.write_text(WAITING.format(str(ready)))
    process = subprocess.Popen(
        [sys.executable, script], env=os.environ | env, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr.decode()


def test_whatever_happens_the_job_ends_and_nothing_is_left(
    no_leftovers, monkeypatch, tmp_path
):
    (tmp_path / "stopping.py").write_text(STOPPED)
    root = Path(sync.__file__).parents[2]
    env = no_leftovers | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    monkeypatch.setenv("BNUTILS_DATA", "digits")
    with ThreadPoolExecutor(4) as pool:  # at once: their ports must not collide
        jobs = {
            how: pool.submit(launched, env, *MNIST, "--break", how, *options)
            for how, options in (("kill", ()), ("raise", ()), ("hang", HANGING))
        }
        jobs["good"] = pool.submit(launched, env, *MNIST, "--batch-size", 16)
        jobs["stopped"] = pool.submit(launched, env, "stopping", timeout=3)
        jobs["SIGINT"] = pool.submit(interrupted, env, tmp_path, signal.SIGINT)
        jobs["SIGKILL"] = pool.submit(interrupted, env, tmp_path, signal.SIGKILL)
    found = {name: job.result() for name, job in jobs.items()}

    for how, remark in {
        "kill": "rank 1 was killed by signal 9",
        "raise": r"\[rank1\]: RuntimeError: broken on purpose after step 3",
        "hang": "imed out|timeout",
    }.items():
        error, seconds = found[how]
        assert isinstance(error, sync.LaunchError), how
        assert re.search(remark, str(error)), error.stderr
        assert seconds < ENDS_WITHIN
    assert found["kill"][0].exit_codes[1] == -9
    assert found["hang"][0].exit_codes[0] == 1
    assert len(json.loads(found["good"][0])["loss"]) == 4
    stopped, seconds = found["stopped"]
    assert "stopping did not end within 3 s and was stopped" in str(stopped)
    assert seconds < 3 + 10
    for name in ("SIGINT", "SIGKILL"):
        code, stderr = found[name]
        assert code != 0
        assert ("KeyboardInterrupt" in stderr) == (name == "SIGINT")


LIST, HELPER = [1, 2.5, "three"], lambda: 1


def uses_globals(t):
    return [*LIST, t + 1, distributed.get_world_size(), data.__name__]


def test_run_sends_values_and_imports_and_writes_nothing_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for found in sync.run(uses_globals, torch.ones(2)):
        assert found[:3] == LIST
        assert torch.equal(found[3], torch.full((2,), 2.0))
        assert found[4:] == [2, "bnutils.data"]
    assert not list(tmp_path.iterdir())


def uses_it_inside():
    return [HELPER() for _ in range(3)]


def has_attributes_of_that_name(thing):
    return thing.HELPER(), [t.HELPER for t in thing.HELPER]


def test_an_attribute_is_no_global_name():
    """A second run of a notebook's cells finds functions that were defined later."""
    sent = _remote.capture(has_attributes_of_that_name)
    assert sent["values"] == {} and "import" not in sent["text"]


def uses_helper():
    return HELPER()


def test_run_refuses_what_it_cannot_send():
    number = 3

    def enclosed():
        return number

    with pytest.raises(ValueError, match="uses number of an enclosing function"):
        sync.run(enclosed)
    with pytest.raises(ValueError, match="uses HELPER"):
        sync.run(uses_helper)
    with pytest.raises(ValueError, match="uses HELPER"):
        sync.run(uses_it_inside)
    with pytest.raises(ValueError, match="defined by def"):
        sync.run(lambda: 1)
    with pytest.raises(ValueError, match="defined by def"):
        sync.run(3)
