"""Does evaluation answer otherwise than training: the question people come with.

The reader's own batches are run through copies in four ways, and the outputs compared:

- *training*: batch norm in training mode, everything else (dropout) in evaluation mode;
- *evaluation*: as the model would be used;
- *recalibrated*: evaluation with the statistics of these batches;
- *other batches*: training again, with the examples of two batches mixed, which shows how
  much an answer depends on the company of its example: noise that no statistics remove.
  The rows of a graph cannot be mixed; there it is the statistics that two batches swap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnutils._batches import mixed, rows, size_of, target_of, tensors_in
from bnutils.doctor.copies import replica, set_modes
from bnutils.doctor.observe import output_of

if TYPE_CHECKING:
    from torch import nn

    from bnutils._modules import Norm
    from bnutils.doctor.case import Case
    from bnutils.doctor.observe import Call

_NORMS = 16  # whose share in the difference is measured, one by one


@dataclass
class Comparison:
    """How far outputs are from those of training mode.

    Attributes
    ----------
    images : int
    distance : dict
        For "evaluation", "recalibrated" and, where two batches could be mixed, "other
        batches": root mean square of the difference, relative to how much the outputs of
        training mode differ between examples.
    labels : dict
        For the same three the share of labels that change; empty without labels.
    accuracy : dict
        Of "training", "evaluation", "recalibrated"; empty without targets.
    company : float or None
        Distance between two *evaluations* of an example in different batches: 0 for
        every model that keeps its examples apart. None if that could not be tried.
    carriers : list of (str, float)
        Batch norms by how far evaluation moves if only their statistics are the stored
        ones; the first carries most.
    fresh : bool
        Whether nothing says that the model was trained: then the modes have to differ.
    linked : bool
        Whether the rows of a batch belong together, as the nodes of a graph do.
    """

    images: int = 0
    distance: dict[str, float] = field(default_factory=dict)
    labels: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    company: float | None = None
    carriers: list[tuple[str, float]] = field(default_factory=list)
    fresh: bool = False
    linked: bool = False

    def excess(self) -> tuple[float, float]:
        """By how much more evaluation differs than noise, and how much of it would stay.

        In labels, if there are any, else in distance; the second number is what is left
        of the first after recalibrating.
        """
        found = self.labels or self.distance
        noise = found.get("other batches", 0.0)
        return found["evaluation"] - noise, max(found["recalibrated"] - noise, 0.0)

    def tried(self) -> str:
        """What recalibrating did to the outputs of a copy, if it helped; in brackets."""
        kind = self.labels or self.distance
        before, after = kind["evaluation"], kind["recalibrated"]
        if after > before / 2 or before < 0.01:
            return ""
        what = "of the labels differ" if self.labels else "difference of outputs"
        return (
            f" (recalibrated on a copy: {after:.1%} {what} from training mode, not "
            f"{before:.1%})"
        )

    def sentence(self) -> str:
        """The comparison in words, in the model's own terms."""
        if self.labels:
            found, what = self.labels, "of the labels of training mode"
        else:
            found, what = self.distance, "(root mean square) of the outputs"
        text = f"evaluation changes {found['evaluation']:.1%} {what}"
        if self.fresh:  # a number alone would alarm, and there is nothing to mend
            return f"{text}, as it must before training: no statistics are learned yet"
        text += f", recalibrated {found['recalibrated']:.1%}"
        if "other batches" in found:
            text += f", other batches {found['other batches']:.1%}"
        if self.accuracy:
            parts = (f"{v:.1%} ({k})" for k, v in self.accuracy.items())
            text += "; accuracy " + ", ".join(parts)
        return text


def compare(case: Case) -> Comparison:
    """Compare the modes of a case whose batches were run."""
    items, call = case.batches.items, case.call
    training = [y.detach() for y in case.norms_only.outputs]
    twin = replica(case.model)
    for module in twin.modules():
        module.training = False
    with torch.no_grad():
        evaluation = [output_of(twin, batch, call) for batch in items]
        found = Comparison(sum(map(len, training)), fresh=case.fresh)
        found.linked = _linked(twin, items[0], evaluation[0], call)
        if not found.linked:
            found.company = _company(twin, items, evaluation, call)
        kept = _recalibrate(twin, case)
        recalibrated = [output_of(twin, batch, call) for batch in items]
        found.carriers = _carriers(twin, kept, items[0], recalibrated[0], call)
        answers = {
            "training": torch.cat(training),
            "evaluation": torch.cat(evaluation),
            "recalibrated": torch.cat(recalibrated),
        }
        if found.linked:
            other = _other_statistics(twin, case, training)
        else:
            other = _other_batches(case, training)
    reference = answers["training"]
    pairs = {n: (reference, answers[n]) for n in ("evaluation", "recalibrated")}
    if other:
        pairs["other batches"] = other
    targets = _targets(items, reference)
    target = target_of(items[0])
    numbers = isinstance(target, Tensor) and target.is_floating_point()
    for name, (before, after) in pairs.items():
        found.distance[name] = _distance(before, after)
        labels = _labels(before, targets)
        if labels is not None and not numbers:  # of which the largest is no label
            changed = labels != _labels(after, targets, before)
            found.labels[name] = changed.float().mean().item()
    if found.labels and targets is not None:
        for name, y in answers.items():
            right = _labels(y, targets, reference) == targets
            found.accuracy[name] = right.float().mean().item()
    return found


def _recalibrate(twin: nn.Module, case: Case) -> dict[str, tuple[Tensor, Tensor]]:
    """Give a copy the statistics of the batches; the stored ones come back, by path."""
    kept = {}
    for path in case.moving():
        norm, seen = twin.get_submodule(path), case.norms_only.seen.get(path)
        if seen is not None and seen.moments.means:
            kept[path] = _exchanged(norm, seen.moments.mean, seen.moments.var)
    return kept


