"""What differs once a model lies on a GPU: streams, graphs, random states, moves.

The layers themselves go through tests/norm on the GPU as well, where there is one; everything here
needs one.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from layers import shuffled
from torch import nn

from bnutils import (
    conformance,
    data,
    deploy,
    doctor,
    exercises,
    fast,
    models,
    norm,
    probe,
    relatives,
    sync,
    train,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LAYERS = [norm.BatchNorm1d, fast.TorchBatchNorm1d, fast.CompileBatchNorm1d]
LAYERS += [] if fast.available("kernel") else [fast.KernelBatchNorm1d]
each = pytest.mark.parametrize("cls", LAYERS)
modes = pytest.mark.parametrize("training", [True, False])


@pytest.fixture(autouse=True)
def _start(monkeypatch):
    monkeypatch.delenv("BNUTILS_DEVICE", raising=False)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def digits():
    """The offline digits in float64, so that a run is the same on both devices."""
    digits = data.load("digits")
    splits = {n: getattr(digits, n) for n in ("train", "valid", "test")}
    return replace(
        digits, **{n: data.Split(s.x.double(), s.y) for n, s in splits.items()}
    )


def pair(cls, c=8, training=True, **options):
    """A layer of the class and PyTorch's on the GPU, in the same state and mode."""
    theirs = shuffled(nn.BatchNorm1d(c, **options)).cuda().train(training)
    ours = cls(c, **options).cuda().train(training)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def net_with_noise():
    return nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10)
    )


# Layers


@each
@modes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_step_under_autocast(cls, dtype, training):
    layers = pair(cls, training=training)
    linear = nn.Linear(8, 8).cuda()
    x = 3 * torch.randn(64, 8, device="cuda") + 1
    found = []
    for layer in layers:
        z = x.clone().requires_grad_()
        with torch.autocast("cuda", dtype):
            y = layer(linear(z))
            loss = y.square().sum()
        loss.backward()
        found.append((y, z.grad, layer.weight.grad, *layer.state_dict().values()))
    assert found[1][0].dtype == dtype
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@each
@modes
def test_a_layer_and_an_input_on_two_devices(cls, training):
    for layer in pair(cls, training=training):
        with pytest.raises(RuntimeError, match="device"):
            layer(torch.randn(4, 8))
    for kind in (cls, nn.BatchNorm1d):
        layer = kind(8).train(training)
        with pytest.raises(RuntimeError, match="device"):
            layer(torch.randn(4, 8, device="cuda"))


@each
@modes
def test_a_step_does_not_wait_for_the_gpu(cls, training):
    layer, _ = pair(cls, training=training)
    x = torch.randn(32, 8, 5, device="cuda", requires_grad=True)
    layer(x).sum().backward()  # compiles what there is to compile
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each
@modes
def test_a_step_within_a_cuda_graph(cls, training):
    layers = pair(cls, training=training)
    x = torch.randn(32, 8, device="cuda")
    outputs, graphs = [], []
    for layer in layers:
        with torch.no_grad():
            for _ in range(3):  # PyTorch asks for a few steps before
                layer(x)
        torch.cuda.synchronize()
        graphs.append(torch.cuda.CUDAGraph())
        with torch.no_grad(), torch.cuda.graph(graphs[-1]):
            outputs.append(layer(x))
    for _ in range(4):
        x.copy_(2 * torch.randn(32, 8) + 1)
        for graph in graphs:
            graph.replay()
        torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*(dict(m.state_dict()) for m in layers))
    assert int(layers[0].num_batches_tracked) == (7 if training else 0)


@each
def test_steps_under_deterministic_algorithms_repeat_bit_for_bit(cls):
    x = torch.randn(500, 8, 7, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        found = []
        for _ in range(3):
            layer = cls(8).cuda()
            z = x.clone().requires_grad_()
            layer(z).sin().sum().backward()
            found.append([z.grad, layer.weight.grad, *layer.state_dict().values()])
        for again in found[1:]:
            assert all(map(torch.equal, found[0], again))
    finally:
        torch.use_deterministic_algorithms(False)


@each
@modes
def test_inductor_on_the_gpu(cls, training):
    layers = pair(cls, training=training)
    torch._dynamo.reset()
    compiled = torch.compile(layers[0], fullgraph=True)
    x = torch.randn(64, 8, device="cuda")
    found = []
    for layer in (compiled, layers[1]):
        z = x.clone().requires_grad_()
        y = layer(z)
        y.sin().sum().backward()
        found.append((y, z.grad))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*(dict(m.state_dict()) for m in layers))


