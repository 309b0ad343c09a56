"""What is known of one model: its batch norms, the graph, and what running copies showed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn
from torch.nn.parameter import is_lazy

from bnutils._batches import arguments, clone, feed, mapped, rows
from bnutils._modules import HOOKS, norms_of
from bnutils._words import first_line
from bnutils.deploy.graph import LAYERS
from bnutils.doctor.batches import Batches
from bnutils.doctor.codes import CouldNot
from bnutils.doctor.compare import Comparison, compare
from bnutils.doctor.copies import replica, set_modes
from bnutils.doctor.habits import Habit, gamma_and_beta, habit_of, seen_batches, varies
from bnutils.doctor.observe import (
    CallsOriginal,
    Run,
    Seen,
    observe,
    outputs_of,
    recomputed,
)
from bnutils.doctor.trace import Map, read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from bnutils._modules import Norm
    from bnutils.doctor.observe import Call

_PROBE = 16  # images for tests that need no statistics
_VISIBLE = 1e-7  # change of an output, relative; in float64 rounding stays far below
_PROBED = 10  # batches that a model may have seen before its training starts


class Case:
    """One model under examination. The checks ask it; it runs everything once."""

    def __init__(
        self,
        model: nn.Module,  # without wrappers
        batches: Batches | None,
        optimizer: torch.optim.Optimizer | None,
        call: Call = None,
    ) -> None:
        self.model, self.batches = model, batches
        self.optimizer, self.call = optimizer, call
        self.norms = norms_of(model)  # by path
        self.graph = Map()  # empty where tracing failed
        # In training mode, and with batch norm alone in training mode (no dropout). The
        # same, if only one of the two worked; empty if none did.
        self.as_training, self.norms_only = Run(), Run()
        self.comparison: Comparison | None = None  # of evaluation with training mode
        # Why it did not run: the model fails, a batch leaves one value per channel, or
        # something else than the model is to blame.
        self.failure: Exception | None = None
        self.one_value = False
        self.not_run = "" if batches is not None else "no batches were given"
        # For each batch norm its calls in a forward and in the backward after it.
        self.backward: dict[str, tuple[int, int]] = {}
        # For a batch norm the layer right before it, whose bias it takes out.
        self.useless_biases: dict[str, str] = {}
        self.probe: object = None  # a few rows, for tests that need no statistics
        self.notes: list[str] = []  # what could not be done, and why
        self._habits: dict[str, Habit] = {}
        self._look()

    # -------------------------------------------------------------- what checks ask

    @property
    def used(self) -> int:
        """How many batches were run."""
        return len(self.as_training.outputs)

    @property
    def trains(self) -> bool:
        """Whether it is going to be trained: in training mode, or with an optimiser."""
        return self.model.training or self.optimizer is not None

    @cached_property
    def steps(self) -> int | None:
        """Steps that the optimiser has taken; None where it does not count them."""
        return self.steps_of(None)

    def steps_of(self, parameters: Iterable[Tensor | None] | None) -> int | None:
        """Steps taken for some parameters (all, if None); None where not counted."""
        if self.optimizer is None:
            return None
        states = self.optimizer.state
        wanted = (
            states if parameters is None else [p for p in parameters if p in states]
        )
        counts = [states[p]["step"] for p in wanted if "step" in states[p]]
        return max((int(c) for c in counts), default=None)

    @cached_property
    def fresh(self) -> bool:
        """Whether nothing says that the model was trained.

        No optimiser has taken a step, and beta is the same in all channels of every batch
        norm: it starts so in every common scheme, and the first step of training ends it.
        Where no beta can tell (none there, frozen, or one channel), the statistics do:
        none has seen more batches than a shape probe or a warm-up gives it.
        """
        if self.optimizer is not None and self.optimizer.state:
            return False
        betas = [gamma_and_beta(norm)[1] for norm in self.norms.values()]
        if any(map(varies, betas)):
            return False
        if any(b is not None and b.requires_grad and len(b) > 1 for b in betas):
            return True
        return not any(map(_has_history, self.norms.values()))

    @property
    def linked(self) -> bool:
        """Whether the rows of a batch belong together, as the nodes of a graph do."""
        return self.comparison is not None and self.comparison.linked

    def habit(self, path: str) -> Habit:
        """How a batch norm keeps its statistics."""
        if path not in self._habits:
            self._habits[path] = habit_of(self.norms[path])
        return self._habits[path]

    def frozen(self, path: str) -> bool:
        """Whether its statistics stay while the model trains: by its mode or its class."""
        by_mode = self.model.training and not self.norms[path].training
        return by_mode or not self.habit(path).updates

    def received(self, path: str) -> Seen:
        """What a batch norm received in training mode; raises where it is not known."""
        if self.not_run:
            raise CouldNot(self.not_run)
        if not self.used:
            raise CouldNot("the model did not run")
        if path not in self.as_training.seen:
            raise CouldNot("no batch reached it")
        return self.as_training.seen[path]

    def moving(self) -> dict[str, Norm]:
        """Batch norms whose statistics move while the model trains, by path."""
        return {
            path: norm
            for path, norm in self.norms.items()
            if norm.running_mean is not None
            and not is_lazy(norm.running_mean)
            and not self.frozen(path)
        }

    def tried(self) -> str:
        """What recalibrating did to the outputs of a copy, for a remedy; may be empty."""
        return "" if self.comparison is None else self.comparison.tried()

    # -------------------------------------------------------------- what is run, once

    def _look(self) -> None:
        if isinstance(self.model, torch.jit.ScriptModule):
            self._not_run("it is scripted or traced, so its parts cannot be watched")
            return
        try:
            self.copy = replica(self.model)
            traced = replica(self.model)
        except Exception as error:
            self._not_run(f"it cannot be copied ({first_line(error)})")
            return
        self._trace(traced)
        if self.batches is not None and (why := self._unusable()):
            self._not_run(why)
        elif self.batches is not None:
            self._run()
        if self.used:
            self.probe = self._some_rows()
            self._run_backward()
            self._compare()
        if self.norms:
            self._find_biases()  # last: it leaves the copy in float64

    def _not_run(self, why: str) -> None:
        self.notes.append(f"not run: {why}")
        self.not_run = why

    def _unusable(self) -> str:
        """Why no batch can be run, or an empty string."""
        if self.batches.problems:
            self.notes.append(f"passed over: {', '.join(self.batches.problems)}")
        if not self.batches.items:
            return "no batch can be used"
        group = distributed.is_available() and distributed.is_initialized()
        synced = any(isinstance(norm, nn.SyncBatchNorm) for norm in self.norms.values())
        if synced and group and distributed.get_world_size() > 1:
            return (
                "a SyncBatchNorm would wait for the other processes; examine a copy "
                "with plain batch norms, in one process"
            )
        return ""

    def _trace(self, copy: nn.Module) -> None:
        for module in copy.modules():
            module.training = True
        try:
            self.graph = read(copy)
        except Exception as error:
            self.notes.append(f"not traced: {first_line(error)}")
            self.graph.whole = False

    def _run(self) -> None:
        """Run the batches as in training, and again with batch norm alone in training."""
        errors = []
        # Without batch norms one batch is enough to meet those that the model hides.
        items = self.batches.items if self.norms else self.batches.items[:1]
        for norms_only in (False, True):
            set_modes(self.copy, self.model, norms_only=norms_only)
            try:
                run = observe(self.copy, items, self.call, self.model)
            except CallsOriginal:
                self._not_run(
                    "its copy calls batch norms of the original, through a function that "
                    "was kept as an attribute"
                )
                return
            except Exception as error:
                errors.append(error)
                continue
            if not self.used:
                self.as_training = run
            self.norms_only = run
        if self.used and errors:
            why = f"training mode failed ({first_line(errors[0])})"
            self.notes.append(f"{why}: only batch norm was in it")
        elif errors:
            self._blame(errors[-1])

    def _blame(self, error: Exception) -> None:
        """Tell whose failure it is: that of the watching, of the copy, or of the model."""
        if "more than 1 value per channel" in str(error):
            self.one_value = True
            self.not_run = "the batches leave one value per channel in training mode"
            return
        try:
            with torch.no_grad():
                feed(self.copy, clone(self.batches.items[0]), self.call)
        except Exception:
            left_out = _hooks(self.model) - _hooks(self.copy)
            if left_out:
                self._not_run(
                    f"the copy fails ({first_line(error)}), but {left_out} hooks of yours were "
                    "left out of it, and the model may need them"
                )
            else:
                self.failure = error
        else:
            self._not_run(
                f"watching it failed ({first_line(error)}), a fault of the doctor"
            )

    def _run_backward(self) -> None:
        one_run = self.norms_only is self.as_training
        set_modes(self.copy, self.model, norms_only=one_run)
        try:
            self.backward = recomputed(self.copy, self.probe, self.call)
        except Exception as error:
            self.notes.append(f"backward not run: {first_line(error)}")

    def _some_rows(self) -> object:
        """The first rows of a batch; all of it where they cannot stand alone (graphs)."""
        batch = self.batches.items[0]
        part = rows(batch, slice(0, _PROBE))
        try:
            with torch.no_grad():
                feed(self.copy, clone(part), self.call)
        except Exception:  # of the part alone: the whole batch did run
            return batch
        return part

    def _compare(self) -> None:
        if any(y is None for y in self.norms_only.outputs):
            why = "no output has a row for each example"
            self.notes.append(f"modes not compared: {why}")
            return
        tensors = (*self.model.parameters(), *self.model.buffers())
        # Of lazy layers each copy draws weights of its own.
        if not self.norms or any(map(is_lazy, tensors)):
            return
        try:
            self.comparison = compare(self)
        except Exception as error:
            self.notes.append(f"modes not compared: {first_line(error)}")

    def _find_biases(self) -> None:
        """Layers right before a batch norm whose bias it takes out, by batch norm.

        Tested, where the model runs, by changing the bias; else as the graph says.
        """
        pairs = self._with_bias(self.graph.pairs)
        if self.used:
            seen = {
                path: one.maker
                for path, one in self.as_training.seen.items()
                if one.maker and isinstance(self.model.get_submodule(one.maker), LAYERS)
            }
            set_modes(self.copy, self.model, norms_only=True)
            try:
                pairs = self._without_effect(self._with_bias(self.graph.pairs | seen))
            except Exception as error:
                self.notes.append(f"biases not tested: {first_line(error)}")
        self.useless_biases = pairs

    def _with_bias(self, pairs: dict[str, str]) -> dict[str, str]:
        return {
            norm: layer
            for norm, layer in pairs.items()
            if self.model.get_submodule(layer).bias is not None
            and norm in self.norms
            and not self.frozen(norm)
        }

    def _without_effect(self, pairs: dict[str, str]) -> dict[str, str]:
        """Those pairs whose bias changes no output of a float64 copy.

        Batch norm alone is in training mode. All biases are changed at once, which settles
        the usual case in two forwards, then one by one if that changes anything.
        """
        if not pairs:
            return {}
        copy = self.copy.double()
        batch = mapped(self.probe, lambda x: x.double() if x.is_floating_point() else x)
        generator = torch.Generator().manual_seed(0)

        def moved(layers: list[str]) -> bool:
            biases = [copy.get_submodule(path).bias for path in dict.fromkeys(layers)]
            kept = [b.clone() for b in biases]
            for b in biases:
                noise = torch.randn(b.shape, generator=generator, dtype=b.dtype)
                b.add_((1 + b.abs().max()) * noise.to(b.device))
            after = outputs_of(copy, batch, self.call)
            for b, old in zip(biases, kept, strict=True):
                b.copy_(old)
            return not before or any(
                not (p - q).abs().max() <= _VISIBLE * (1 + p.abs().max())
                for p, q in zip(before, after, strict=True)
            )

        with torch.no_grad():
            before = outputs_of(copy, batch, self.call)
            if not moved(list(pairs.values())):
                return pairs
            return {norm: layer for norm, layer in pairs.items() if not moved([layer])}

    def explain_call(self) -> str:
        """How the batches are given to the model, for a message about a failure."""
        if self.call is not None:
            return "call(model, batch)"
        try:
            args, kwargs = arguments(self.model, self.batches.items[0])
        except TypeError as error:
            return str(error)
        return ", ".join(
            str(tuple(x.shape)) if hasattr(x, "shape") else type(x).__name__
            for x in (*args, *kwargs.values())
        )


def _hooks(model: nn.Module) -> int:
    return sum(len(getattr(m, name)) for m in model.modules() for name in HOOKS)


def _has_history(norm: Norm) -> bool:
    """Whether a batch norm has seen more batches than come before training."""
    count = seen_batches(norm)
    if count is not None:
        return count > _PROBED
    mean = norm.running_mean
    return mean is not None and not is_lazy(mean) and bool(mean.any())
