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

The kernel keeps the memory of large results (from 1 MiB on) for the next ones, up to 256
MiB in a process; the environment variable BNUTILS_KEEP_MIB, read when the kernel is
loaded, sets another limit, 0 none.

This file chooses the gear and holds the layer. What a gear computes is in ``lean.py``
("torch", "compile") and in the C++ of ``csrc`` ("kernel"); ``csrc/module.cpp`` lists its
files, and :func:`excerpt` shows parts of them. ``extension.py`` compiles and loads the C++.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnutils import norm
from bnutils.fast import extension
from bnutils.fast.lean import LeanBatchNorm, column, transformed

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "GEARS",
    "BatchNorm1d",
    "CompileBatchNorm1d",
    "KernelBatchNorm1d",
    "TorchBatchNorm1d",
    "available",
    "build",
    "excerpt",
]

GEARS = ("auto", "torch", "compile", "kernel")


def build() -> str:
    """Compile the kernel unless it was compiled before (about half a minute).

    A build that failed is not tried again in the same process.

    Returns
    -------
    str
        Empty if the kernel can be used; else what stands in the way, in one line. If
        the compiler has found a mistake, the line names its file and line.
    """
    return _reason_against_kernel(build=True)


def available(gear: str) -> str:
    """Why a gear cannot be used here, or an empty text; compiles nothing.

    Raises
    ------
    ValueError
        There is no such gear.
    """
    if gear not in GEARS:
        raise ValueError(f"no gear {gear!r}; choose one of {', '.join(GEARS)}")
    if gear == "kernel":
        return extension.obstacle()
    if gear == "compile":
        return extension.missing_compiler()
    return ""


def excerpt(name: str) -> str:
    """A marked part of the kernel's C++, under the name of its file.

    Parameters
    ----------
    name : str
        As in the sources' marks: what stands between ``// [name]`` and ``// [/name]``.

    Raises
    ------
    ValueError
        No part has that name; the message lists those that there are.
    """
    names = []
    for path in extension.sources(extension.CSRC):
        text = path.read_text("utf8")
        names += re.findall(r"^ *// \[([^/].*)\]$", text, re.M)
        if name in names:
            part = text.split(f"// [{name}]\n")[1].split(f"// [/{name}]\n")[0]
            return f"// fast/csrc/{path.name}\n{textwrap.dedent(part.rstrip())}"
    raise ValueError(f"no excerpt {name!r}; there are: {', '.join(names)}")


def _reason_against_kernel(*, build: bool) -> str:
    """Load the kernel; return an empty text if that worked."""
    try:
        extension.load(build=build)
    except extension.NotAvailableError as reason:
        return str(reason)
    return ""


def _usable(gear: str) -> str:
    """The gear to use for the one that was asked for, which may mean to compile it."""
    reason = available(gear)  # and an error for a gear that there is not
    if gear == "auto":
        return "torch" if _reason_against_kernel(build=False) else "kernel"
    if gear == "kernel" and not reason:
        reason = build()
    if reason:
        # stacklevel: the line that made the layer, past __init__ and this function
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        gear: str | None = None,
    ) -> None:
        same = (num_features, eps, momentum, affine, track_running_stats)
        super().__init__(*same, device, dtype, bias=bias)
        self.gear = _usable(gear or type(self).gear)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back from a pickle; without a compiled kernel here, in gear "torch"."""
        super().__setstate__(state)
        if self.gear == "kernel" and _reason_against_kernel(build=False):
            self.gear = "torch"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L); training also updates statistics."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(x)  # a compiler sees more in plain operations
        y = self._in_kernel(x) if self.gear == "kernel" else self._in_one_node(x)
        return super().forward(x) if y is None else y

    def _in_kernel(self, x: Tensor) -> Tensor | None:
        """Gear "kernel": one call of C++; None where that does not apply."""
        # From here to C++ every lookup counts: for a small batch the call takes longer
        # than the arithmetic. self._buffers[name] spares nn.Module's __getattr__.
        buffers, keep = self._buffers, self.track_running_stats
        uses_statistics = keep or not self.training
        return extension.kernel.batch_norm(
            x,
            self.weight,
            self.bias,
            buffers["running_mean"] if uses_statistics else None,
            buffers["running_var"] if uses_statistics else None,
            buffers["num_batches_tracked"] if keep else None,
            self.training,
            self.momentum,
            self.eps,
        )

    def _in_one_node(self, x: Tensor) -> Tensor | None:
        """Gears "torch" and "compile"; None where they do not apply."""
        if not self._surely_valid(x):
            self._check_input(x)  # which says what is wrong, if something is
        covered = x.dtype in (torch.float32, torch.float64) and x.numel() > 0
        if not covered or transformed():
            return None
        x = x.contiguous()  # the output is, as PyTorch's
        buffers = self._buffers
        if not self.training and buffers["running_mean"] is not None:
            return self._by_running_statistics(x)
        fuse = self.gear == "compile" and x.dim() == 3
        y, mean, var = LeanBatchNorm.apply(x, self.weight, self.bias, self.eps, fuse)
        if self.training and self.track_running_stats:
            if buffers["num_batches_tracked"] is not None:
                buffers["num_batches_tracked"].add_(1)
            self._update_running_stats(mean, var, x.numel() // x.size(1))
        return y

    def _surely_valid(self, x: Tensor) -> bool:
        """Whether nothing can be wrong with the input; cheaper than to say what is."""
        if x.dim() not in (2, 3) or x.numel() <= x.size(1) or self.eps <= 0:
            return False
        mean, var = self._buffers["running_mean"], self._buffers["running_var"]
        if (mean is None) != (var is None):
            return False
        return all(
            v.numel() == x.size(1) and v.dtype == x.dtype and v.device == x.device
            for v in (self.weight, self.bias, mean, var)
            if v is not None
        )

    def _by_running_statistics(self, x: Tensor) -> Tensor:
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
