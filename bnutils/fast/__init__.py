"""A faster BatchNorm1d with the same behaviour, in three gears (chapter 16).

======== ==================================================== ==========================
gear     what it is                                           needs
======== ==================================================== ==========================
torch    one node with a hand-written backward pass           nothing
compile  the same, fused by torch.compile where the input     a C++ compiler
         is (N, C, L); (N, C) goes through "torch"
kernel   C++: both passes over the data in one call           a C++ compiler and ninja,
                                                              once
auto     "kernel" if it was compiled before, else "torch"     nothing
======== ==================================================== ==========================

Nothing compiles on import or in gear "auto". :func:`build` compiles the kernel, once for
this version of Python and PyTorch; it is kept below ``$TORCH_EXTENSIONS_DIR``
(default ``~/.cache/torch_extensions``). A gear that cannot be had says why in a warning and
gives way to "torch".
"""

import shutil
import warnings

import torch
from torch import Tensor

from bnutils import norm
from bnutils.fast import extension as _fast_build
from bnutils.fast.lean import LeanBatchNorm, column, transformed

__all__ = [
    "GEARS",
    "BatchNorm1d",
    "CompileBatchNorm1d",
    "KernelBatchNorm1d",
    "TorchBatchNorm1d",
    "available",
    "build",
]

GEARS = ("auto", "torch", "compile", "kernel")
_kernel = None  # batch_norm of the compiled module, once loaded


def build() -> str:
    """Compile the kernel unless it was compiled before (about half a minute).

    Returns
    -------
    str
        Empty if the kernel can be used; else what stands in the way.
    """
    return _load(build=True)


def _load(*, build: bool) -> str:
    global _kernel
    if _kernel is None:
        found = _fast_build.load(build=build)
        if isinstance(found, str):
            return found
        _kernel = found.batch_norm
    return ""


def available(gear: str) -> str:
    """Why a gear cannot be used here, or an empty text; compiles nothing.

    Raises
    ------
    ValueError
        There is no such gear.
    """
    if gear not in GEARS:
        raise ValueError(f"no gear {gear!r}; choose one of {', '.join(GEARS)}")
    if gear == "kernel" and _fast_build.library() is None:
        return _fast_build.missing()
    if gear == "compile":
        missing = _fast_build.missing()
        return missing if shutil.which("g++") is None or "compiler" in missing else ""
    return ""


def _chosen(gear: str) -> str:
    """The gear to use for the one that was asked for; compiles the kernel if asked for."""
    reason = available(gear)
    if gear == "auto":
        return "kernel" if not _load(build=False) else "torch"
    if gear == "kernel" and not reason:
        reason = build()
    if reason:
        warnings.warn(f"gear {gear!r}: {reason}; using 'torch'", stacklevel=3)
        return "torch"
    return gear


class BatchNorm1d(norm.BatchNorm1d):
    """:class:`bnutils.norm.BatchNorm1d`, faster on the CPU.

    Input that a gear does not cover takes the next best road, with the same result: the
    kernel covers contiguous float32 and float64 on the CPU, the "torch" gear both types
    on any device; half precision, torch.func transforms, forward-mode derivatives and
    code under torch.compile go through :mod:`bnutils.norm`. Second derivatives work in
    every gear.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As in :class:`bnutils.norm.BatchNorm1d`.
    gear : str, optional
        One of :data:`GEARS`; default the class's, ``"auto"``. Asking for "kernel"
        compiles it, unless that was done before.

    Attributes
    ----------
    gear : str
        The gear in use: "torch", "compile" or "kernel".

    Raises
    ------
    ValueError
        There is no such gear; and what :class:`bnutils.norm.BatchNorm1d` raises.
    """

    gear = "auto"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        *,
        bias: bool = True,
        gear: str | None = None,
    ) -> None:
        same = (num_features, eps, momentum, affine, track_running_stats)
        super().__init__(*same, device, dtype, bias=bias)
        self.gear = _chosen(gear or type(self).gear)

    def __setstate__(self, state: dict) -> None:
        """Come back from a pickle; without a compiled kernel here, in gear "torch"."""
        super().__setstate__(state)
        if self.gear == "kernel" and _load(build=False):
            self.gear = "torch"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L); training also updates statistics."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(x)
        if self.gear == "kernel":
            b, keep = self._buffers, self.track_running_stats
            own = keep or not self.training  # a batch that is not kept needs no buffer
            y = _kernel(
                x,
                self.weight,
                self.bias,
                b["running_mean"] if own else None,
                b["running_var"] if own else None,
                b["num_batches_tracked"] if keep else None,
                self.training,
                self.momentum,
                self.eps,
            )
            return super().forward(x) if y is None else y
        return self._lean(x)

    def _lean(self, x: Tensor) -> Tensor:
        """The "torch" and "compile" gears."""
        weight, bias, b = self.weight, self.bias, self._buffers
        if not self._usual(x, weight, bias, b["running_mean"], b["running_var"]):
            self._check_input(x)
        if x.dtype not in (torch.float32, torch.float64) or transformed():
            return super().forward(x)
        if not x.numel():
            return super().forward(x)
        x = x.contiguous()  # the output is, as PyTorch's
        if not (self.training or b["running_mean"] is None):
            return self._affine(x)
        fuse = self.gear == "compile" and x.dim() == 3
        y, mean, var = LeanBatchNorm.apply(x, weight, bias, self.eps, fuse)
        if self.training and self.track_running_stats:
            if b["num_batches_tracked"] is not None:
                b["num_batches_tracked"].add_(1)
            self._update_running_stats(mean, var, x.numel() // x.size(1))
        return y

    def _usual(self, x: Tensor, *state: Tensor | None) -> bool:
        """Whether nothing can be wrong with the input; cheaper than to say what is."""
        if x.dim() not in (2, 3) or x.numel() <= x.size(1) or self.eps <= 0:
            return False
        c, kind = x.size(1), (x.dtype, x.device)
        return (state[2] is None) == (state[3] is None) and all(
            v is None or ((v.dtype, v.device) == kind and v.numel() == c) for v in state
        )

    def _affine(self, x: Tensor) -> Tensor:
        """Evaluation: centre, then one multiply-add."""
        scale = (self.running_var + self.eps).rsqrt()
        if self.weight is not None:
            scale = self.weight * scale
        centred = x - column(self.running_mean, x)
        if self.bias is None:
            return centred * column(scale, x)
        return torch.addcmul(column(self.bias, x), centred, column(scale, x))


class TorchBatchNorm1d(BatchNorm1d):
    """:class:`BatchNorm1d` in gear "torch"."""

    gear = "torch"


class CompileBatchNorm1d(BatchNorm1d):
    """:class:`BatchNorm1d` in gear "compile"."""

    gear = "compile"


class KernelBatchNorm1d(BatchNorm1d):
    """:class:`BatchNorm1d` in gear "kernel"; compiles it when the first one is made."""

    gear = "kernel"
