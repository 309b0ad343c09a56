"""Under torch.func, torch.compile, torch.export and torch.jit."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from layers import shuffled
from torch import nn
from twins import agree, each, modes, nightly, outcome, pair, same_step

from bnutils import fast

pytestmark = pytest.mark.usefixtures("strict")
COMPILE = pytest.mark.skipif(
    bool(fast.available("compile")), reason="no compiler for torch.compile"
)


@pytest.fixture
def fresh():
    """What was compiled for other tests is forgotten: Dynamo compiles a function 8 times."""
    torch._dynamo.reset()


# torch.func


@each
@modes
def test_functional_call_and_grad(cls, training):
    x = torch.randn(5, 3).double()
    found = []
    for layer in pair(cls, training=training):
        values = {k: v.clone() for k, v in layer.state_dict().items()}
        parameters = {k: values.pop(k) for k in ("weight", "bias")}

        def loss(parameters, x, layer=layer, values=values):
            state = {**parameters, **{k: v.clone() for k, v in values.items()}}
            return torch.func.functional_call(layer, state, (x,)).sin().sum()

        before = copy.deepcopy(dict(layer.state_dict()))
        found.append(torch.func.grad(loss, argnums=(0, 1))(parameters, x))
        agree(dict(layer.state_dict()), before)
    agree(*found)


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda z: f(z).pow(3).sum())(x),
    "grad of grad": lambda f, x: torch.func.grad(
        lambda z: torch.func.grad(lambda w: f(w).pow(3).sum())(z).pow(2).sum()
    )(x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda z: f(z).pow(3).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),)),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](x.cos()),
    "linearize": lambda f, x: torch.func.linearize(f, x)[1](x.cos()),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, x * 2, x + 1])),
    "vmap, other axis": lambda f, x: torch.func.vmap(f, in_dims=2, out_dims=1)(
        torch.stack([x, x.cos()], 2)
    ),
    "vmap of grad": lambda f, x: torch.func.vmap(
        torch.func.grad(lambda z: f(z).pow(3).sum())
    )(torch.stack([x, x * 2])),
    "autograd jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x),
    "batched gradients": lambda f, x: torch.autograd.functional.jacobian(
        f, x, vectorize=True
    ),
    "autograd hessian": lambda f, x: torch.autograd.functional.hessian(
        lambda z: f(z).pow(3).sum(), x
    ),
}


@each
@modes
@pytest.mark.parametrize("track", [True, pytest.param(False, marks=nightly)])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(cls, transform, track, training):
    layers = pair(cls, training=training, track_running_stats=track)
    x = torch.randn(4, 3).double()
    found = [outcome(TRANSFORMS[transform], layer, x) for layer in layers]
    agree(*found, rtol=1e-7, atol=1e-9)


@each
@modes
def test_functionalize_takes_the_state_as_an_input(cls, training):
    found = []
    x = torch.randn(5, 3).double()
    for layer in pair(cls, training=training):
        state = {k: v.detach().clone() for k, v in layer.state_dict().items()}

        def call(state, x, layer=layer):
            return torch.func.functional_call(layer, state, (x,)), state

        found.append(torch.func.functionalize(call)(state, x))
    agree(*found)


@each
@modes
@pytest.mark.parametrize("randomness", ["error", "different", "same"])
@pytest.mark.parametrize("track", [True, False])
def test_vmap_whatever_the_randomness(cls, randomness, track, training):
    layers = pair(cls, training=training, track_running_stats=track)
    x = torch.randn(4, 5, 3).double()
    found = [
        outcome(torch.func.vmap(layer, randomness=randomness), x) for layer in layers
    ]
    agree(*found)
    agree(*(layer.state_dict() for layer in layers))  # a refusal left nothing half-done


@each
@modes
def test_an_ensemble_by_stacked_states(cls, training):
    found = []
    x = torch.randn(2, 5, 3).double()
    for kind in (cls, nn.BatchNorm1d):
        torch.manual_seed(1)
        nets = [shuffled(kind(3, dtype=torch.float64)).train(training) for _ in "ab"]
        parameters, buffers = torch.func.stack_module_state(nets)

        def call(p, b, z, net=nets[0]):
            return torch.func.functional_call(net, (p, b), (z,))

        y = outcome(torch.func.vmap(call), parameters, buffers, x)
        found.append(y if isinstance(y, Exception) else (y.detach(), buffers))
    agree(*found)


# torch.compile, torch.export, torch.jit


def traces_numbers() -> bool:
    """Whether torch.compile takes a number out of a tensor; PyTorch 2.4 does not."""
    divided = torch.compile(lambda n: n / float(n), fullgraph=True, backend="eager")
    return not isinstance(outcome(divided, torch.tensor(2)), Exception)


def two_steps(layer, call, xs):
    """Outputs, gradients and state after two steps."""
    found = []
    for x in xs:
        z = x.clone().requires_grad_()
        y = call(z)
        grads = torch.autograd.grad(y.pow(3).sum(), (z, *layer.parameters()))
        found.append((y.detach(), grads))
    return found, dict(layer.state_dict())


@each
@modes
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=nightly)])
@pytest.mark.parametrize("options", [{}, {"momentum": None}], ids=str)
def test_compiles_in_one_graph(cls, backend, options, training):
    """With momentum=None too, which PyTorch 2.13 refuses for its own layer."""
    if options and training and not traces_numbers():
        pytest.skip("this torch.compile breaks the graph at float(tensor)")
    ours, theirs = pair(cls, training=training, **options)
    xs = torch.randn(2, 5, 3).double()
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    agree(two_steps(ours, compiled, xs), two_steps(theirs, theirs, xs))


@each
@modes
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=nightly)])
@pytest.mark.parametrize("any_batch", [True, pytest.param(False, marks=nightly)])
def test_exports(cls, any_batch, strict, training):
    layers = pair(cls, training=training)
    x = torch.randn(5, 3).double()
    sizes = {0: torch.export.Dim("n", min=2, max=99)} if any_batch else None
    found = []
    for layer in layers:
        program = torch.export.export(
            layer, (x,), dynamic_shapes=(sizes,), strict=strict
        )
        assert set(program.state_dict) == set(layer.state_dict())
        written = set(program.graph_signature.buffers_to_mutate.values())
        run = program.module()
        inputs = [x, x * 2] + ([torch.cat([x, x + 1])] if any_batch else [])
        found.append(([run(z) for z in inputs], written, dict(run.state_dict())))
    (ours, written, state), (theirs, expected_written, expected_state) = found
    agree((ours, state), (theirs, expected_state))
    assert written == expected_written


@each
@modes
def test_traces(cls, training):
    warnings.simplefilter("ignore", torch.jit.TracerWarning)
    layers = pair(cls, training=training)
    x = torch.randn(5, 3).double()
    found = []
    for layer in layers:
        traced = torch.jit.trace(layer, x, check_trace=False)
        found.append((traced(x), traced(2 * x), dict(layer.state_dict())))
    agree(*found)


@each
def test_scripting_is_left_to_pytorchs_layer(cls):
    """TorchScript, which PyTorch gives up, knows a part of Python: the error is its own."""
    warnings.simplefilter("ignore")
    torch.jit.script(nn.BatchNorm1d(3))
    with pytest.raises(RuntimeError):
        torch.jit.script(cls(3))


@COMPILE
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        pytest.param(torch.float64, {"affine": False, "momentum": None}, marks=nightly),
    ],
    ids=str,
)
@pytest.mark.usefixtures("fresh")
def test_the_compile_gear(dtype, options):
    warnings.simplefilter("ignore")  # inductor's own
    layers = pair(fast.CompileBatchNorm1d, dtype=dtype, **options)
    assert layers[0].gear == "compile"
    loose = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    for training in (True, True, False, True):
        for layer in layers:
            layer.train(training)
        for shape in ((4, 3, 5), (6, 3)):
            x = torch.randn(shape, dtype=dtype) * 2 + 1
            same_step(layers, x, **loose)
    for x in (
        torch.randn(3, 4).t(),
        torch.randn(4, 5, 3).transpose(1, 2),
        torch.randn(4, 3, 1).expand(4, 3, 5),
        torch.empty(0, 3, 5),
        torch.full((6, 3, 2), torch.nan),
    ):
        same_step(layers, x.to(dtype), **loose)
    for shape in ((1, 3, 1), (5, 2, 4), (5,)):
        same_step(layers, torch.randn(shape, dtype=dtype))


@COMPILE
@each
@modes
@pytest.mark.usefixtures("fresh")
def test_inductor(cls, training):
    warnings.simplefilter("ignore")
    ours, theirs = pair(cls, training=training)
    xs = torch.randn(2, 5, 3).double()
    compiled = torch.compile(ours, fullgraph=True)
    agree(two_steps(ours, compiled, xs), two_steps(theirs, theirs, xs))
