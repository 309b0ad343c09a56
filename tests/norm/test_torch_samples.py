"""PyTorch's own sample inputs for batch norm, which ship in its wheel, through every layer.

``module_db`` holds the samples of ``nn.BatchNorm1d``, ``op_db`` those of the functions below it.
Both are private to PyTorch: their import asks for expecttest.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from layers import ZERO_EPS_AS_NOW
from torch import nn
from twins import each, nightly

pytest.importorskip("expecttest", reason="PyTorch's samples need expecttest")

with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    patch.setattr("sys.argv", ["pytest"])  # which they parse
    patch.setattr("torch.backends.disable_global_flags", lambda: None)
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
(MODULE,) = (m for m in module_db if m.module_cls is nn.BatchNorm1d)
OPS = {o.name: o for o in op_db if "batch_norm" in o.name and not o.variant_test_name}
ORDER = {  # of the arguments after the input
    "nn.functional.batch_norm": "mean var weight bias training momentum eps",
    "native_batch_norm": "weight bias mean var training momentum eps",
    "_native_batch_norm_legit": "weight bias mean var training momentum eps",
    "_batch_norm_with_update": "weight bias mean var momentum eps",
}
# The public function in every dtype; those behind it, with the same samples, in float32.
FUNCTION, *BEHIND = ORDER


def options_of(name, sample):
    """The arguments of a sample by name, with the function's defaults."""
    order = ORDER[name].split()
    if name == "_native_batch_norm_legit" and len(sample.args) == 5:
        order = ["weight", "bias", "training", "momentum", "eps"]  # no statistics
    found = {"momentum": 0.1, "eps": 1e-5, "mean": None, "var": None}
    found["training"] = name == "_batch_norm_with_update"
    return found | dict(zip(order, sample.args)) | sample.kwargs


def layer_of(cls, options, c, dtype):
    """A layer that does what the function does with these options."""
    layer = cls(c, options["eps"], options["momentum"], dtype=dtype)
    layer.train(options["training"])
    layer.running_mean, layer.running_var = (
        None if v is None else v.clone() for v in (options["mean"], options["var"])
    )
    for name in ("weight", "bias"):
        value = options[name]
        if value is not None:
            value = nn.Parameter(value.detach().clone())
        setattr(layer, name, value)
    return layer


def derivatives(y, inputs):
    """First derivatives of a function of y, and second ones."""
    slope = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    first = torch.autograd.grad((y.sin() * slope).sum(), inputs, create_graph=True)
    total = sum(g.cos().sum() for g in first)
    if not total.requires_grad:
        return list(first)
    return [*first, *torch.autograd.grad(total, inputs, allow_unused=True)]


def same(ours, theirs, exact, dtype):
    """In low precision: no further from what float64 gives than PyTorch, with some slack."""
    for a, b, e in zip(ours, theirs, exact, strict=True):
        if b is None or not b.numel() or e is None:
            assert (a is None) == (b is None) or not (a if b is None else b).any()
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        error, limit = ((v.double() - e).abs().max().item() for v in (a, b))
        slack = {8: 1e6, 4: 1e3}.get(dtype.itemsize, 8) * torch.finfo(dtype).eps
        assert error <= 4 * limit + slack * (1 + e.abs().max().item())


def results_of_the_layer(layer, x):
    """Statistics, output, first and second derivatives."""
    z = x.clone().requires_grad_()
    y = layer(z.flatten(2) if z.dim() > 3 else z).reshape(x.shape)
    state = [v for n, v in layer.state_dict().items() if n.startswith("running")]
    return [*state, y, *derivatives(y, [z, *layer.parameters()])]


def results_of_the_function(name, sample, dtype):
    """The same of PyTorch's function, computed in a dtype."""

    def own(v):
        return v.detach().to(dtype, copy=True) if isinstance(v, torch.Tensor) else v

    x, args = own(sample.input), tuple(own(v) for v in sample.args)
    options = options_of(name, type(sample)(x, args=args, kwargs=sample.kwargs))
    inputs = [x, options["weight"], options["bias"]]
    inputs = [v.requires_grad_() for v in inputs if v is not None]
    y = OPS[name](x, *args, **sample.kwargs)
    y = y if isinstance(y, torch.Tensor) else y[0]
    state = [v for v in (options["mean"], options["var"]) if v is not None]
    return [*state, y, *derivatives(y, inputs)]


