"""Likely root causes: the one mistake behind a report full of differences.

A layer that weighs its momentum the wrong way round fails a dozen checks. Here each
function measures one thing on a fresh layer of the class, in a way that no other mistake
imitates, and says in a sentence what it found. The order is that of repair: what cannot be
made or called first, then what is stored, then the numbers.
"""

import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bnutils._modules import STATISTICS
from bnutils._words import first_line

N, C = 8, 5
Maker = Callable[..., nn.Module]


def likely_causes(make: Maker, reference: type) -> tuple[str, ...]:
    """Sentences about what probably went wrong, to be read from the first on.

    Empty where none of the mistakes that are known here was made. The default arguments
    of ``reference`` are the standard.
    """
    try:
        make(C)
    except Exception as error:
        return (f"it cannot be made from its number of channels: {first_line(error)}",)
    found: list[str] = []
    for look in LOOKS:
        try:
            found += look(make, reference)
        except Exception:  # the checks report what a layer cannot do
            continue
    return tuple(found)


def _batch(scale: float = 2.0, shape: tuple[int, ...] = (N, C)) -> Tensor:
    """Random channels around 3, or around 0 when they are quiet."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return scale * noise + (3.0 if scale >= 1 else 0.0)


def _neutral(make: Maker) -> nn.Module:
    """A new layer whose scale and shift do nothing."""
    layer = make(C)
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        parameter = getattr(layer, name, None)
        if isinstance(parameter, Tensor):
            parameter.data.fill_(value)
    return layer


def _near(a: float, b: float, tolerance: float = 0.02) -> bool:
    """Equal within two per cent, unless said otherwise."""
    return abs(a - b) <= tolerance * abs(b)


def _arguments(make: Maker, reference: type) -> Iterator[str]:
    """Arguments that the constructor lacks, without which many checks cannot run."""
    known = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    wanted = list(inspect.signature(reference).parameters)[1:]  # the first is C
    missing = [name for name in wanted if name not in known]
    if missing:
        yield (
            f"the constructor does not take {', '.join(missing)}: every check that sets "
            "one of them fails"
        )


def _call(make: Maker, reference: type) -> Iterator[str]:
    """A layer that a batch does not go through."""
    for axes, shape in (("(N, C)", (N, C)), ("(N, C, L)", (N, C, 7))):
        try:
            make(C)(_batch(shape=shape))
        except Exception as error:
            yield f"a batch of shape {axes} does not go through it: {first_line(error)}"


def _parameters(make: Maker, reference: type) -> Iterator[str]:
    """Weight and bias that optimisers do not see."""
    layer = make(C)
    seen = dict(layer.named_parameters())
    for name in ("weight", "bias"):
        if name in seen:
            continue
        if isinstance(getattr(layer, name, None), Tensor):
            yield (
                f"{name} is a plain tensor and no nn.Parameter: optimisers, state_dict() "
                "and .to() do not see it"
            )
        else:
            yield f"it has no {name}"


def _buffers(make: Maker, reference: type) -> Iterator[str]:
    """Running statistics that are not there, or that a checkpoint does not hold."""
    layer = make(C)
    absent, plain, unsaved = [], [], []
    for name in STATISTICS:
        if getattr(layer, name, None) is None:
            absent.append(name)
        elif name not in dict(layer.named_buffers()):
            plain.append(name)
        elif name not in layer.state_dict():
            unsaved.append(name)
    if absent:
        yield f"it has no {', '.join(absent)}"
    if plain:
        yield (
            f"no buffer: {', '.join(plain)} set as plain attributes, so that state_dict(), "
            ".to() and copies miss them; use register_buffer"
        )
    if unsaved:
        yield f"buffers that are not saved: {', '.join(unsaved)} with persistent=False"


def _eps(make: Maker, reference: type) -> Iterator[str]:
    """Which eps the output shows, on channels so quiet that it decides."""
    loud = _neutral(make)(_batch()).var(0, correction=0).mean().item()
    if not _near(loud, 1, 0.2):
        return  # it is not the batch's variance that it divides by
    wanted = reference(C).eps
    inside, outside = [], []
    for scale in (wanted**0.5, 3 * wanted**0.5):
        x = _batch(scale)
        std = x.var(0, correction=0).sqrt()
        y = _neutral(make)(x).detach()
        divisor = std / y.var(0, correction=0).sqrt()
        inside.append((divisor.square() - std.square()).mean().item())
        outside.append((divisor - std).mean().item())
    eps = inside[0]
    if _near(eps, wanted):
        return
    if _near(outside[0], outside[1]) and outside[0] > 0.1 * wanted:
        yield (
            f"eps is added to the standard deviation ({outside[0]:.0e} there); it belongs to "
            "the variance, inside the root"
        )
    elif _near(inside[0], inside[1], 0.1) and eps > 0.1 * wanted:
        yield f"eps {eps:.0e} instead of {wanted:.0e}"
    elif abs(eps) < 0.01 * wanted:
        yield f"no eps in the root: {wanted:.0e} is missing beside the variance"


def _variance(make: Maker, reference: type) -> Iterator[str]:
    """Bessel's correction where the output is normalised."""
    spread = _neutral(make)(_batch()).detach().var(0, correction=0).mean().item()
    if _near(spread, (N - 1) / N):
        yield (
            "it normalises with the unbiased variance (divided by m - 1); the output takes "
            "the biased one, the running variance alone the unbiased"
        )