@each
def test_there_and_back(cls):
    layer, theirs = pair(cls)
    x = torch.randn(16, 8, device="cuda")
    torch.testing.assert_close(layer(x), theirs(x))
    layer.cpu(), theirs.cpu()
    torch.testing.assert_close(layer(x.cpu()), theirs(x.cpu()))
    torch.testing.assert_close(dict(layer.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: relatives.LayerNorm(6, **o),
        lambda **o: relatives.RMSNorm(6, **o),
        lambda **o: relatives.GroupNorm(2, 4, **o),
        lambda **o: relatives.InstanceNorm1d(
            4, affine=True, track_running_stats=True, **o
        ),
        lambda **o: sync.BatchNorm1d(4, **o),
    ],
)
def test_relatives_do_on_the_gpu_what_they_do_on_the_cpu(make):
    x = torch.randn(5, 4, 6, dtype=torch.float64)
    here = shuffled(make(dtype=torch.float64))
    there = make(dtype=torch.float64, device="cuda")
    there.load_state_dict(here.state_dict())
    found = []
    for layer, z in ((here, x.clone()), (there, x.cuda())):
        z.requires_grad_()
        y = layer(z)
        y.sin().sum().backward()
        values = [y, z.grad, *(p.grad for p in layer.parameters())]
        values += layer.state_dict().values()
        found.append([v.cpu() for v in values])
    torch.testing.assert_close(*found)


# Random states


@pytest.fixture
def cuda_random_state():
    """Check that the GPU's random numbers go on where they were."""
    torch.cuda.manual_seed(123)
    torch.rand(7, device="cuda")
    before = torch.cuda.get_rng_state()
    yield
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.usefixtures("cuda_random_state")
def test_a_conformance_report_leaves_them_alone():
    assert conformance.compare(norm.BatchNorm1d).passed


@pytest.mark.usefixtures("cuda_random_state")
def test_an_exercise_leaves_them_alone():
    def drawn(*_):
        return torch.rand(3)

    exercises.check("04.1", drawn)


@pytest.mark.usefixtures("cuda_random_state")
def test_the_doctor_leaves_them_alone():
    model = net_with_noise().cuda()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    batches = [torch.randn(32, 64) for _ in range(3)]
    doctor.examine(model, batches)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert {v.device.type for v in model.state_dict().values()} == {"cuda"}


@pytest.mark.usefixtures("cuda_random_state")
def test_folding_leaves_them_alone():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net_with_noise()

        def forward(self, x):
            noise = torch.rand(64, device="cuda")
            return self.layers(x + 0 * noise)

    deploy.fold(Noisy().cuda().eval())


# Tools


def test_folding():
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4, 5),
        nn.BatchNorm1d(5),
    )
    model = shuffled(model).double().cuda().eval()
    x = torch.randn(7, 3, 6, dtype=torch.float64, device="cuda")
    for example in (None, x):
        folded = deploy.fold(model, example)
        assert not [m for m in folded.model.modules() if isinstance(m, nn.BatchNorm1d)]
        torch.testing.assert_close(folded.model(x), model(x))


def test_recalibration():
    found = []
    batches = [torch.randn(40, 64) + 1 for _ in range(4)]
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = models.mlp((64, 32, 10)).double().to(device)
        deploy.recalibrate(model, [x.double().to(device) for x in batches])
        found.append({n: v.cpu() for n, v in model.state_dict().items()})
    torch.testing.assert_close(*found)


def test_the_doctor_finds_the_same():
    found = []
    x = torch.randn(96, 64) * 3 + 2
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 32),
            nn.BatchNorm1d(32, momentum=0.0),
            nn.ReLU(),
            nn.Linear(32, 16),
            nn.BatchNorm1d(16, track_running_stats=False),
            nn.Linear(16, 10),
        ).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        report = doctor.examine(model, x.split(32), optimizer)
        found.append([(f.code, f.path) for f in report])
    assert found[0] == found[1] != []


def test_recording():
    model = models.mlp((64, 32, 10)).cuda()
    with probe.record(model, nn.BatchNorm1d) as recording:
        y = model(torch.randn(9, 64, device="cuda"))
        y.sum().backward()
    for seen in (recording.inputs, recording.outputs, recording.gradients):
        (values,) = seen.values()
        assert values.shape == (9, 32)
        assert values.device.type == "cuda"


def test_training_gives_what_the_cpu_gives_and_uses_the_gpu(digits):
    histories = []
    for device in ("cpu", None):
        torch.manual_seed(0)
        net, seen = models.mlp((784, 32, 10)).double(), set()

        def look(*_, net=net, seen=seen):
            seen.update(v.device.type for v in net.state_dict().values())

        histories.append(
            train.fit(net, digits, device=device, batch_size=50, on_step=look)
        )
        assert seen == {device or "cuda"}
        assert next(net.parameters()).device.type == "cpu"
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-6)
    assert histories[0].valid_accuracy == histories[1].valid_accuracy


def test_the_fused_engine_is_for_the_cpu(digits):
    net = models.mlp((784, 32, 10)).double()
    with pytest.raises(ValueError, match="device='cpu'"):
        train.fit(net, digits, engine="fused")
    assert next(net.parameters()).device.type == "cpu"


def test_processes_on_the_gpu():
    out = sync.launch(
        "bnutils.sync.mnist",
        *("--norm", "sync", "pytorch", "local"),
        *("--images", "64", "--dtype", "float64"),
        processes=1,
        timeout=240,
        env={"BNUTILS_DATA": "digits"},
    )
    ours, theirs, local = (json.loads(line)["loss"] for line in out.splitlines())
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(ours, local, rtol=1e-9)
