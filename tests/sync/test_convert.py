"""The layer and the training script in one process, and how a model gets the layer."""

from __future__ import annotations

import copy
import json
import pickle
import socket

import pytest
import torch
from torch import distributed, nn

from bnutils import conformance, models, norm, sync, train
from bnutils.sync import mnist


def test_behaves_like_pytorchs_layer_without_a_process_group():
    report = conformance.compare(sync.BatchNorm1d)
    assert report.passed, report


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
    for new, old in zip(model.modules(), before.modules(), strict=True):
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
    assert type(sync.convert(layer, process_group="mine")) is sync.BatchNorm1d
    assert layer.process_group == "mine"


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(3), nn.LazyBatchNorm1d(), type("My", (nn.BatchNorm1d,), {})(3)],
)
def test_convert_refuses_what_would_stay_local_and_changes_nothing(layer):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(layer))
    with pytest.raises(TypeError, match=r"cannot synchronise 1\.0"):
        sync.convert(model)
    assert type(model[0]) is nn.BatchNorm1d


def test_one_process_trains_as_the_books_loop_does(monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", "digits")
    digits = mnist.load(64, torch.float32, torch.device("cpu"))
    steps = []
    ours = mnist.experiment(
        digits, "sync", 32, lr=0.1, seed=3, epochs=2, on_step=steps.append
    )
    torch.manual_seed(3)
    net = models.mlp((784, 128, 64, 10))
    options = {"optimizer": "plain_sgd", "schedule": "constant", "seed": 3}
    history = train.fit(net, digits, epochs=2, batch_size=32, lr=0.1, **options)
    assert ours["loss"] == pytest.approx(history.loss, abs=1e-6)
    assert ours["accuracy"] == history.valid_accuracy[-1]
    assert steps == [1, 2, 3, 4]


def test_the_script_writes_a_line_for_each_combination(monkeypatch, capsys):
    """As torchrun starts it, here with a world of one process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in {
        "BNUTILS_DATA": "digits",
        "RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))
    options = "--norm sync local --batch-size 16 32 --images 64 --dtype float64"
    mnist.main([*options.split(), "--lr", "0.2", "--seed", "5", "--epochs", "2"])
    assert not distributed.is_initialized()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["norm"], r["batch_size"], len(r["loss"])) for r in lines] == [
        ("sync", 16, 8),
        ("sync", 32, 4),
        ("local", 16, 8),
        ("local", 32, 4),
    ]
    assert {(r["lr"], r["seed"]) for r in lines} == {(0.2, 5)}
    assert lines[0]["loss"] == pytest.approx(lines[2]["loss"], rel=1e-12)
    alone = mnist.experiment(
        mnist.load(64, torch.float64), "local", 16, 0.2, 5, epochs=2
    )
    assert lines[2] == alone