def _axes(make: Maker, reference: type) -> Iterator[str]:
    """Positions that are not averaged over."""
    x = _batch(shape=(N, C, 7))
    with torch.no_grad():
        # Each position has a mean of its own.
        y = _neutral(make)(x + torch.arange(7.0))
    if y.mean(0).abs().max() < 1e-4:
        yield (
            "statistics of (N, C, L) input are taken per channel and position, over N "
            "alone; they belong to the channel, over N and L"
        )
    elif y.mean(2).abs().max() < 1e-4:
        yield (
            "statistics of (N, C, L) input are taken per example, over L alone: that is "
            "instance norm"
        )


def _gradient(make: Maker, reference: type) -> Iterator[str]:
    """A backward pass that takes mean and variance for constants."""
    x, layer = _batch().requires_grad_(), _neutral(make)
    dy = torch.randn(N, C, generator=torch.Generator().manual_seed(1))
    (dx,) = torch.autograd.grad((layer(x) * dy).sum(), x)
    constant = dy / torch.sqrt(x.var(0, correction=0) + reference(C).eps)
    if torch.allclose(dx, constant, rtol=1e-3, atol=1e-4):
        yield (
            "mean and variance are constants for the gradient (detached, or computed under "
            "no_grad): they depend on x, and the gradient goes through them"
        )


def _momentum(make: Maker, reference: type) -> Iterator[str]:
    """How far one batch moves the running mean, from 0."""
    standard = reference(C).momentum
    argument = inspect.signature(make).parameters.get("momentum")
    own = standard if argument is None else argument.default
    layer, x = make(C), _batch()
    layer(x)
    moved = (layer.running_mean / x.mean(0)).mean().item()
    if _near(moved, own):
        if own != standard:
            yield f"momentum {own} by default instead of {standard}"
    elif _near(moved, 1 - own):
        yield (
            "momentum counts the old value: it is the weight of the new batch, "
            "(1 - momentum) * running + momentum * batch"
        )
    elif abs(moved) < 1e-6:
        yield "the running statistics do not move in training"
    else:
        yield f"one batch moves the running mean by {moved:.2g} of the way instead of {own}"


def _stored_variance(make: Maker, reference: type) -> Iterator[str]:
    """What one batch adds to the running variance, from 1."""
    layer, x = make(C), _batch()
    layer(x)
    moved = (layer.running_mean / x.mean(0)).mean()
    stored = (layer.running_var - (1 - moved)) / moved
    biased = x.var(0, correction=0)
    if torch.allclose(stored, biased, rtol=1e-3):
        yield (
            "the biased variance is stored: the running variance takes the unbiased one, "
            "var * m / (m - 1)"
        )
    elif torch.allclose(stored, biased.sqrt(), rtol=0.2):
        yield "the standard deviation is stored where the variance belongs"


def _mode(make: Maker, reference: type) -> Iterator[str]:
    """Statistics of the wrong mode, or moved in the wrong mode."""
    layer, other = _neutral(make), 10 + _batch()
    for _ in range(3):
        layer(_batch())
    layer.eval()
    before = [buffer.clone() for buffer in layer.buffers()]
    in_evaluation = layer(other).mean().item()
    moved = not all(map(torch.equal, before, layer.buffers()))
    layer.train()
    with torch.no_grad():
        without_gradients = layer(other).mean().item()
    in_training = layer(other).mean().item()
    if abs(without_gradients) > 1 > abs(in_training):
        yield "no_grad is taken for evaluation: layer.training alone decides, not gradients"
        return
    if moved:
        yield "evaluation changes the running statistics; only training does"
    if abs(in_evaluation) < 1e-3:
        yield "evaluation normalises with the batch; it takes the running statistics"
    if abs(in_training) > 1:
        yield "training normalises with the running statistics; it takes the batch's"


def _count(make: Maker, reference: type) -> Iterator[str]:
    """A counter that does not count."""
    layer = make(C)
    for _ in range(3):
        layer(_batch())
    if int(layer.num_batches_tracked) != 3:
        yield (
            f"num_batches_tracked is {int(layer.num_batches_tracked)} after 3 batches: "
            "momentum=None divides by it"
        )


def _graph(make: Maker, reference: type) -> Iterator[str]:
    """Statistics that hold on to every batch."""
    layer = make(C)
    layer(_batch().requires_grad_())
    if layer.running_mean.requires_grad:
        yield (
            "the running statistics keep the autograd graph of every batch, and with it the "
            "memory: update them under torch.no_grad()"
        )


LOOKS = (
    _arguments,
    _call,
    _parameters,
    _buffers,
    _axes,
    _eps,
    _variance,
    _gradient,
    _mode,
    _momentum,
    _stored_variance,
    _count,
    _graph,
)
