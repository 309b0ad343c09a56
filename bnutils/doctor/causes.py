"""Findings about the modules before a batch norm: bias, dropout, axis; tested on the copy."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bnutils.doctor.flow import LAYERS, Map
from bnutils.doctor.observe import Seen, Watch, outputs_of
from bnutils.doctor.report import Finding, finding
from bnutils.norm import BatchNorm1d

__all__ = ["Suspects", "dropouts", "redundant", "unbiased", "wrong_axis"]

_THROUGH = (nn.Identity, nn.modules.dropout._DropoutNd, nn.ReLU, nn.LeakyReLU, nn.GELU)
_THROUGH += (nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Hardswish, nn.MaxPool1d)
_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_FIRST += (nn.modules.instancenorm._InstanceNorm, BatchNorm1d)
_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RNNBase, nn.MultiheadAttention)
_LAST += (nn.TransformerEncoderLayer,)
_VISIBLE = 1e-7  # change of an output, relative; in float64 rounding stays far below
_HARMLESS = 1.02  # variance in training over that in evaluation


class Suspects:
    """Pairs and axes seen in the first forward, to be tested or reported.

    Attributes
    ----------
    pairs : dict
        From a batch norm to the Linear or convolution whose output it receives.
    axes : dict
        From a batch norm with as many positions as channels to the module that made its
        input: "first" or "last" for the axis where that keeps its channels, "" unknown.
    dropouts : dict
        From a batch norm to the dropout that ran before it, with no norm in between.
    """

    def __init__(self) -> None:
        self.pairs: dict[str, str] = {}
        self.axes: dict[str, str] = {}
        self.dropouts: dict[str, tuple[str, float]] = {}

    def __call__(self, watch: Watch) -> None:
        """Look at the watch after the first forward."""
        for norm, one in watch.seen.items():
            layer = watch.maker_of(norm)
            if layer is not None and isinstance(watch.modules[layer], LAYERS):
                self.pairs[norm] = layer
            if len(one.shape) == 3 and one.shape[1] == one.shape[2] > 1:
                maker = watch.maker_of(norm, _THROUGH)
                self.axes[norm] = _axis(watch, norm, maker)
        last = None
        for path in watch.order:
            module = watch.modules[path]
            if isinstance(module, nn.modules.dropout._DropoutNd) and 0 < module.p < 1:
                last = (path, module.p)
            elif path in watch.seen or isinstance(module, nn.LayerNorm | nn.GroupNorm):
                if last and path in watch.seen:
                    self.dropouts[path] = last
                last = None


def _axis(watch: Watch, norm: str, maker: str | None) -> str:
    """On which axis the input of a batch norm has its channels, if that is known."""
    if maker is not None:
        kinds = (("first", _FIRST), ("last", _LAST))
        return next((a for a, k in kinds if isinstance(watch.modules[maker], k)), "")
    before = watch.order[: watch.order.index(norm)]
    kinds = [p for p in before if isinstance(watch.modules[p], _FIRST + _LAST)]
    convolved = kinds and isinstance(watch.modules[kinds[-1]], _FIRST)
    return "first" if convolved else ""


def wrong_axis(suspects: Suspects, seen: dict[str, Seen]) -> Iterator[Finding]:
    """As many positions as channels, and the channels seem to be in the last axis.

    Known where a module made the input that keeps its channels last (Linear, Embedding,
    recurrent, attention). Otherwise the data decide: the means of channels differ more
    than those of positions. Where dimension 1 varies at least twice as much as
    dimension 2, it holds the channels and nothing is said.
    """
    for norm, axis in suspects.axes.items():
        one = seen[norm]
        by_channel, by_position = one.spread
        if axis == "first" or (not axis and by_channel > 2 * by_position):
            continue
        text = (
            f"input {one.shape}: length = channels = {one.shape[1]}; means along dimension 1 "
            f"vary by {by_channel:.2g} of the variance, along dimension 2 by {by_position:.2g}"
        )
        severity = "error" if axis == "last" else "warning"
        yield finding("wrong-axis", norm, text, one.shape[1], severity)


def unbiased(pairs: dict[str, str], model: nn.Module) -> dict[str, str]:
    """Pairs without those whose layer has no bias, or whose batch norm is frozen."""
    kept = {}
    inside = [path for path, _ in model.named_modules() if path in pairs]
    for norm, layer in ((path, pairs[path]) for path in inside):  # in the model's order
        bn, before = model.get_submodule(norm), model.get_submodule(layer)
        if before.bias is not None and not (model.training and not bn.training):
            kept[norm] = layer
    return kept


def redundant(
    pairs: dict[str, str], copy: nn.Module, x: Tensor | None
) -> Iterator[Finding]:
    """Biases that the batch norm after them takes out, tested by changing them.

    With a batch, each bias is shifted by random amounts on a float64 copy in which batch
    norm alone is in training mode; the outputs must not change. All are tested at once,
    then one by one if that changes anything. Without a batch, what the graph says counts.
    """
    if x is not None and pairs:
        copy, x = copy.double(), x.double() if x.is_floating_point() else x
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            before = outputs_of(copy, x)
            together = _moved(copy, list(pairs.values()), x, before, generator)
            if together:
                pairs = {
                    norm: layer
                    for norm, layer in pairs.items()
                    if not _moved(copy, [layer], x, before, generator)
                }
    for layer in pairs.values():
        n = copy.get_submodule(layer).bias.numel()
        yield finding("redundant-bias", layer, f"{n} parameters without effect", n)


def _moved(copy, layers: list[str], x, before: list[Tensor], generator) -> bool:
    """Whether the outputs change with the biases of some layers."""
    biases = [copy.get_submodule(path).bias for path in dict.fromkeys(layers)]
    kept = [b.clone() for b in biases]
    for b in biases:
        noise = torch.randn(b.shape, generator=generator, dtype=b.dtype)
        b.add_((1 + b.abs().max()) * noise.to(b.device))
    after = outputs_of(copy, x)
    for b, old in zip(biases, kept, strict=True):
        b.copy_(old)
    return not before or any(
        not (p - q).abs().max() <= _VISIBLE * (1 + p.abs().max())
        for p, q in zip(before, after, strict=True)
    )


def dropouts(
    found: Map, suspects: Suspects, seen: dict[str, Seen], calm: dict[str, Seen]
) -> Iterator[Finding]:
    """Dropout upstream of a batch norm; with data, only if it changes the variance.

    ``seen`` is what the norms received with dropout, ``calm`` without: the ratio of
    the variances, averaged over the channels, must exceed 1.02.
    """
    upstream = found.dropouts if found.whole else found.dropouts | suspects.dropouts
    for norm, (dropout, rate) in upstream.items():
        text, ratio = f"p = {rate:g} in '{dropout}'", rate
        if norm in seen and norm in calm:
            with_it, without = seen[norm].moments.var, calm[norm].moments.var
            alive = without > 1e-12
            ratio = (with_it[alive] / without[alive]).log().mean().exp().item()
            text += f"; variance in training {ratio:.2f} of that in evaluation"
            if not ratio > _HARMLESS:
                continue
        yield finding("dropout-before-norm", norm, text, ratio)
