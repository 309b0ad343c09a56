"""The examination of a copy: trace it, run it, and put the findings together."""

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from bnutils.doctor import findings as found
from bnutils.doctor.batches import Batches
from bnutils.doctor.causes import Suspects, dropouts, redundant, unbiased, wrong_axis
from bnutils.doctor.flow import Map, read
from bnutils.doctor.observe import Seen, modes, observe, recomputed
from bnutils.doctor.replica import replica
from bnutils.doctor.report import Finding, finding
from bnutils.doctor.static import is_fresh

__all__ = ["Examination"]

_PROBE = 16  # images for tests that need no statistics


class Examination:
    """One model, its batch norms, and what can be found out by copies of it.

    Attributes
    ----------
    notes : list of str
        What could not be done, and why.
    used : int
        Batches run.
    explained : set of str
        Batch norms whose stale statistics have a finding already.
    """

    def __init__(
        self, model: nn.Module, norms, data: Batches | None, optimizer
    ) -> None:
        self.model, self.norms, self.data = model, norms, data
        self.training = model.training or optimizer is not None
        self.fresh = is_fresh(norms, optimizer)
        self.notes: list[str] = []
        self.used = 0
        self.explained: set[str] = set()
        self.seen: dict[str, Seen] = {}  # as in training
        self.calm: dict[str, Seen] = {}  # batch norm alone in training mode
        self.suspects = Suspects()

    def findings(self) -> list[Finding]:
        """Everything that a copy shows."""
        try:
            self.copy = replica(self.model)
            flow = self._flow(replica(self.model).train())
        except Exception as error:
            self.notes.append(f"not copied, so not run or traced: {_short(error)}")
            return []
        results: list[Finding] = []
        if self.data is not None:
            results += self._runs()
            results += self._of_statistics()
            results += wrong_axis(self.suspects, self.seen)
            results += self._of_backward()
        calls = {path: one.calls for path, one in self.seen.items()} or flow.calls
        results += found.shared(calls)
        calm = self.calm if self.calm is not self.seen else {}  # no dropout in either
        results += dropouts(flow, self.suspects, self.seen, calm)
        return results + self._of_biases(flow)

    def _flow(self, copy: nn.Module) -> Map:
        try:
            return read(copy)
        except Exception as error:
            self.notes.append(f"not traced: {_short(error)}")
            lost = Map()
            lost.whole = False
            return lost

    def _runs(self) -> list[Finding]:
        """Run the batches as in training, and again with batch norm alone in training."""
        inputs, errors = self.data.inputs, []
        for norms_only in (False, True):
            suspects = Suspects()
            modes(self.copy, self.model, norms_only)
            try:
                seen = observe(self.copy, inputs, suspects)
            except Exception as error:
                errors.append(error)
                continue
            self.used, self.suspects = len(inputs), suspects
            self.seen = self.seen or seen
            self.calm = seen
        if self.used:
            if errors:
                why = f"training mode failed ({_short(errors[0])})"
                self.notes.append(f"{why}: only batch norm was in it")
            return []
        if _one_value(errors[-1]) and self.training:
            refused = found.batch_of_one(self.norms, {}, self.data, True)
            if any(refused):
                return []  # has a finding of its own
        text = f"input {tuple(inputs[0].shape)}: {_short(errors[-1])}"
        return [finding("forward-fails", "", text, len(errors))]

    def _of_statistics(self) -> Iterator[Finding]:
        data, norms = self.data, self._ready()
        yield from found.batch_of_one(self.norms, self.seen, data, self.training)
        yield from found.tiny(norms, self.seen, data.size)
        yield from found.differing(self.seen)
        if self.fresh:
            return
        first, second = (found.stale(norms, s) for s in (self.seen, self.calm))
        yield from (
            one
            for path, one in first.items()
            if path in second and path not in self.explained
        )

    def _ready(self) -> dict[str, nn.Module]:
        """Batch norms that take part in training, made already."""
        frozen = self.model.training
        return {
            path: norm
            for path, norm in self.norms.items()
            if not is_lazy(norm.running_mean) and not (frozen and not norm.training)
        }

    def _of_backward(self) -> Iterator[Finding]:
        if not self.used:
            return
        modes(self.copy, self.model, norms_only=self.calm is self.seen)
        try:
            counts = recomputed(self.copy, self.data.inputs[0][:_PROBE])
        except Exception as error:
            self.notes.append(f"backward not run: {_short(error)}")
            return
        for path, (forward, backward) in counts.items():
            if backward:
                text = f"{forward} call in the forward, {backward} more in the backward"
                yield finding("recomputed", path, text, forward + backward)

    def _of_biases(self, flow: Map) -> list[Finding]:
        """Redundant biases: tested if the model runs, else as the graph says."""
        traced = unbiased(flow.pairs, self.model)
        if self.used:
            modes(self.copy, self.model, norms_only=True)
            pairs = unbiased(flow.pairs | self.suspects.pairs, self.model)
            try:
                return list(redundant(pairs, self.copy, self.data.inputs[0][:_PROBE]))
            except Exception as error:
                self.notes.append(f"biases not tested: {_short(error)}")
        return list(redundant(traced, self.model, None))


def _one_value(error: Exception) -> bool:
    return "more than 1 value per channel" in str(error)


def _short(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:150]}"