@each
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *[(FUNCTION, dtype) for dtype in DTYPES],
        *[(name, torch.float32) for name in BEHIND],
        *[
            pytest.param(name, dtype, marks=nightly)
            for name in BEHIND
            for dtype in DTYPES
            if dtype is not torch.float32
        ],
    ],
    ids=str,
)
def test_samples_of_the_functions(cls, name, dtype, device):
    op, ran, refused = OPS[name], [], []
    for sample in op.sample_inputs(device, dtype, requires_grad=True):
        x, options = sample.input.detach(), options_of(name, sample)
        if x.dim() < 2:  # no channels: no BatchNorm1d takes it
            refused.append(tuple(x.shape))
            for kind in (cls, nn.BatchNorm1d):
                with pytest.raises(ValueError, match="expected 2D or 3D input"):
                    kind(1)(x)
            continue
        ran.append(tuple(x.shape))
        found = [
            results_of_the_layer(layer_of(cls, options, x.size(1), dtype), x),
            results_of_the_function(name, sample, dtype),
            results_of_the_function(name, sample, torch.float64),
        ]
        keep = len(found[0]) if dtype.itemsize > 2 else len(found[0]) // 2 + 1
        same(*(f[:keep] for f in found), dtype)
    functional = name == "nn.functional.batch_norm"
    assert refused == ([(0,), (0,)] if functional else [])
    assert len(ran) >= 9
    assert {len(shape) for shape in ran} == {2, 3, 4}


@each
@pytest.mark.parametrize(
    ("name", "fast_mode"),
    [(FUNCTION, True), *[pytest.param(name, False, marks=nightly) for name in ORDER]],
)
def test_derivatives_of_the_samples_by_finite_differences(cls, name, fast_mode, device):
    ran = 0
    for sample in OPS[name].sample_inputs(device, torch.float64, requires_grad=True):
        x, options = sample.input.detach(), options_of(name, sample)
        if x.dim() < 2:
            continue
        layer = layer_of(cls, options, x.size(1), torch.float64)
        check_by_differences(layer, x.flatten(2) if x.dim() > 3 else x, fast_mode)
        ran += 1
    assert ran >= 9


def check_by_differences(layer, x, fast_mode):
    """Gradcheck and gradgradcheck in the input and the parameters.

    The fast mode looks along one random direction instead of along every axis.
    """
    names = [n for n, _ in layer.named_parameters()]

    def call(x, *values):
        one = copy.deepcopy(layer)  # whose statistics move
        return torch.func.functional_call(one, dict(zip(names, values)), (x,))

    inputs = [v.detach().clone().requires_grad_() for v in (x, *layer.parameters())]
    assert torch.autograd.gradcheck(call, inputs, fast_mode=fast_mode)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=fast_mode)


def test_no_function_of_batch_norm_is_forgotten():
    assert set(OPS) == set(ORDER)
    variants = {o.variant_test_name for o in op_db if "batch_norm" in o.name}
    assert variants <= {"", "without_cudnn"}  # which is another library on the GPU


def module_samples(device, dtype, training):
    return MODULE.module_inputs_func(MODULE, device, dtype, True, training)


@each
@each_dtype
@pytest.mark.parametrize("training", [True, False])
def test_samples_of_the_module(cls, dtype, training, device):
    samples = module_samples(device, dtype, training)
    for sample in samples:
        made, given = sample.constructor_input, sample.forward_input
        layers = [
            kind(*made.args, dtype=of, **made.kwargs).train(training)
            for kind, of in (
                (cls, dtype),
                (nn.BatchNorm1d, dtype),
                (nn.BatchNorm1d, torch.float64),
            )
        ]
        (x,) = (v.detach() for v in given.args)
        found = [
            results_of_the_layer(m, x.to(of))
            for m, of in zip(layers, (dtype, dtype, torch.float64))
        ]
        keep = len(found[0]) if dtype.itemsize > 2 else len(found[0]) // 2 + 1
        same(*(f[:keep] for f in found), dtype)
    assert len(samples) >= 7


@each
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fast_mode", [True, pytest.param(False, marks=nightly)])
def test_derivatives_of_the_modules_samples_by_finite_differences(
    cls, fast_mode, training, device
):
    for sample in module_samples(device, torch.float64, training):
        made, (x,) = sample.constructor_input, sample.forward_input.args
        if x.numel():
            layer = cls(*made.args, dtype=torch.float64, **made.kwargs)
            check_by_differences(layer.train(training), x.detach(), fast_mode)


@each
@pytest.mark.parametrize("training", [True, False])
def test_samples_of_the_modules_errors(cls, training, device):
    if MODULE.module_error_inputs_func is None:
        pytest.skip("this PyTorch has no samples of its modules' errors")
    samples = MODULE.module_error_inputs_func(
        MODULE, device, torch.float32, False, training
    )
    seen = []
    for sample in samples:
        made, given = (
            sample.module_error_input.constructor_input,
            sample.module_error_input.forward_input,
        )
        raised = []
        for kind in (cls, nn.BatchNorm1d):
            try:
                kind(*made.args, **made.kwargs).train(training)(*given.args)
                raised.append(None)  # some samples are errors in training only
            except Exception as error:
                raised.append(type(error))
        if raised[0] is not raised[1]:
            # PyTorch 2.11 refuses eps=0 in evaluation as well
            assert made.kwargs["eps"] == 0 and not training and not ZERO_EPS_AS_NOW
        seen.append(raised[1])
    assert set(seen) <= {sample.error_type, None}
    assert sample.error_type in seen or not training
    assert len(samples) >= 1


def test_their_import_leaves_pytorch_as_it_was():
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before  # refused by PyTorch's own tests
