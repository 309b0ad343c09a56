"""What is known of one model: its batch norms, the graph, and what running copies showed."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnutils._modules import norms_of
from bnutils.doctor.batches import Batches
from bnutils.doctor.codes import CouldNot, NotApplicable
from bnutils.doctor.copies import replica, set_modes
from bnutils.doctor.observe import Seen, observe, outputs_of, recomputed
from bnutils.doctor.settings import is_fresh
from bnutils.doctor.trace import LAYERS, Map, read

__all__ = ["Case"]

_PROBE = 16  # images for tests that need no statistics
_VISIBLE = 1e-7  # change of an output, relative; in float64 rounding stays far below


class Case:
    """One model under examination. The checks ask it; it runs everything once.

    Attributes
    ----------
    model, norms, optimizer, batches
        The model without wrappers, its batch norms by path, and what was given with it.
    fresh : bool
        Whether nothing says that the model was trained.
    trains : bool
        Whether it is going to be trained: in training mode, or with an optimiser.
    graph : Map
        What tracing shows; empty where it failed.
    as_training, norms_only : dict of Seen
        What each batch norm received in training mode, and with batch norm alone in
        training mode (no dropout). The same, if only one of the two runs worked.
    errors : list of Exception
        Of the runs that failed.
    backward : dict
        For each batch norm its calls in a forward and in the backward after it.
    used : int
        How many batches were run.
    notes : list of str
        What could not be done, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches | None,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        self.model, self.batches, self.optimizer = model, batches, optimizer
        self.norms = norms_of(model)
        self.fresh = is_fresh(self.norms, optimizer)
        self.trains = model.training or optimizer is not None
        self.graph = Map()
        self.as_training: dict[str, Seen] = {}
        self.norms_only: dict[str, Seen] = {}
        self.errors: list[Exception] = []
        self.backward: dict[str, tuple[int, int]] = {}
        self.used = 0
        self.notes: list[str] = []
        self._biased: dict[str, str] = {}
        if self.norms:
            self._look()

    # -------------------------------------------------------------- what checks ask

    def frozen(self, norm: nn.Module) -> bool:
        """Whether it is in evaluation mode inside a model that trains."""
        return self.model.training and not norm.training

    def received(self, path: str) -> Seen:
        """What a batch norm received in training mode; raises where it is not known."""
        if self.batches is None:
            raise CouldNot("no batches were given")
        if not self.used:
            raise CouldNot("the model did not run")
        if path not in self.as_training:
            raise CouldNot("no batch reached it")
        return self.as_training[path]

    def trained(self) -> dict[str, nn.Module]:
        """Batch norms that have statistics and take part in training."""
        return {
            path: norm
            for path, norm in self.norms.items()
            if norm.running_mean is not None
            and not is_lazy(norm.running_mean)
            and not self.frozen(norm)
        }

    def calls(self, path: str) -> int:
        """How often one forward calls a batch norm: as seen, or as traced."""
        if self.used:
            return self.received(path).calls
        return self.graph.calls.get(path, 0)

    def useless_bias(self, path: str) -> str:
        """Path of the layer whose bias a batch norm takes out; raises if there is none."""
        if path not in self._biased:
            raise NotApplicable("no bias comes right before it")
        return self._biased[path]

    # -------------------------------------------------------------- what is run, once

    def _look(self) -> None:
        try:
            self.copy = replica(self.model)
            traced = replica(self.model)
        except Exception as error:
            self.notes.append(f"not copied, so not run or traced: {short(error)}")
            return
        self._trace(traced)
        if self.batches is not None:
            self._run()
        if self.used:
            self._run_backward()
        self._find_biases()

    def _trace(self, copy: nn.Module) -> None:
        for module in copy.modules():
            module.training = True
        try:
            self.graph = read(copy)
        except Exception as error:
            self.notes.append(f"not traced: {short(error)}")
            self.graph.whole = False

    def _run(self) -> None:
        """Run the batches as in training, and again with batch norm alone in training."""
        for norms_only in (False, True):
            set_modes(self.copy, self.model, norms_only=norms_only)
            try:
                seen = observe(self.copy, self.batches.inputs)
            except Exception as error:
                self.errors.append(error)
                continue
            self.used = len(self.batches.inputs)
            self.as_training = self.as_training or seen
            self.norms_only = seen
        if self.used and self.errors:
            why = f"training mode failed ({short(self.errors[0])})"
            self.notes.append(f"{why}: only batch norm was in it")

    def _run_backward(self) -> None:
        one_run = self.norms_only is self.as_training
        set_modes(self.copy, self.model, norms_only=one_run)
        try:
            self.backward = recomputed(self.copy, self.batches.inputs[0][:_PROBE])
        except Exception as error:
            self.notes.append(f"backward not run: {short(error)}")

    def _find_biases(self) -> None:
        """Layers right before a batch norm whose bias it takes out, by batch norm.

        Tested, where the model runs, by changing the bias; else as the graph says.
        """
        pairs = self._with_bias(self.graph.pairs)
        if self.used:
            seen = {
                path: one.maker
                for path, one in self.as_training.items()
                if one.maker and isinstance(self.model.get_submodule(one.maker), LAYERS)
            }
            set_modes(self.copy, self.model, norms_only=True)
            try:
                pairs = _without_effect(
                    self._with_bias(self.graph.pairs | seen),
                    self.copy.double(),
                    self.batches.inputs[0][:_PROBE],
                )
            except Exception as error:
                self.notes.append(f"biases not tested: {short(error)}")
        self._biased = pairs

    def _with_bias(self, pairs: dict[str, str]) -> dict[str, str]:
        return {
            norm: layer
            for norm, layer in pairs.items()
            if self.model.get_submodule(layer).bias is not None
            and not self.frozen(self.model.get_submodule(norm))
        }


def _without_effect(
    pairs: dict[str, str], copy: nn.Module, x: Tensor
) -> dict[str, str]:
    """Those pairs whose bias changes no output of a float64 copy.

    Batch norm alone is in training mode. All biases are changed at once, which settles
    the usual case in two forwards, then one by one if that changes anything.
    """
    x = x.double() if x.is_floating_point() else x
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = outputs_of(copy, x)
        if not _moved(copy, list(pairs.values()), x, before, generator):
            return pairs
        return {
            norm: layer
            for norm, layer in pairs.items()
            if not _moved(copy, [layer], x, before, generator)
        }


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


def short(error: Exception) -> str:
    """Class and first line of an error."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:150]}"