def _exchanged(norm: Norm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Give a batch norm other statistics; returns those that it had."""
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    return before


def _carriers(
    twin: nn.Module,
    kept: dict[str, tuple[Tensor, Tensor]],
    batch: object,
    recalibrated: Tensor,
    call: Call,
) -> list[tuple[str, float]]:
    """Put the stored statistics back into one norm at a time."""
    found = []

    def shift(path: str) -> float:
        norm, (mean, var) = twin.get_submodule(path), kept[path]
        scale = (norm.running_var + getattr(norm, "eps", 1e-5)).clamp(min=1e-12)
        both = (mean - norm.running_mean).square() / scale
        return (both + (var / scale - 1).square()).mean().item()

    likely = sorted(kept, key=shift, reverse=True)[:_NORMS]
    for path in (p for p in likely if shift(p) > 1e-3):
        norm = twin.get_submodule(path)
        now = _exchanged(norm, *kept[path])
        found.append((path, _distance(recalibrated, output_of(twin, batch, call))))
        _exchanged(norm, *now)
    return sorted(found, key=lambda pair: -pair[1])


def _company(
    twin: nn.Module, items: list[object], evaluation: list[Tensor], call: Call
) -> float | None:
    """How far evaluation moves if the first two batches swap half of their examples.

    None where that cannot be tried, and where the model draws random numbers.
    """
    if len(items) < 2 or not size_of(items[0]) == size_of(items[1]) > 1:
        return None
    if evaluation[0].dim() == 2 and evaluation[0].size(1) == len(evaluation[0]):
        return None  # each example against each: similarities within the batch
    if _distance(evaluation[0], output_of(twin, items[0], call)) > 1e-5:
        return None
    swapped = [output_of(twin, batch, call) for batch in mixed(items[0], items[1])]
    before = _mixed_outputs(evaluation[0], evaluation[1])
    return _distance(torch.cat(before), torch.cat(swapped))


def _linked(twin: nn.Module, batch: object, evaluation: Tensor, call: Call) -> bool:
    """Whether the rows of a batch belong together, as the nodes of a graph do.

    Such a batch holds its links, a square matrix or pairs of row numbers, and turning
    the order of its rows alone changes what the model answers for them.
    """
    size = size_of(batch)

    def links(x: Tensor) -> bool:
        square = x.dim() >= 2 and x.size(0) == x.size(1) == size
        pairs = x.dim() == 2 and x.size(0) == 2 and not x.is_floating_point()
        return square or (pairs and size != 2)

    others = list(tensors_in(batch))[1:]
    if size < 2 or not any(links(x) for x in others):
        return False
    turned = output_of(twin, rows(batch, list(range(size))[::-1]), call)
    return _distance(evaluation.flip(0), turned) > 1e-3


def _other_statistics(
    twin: nn.Module, case: Case, training: list[Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Outputs of training mode, and of each batch with the statistics of another."""
    items, seen = case.batches.items, case.norms_only.seen
    paths = [path for path in case.moving() if path in seen]
    moments = {path: seen[path].moments for path in paths}
    if len(items) < 2 or any(len(m.means) != len(items) for m in moments.values()):
        return None  # a batch norm that is called twice has no statistics of one batch
    after = []
    for i, batch in enumerate(items):
        for path, m in moments.items():
            _exchanged(twin.get_submodule(path), m.means[i - 1], m.variances[i - 1])
        after.append(output_of(twin, batch, case.call))
    return torch.cat(training), torch.cat(after)


def _other_batches(case: Case, training: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Outputs of training mode, and of the same examples in other company."""
    items = case.batches.items
    pairs = [
        (i, i + 1)
        for i in range(0, len(items) - 1, 2)
        if size_of(items[i]) == size_of(items[i + 1]) > 1
    ]
    if not pairs:
        return None
    set_modes(case.copy, case.model, norms_only=True)
    before, after = [], []
    for i, j in pairs:
        before += _mixed_outputs(training[i], training[j])
        for batch in mixed(items[i], items[j]):
            after.append(output_of(case.copy, batch, case.call))
    return torch.cat(before), torch.cat(after)


def _mixed_outputs(a: Tensor, b: Tensor) -> list[Tensor]:
    """The rows of two outputs in the order in which the mixed batches have them."""
    return [torch.cat([a[::2], b[::2]]), torch.cat([a[1::2], b[1::2]])]


def _distance(reference: Tensor, y: Tensor) -> float:
    spread = reference.var(0, correction=0).mean().sqrt()
    gap = (y - reference).square().mean().sqrt()
    if not gap.isfinite():
        return float("inf")
    return (gap / spread.clamp(min=1e-12)).item()


def _targets(items: list[object], y: Tensor) -> Tensor | None:
    """Class numbers for all examples, if that is what the batches hold."""
    found = [target_of(batch) for batch in items]
    if not all(isinstance(t, Tensor) and t.dim() == 1 for t in found):
        return None
    targets = torch.cat(found)
    if targets.is_floating_point() or len(targets) != len(y) or y.dim() != 2:
        return None
    return targets if int(targets.max()) < max(y.size(1), 2) else None


def _labels(
    y: Tensor, targets: Tensor | None, like: Tensor | None = None
) -> Tensor | None:
    """Labels that the outputs mean; None where they are no scores of classes."""
    like = y if like is None else like
    if y.dim() >= 2 and y.size(1) >= 2:
        return y.argmax(1)
    if targets is None:
        return None
    probabilities = like.min() >= 0 and like.max() <= 1
    return (y.flatten() > (0.5 if probabilities else 0.0)).to(targets.dtype)
