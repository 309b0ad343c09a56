"""Batch norm's relatives: the same few lines over other axes (chapter 14).

- :mod:`bnutils.relatives.functional`: the mathematics. ``standardize`` over the axes
  given is all of them; ``layer_norm``, ``group_norm``, ``instance_norm`` and ``rms_norm``
  choose the axes. Named after the functions of ``torch.nn.functional``.
- :mod:`bnutils.relatives.layers`: the layers, with the names and arguments of ``torch.nn``
  where PyTorch has them; ``GhostBatchNorm1d`` and ``BatchRenorm1d`` it has not.
- :mod:`bnutils.relatives.residual`: what residual networks without batch norm have in its
  place, ``WSConv2d`` and ``ScaledResidual`` (chapter 19).
- :mod:`bnutils.relatives.masked`: ``MaskedBatchNorm1d``, for sequences with padding
  (chapter 20).
"""

from bnutils.relatives.functional import (
    group_norm,
    instance_norm,
    layer_norm,
    moments,
    rms_norm,
    standardize,
    weight_standardize,
)
from bnutils.relatives.layers import (
    BatchNorm2d,
    BatchRenorm1d,
    GhostBatchNorm1d,
    GroupNorm,
    InstanceNorm1d,
    LayerNorm,
    RMSNorm,
)
from bnutils.relatives.masked import MaskedBatchNorm1d
from bnutils.relatives.residual import ScaledResidual, WSConv2d

__all__ = [
    "BatchNorm2d",
    "BatchRenorm1d",
    "GhostBatchNorm1d",
    "GroupNorm",
    "InstanceNorm1d",
    "LayerNorm",
    "MaskedBatchNorm1d",
    "RMSNorm",
    "ScaledResidual",
    "WSConv2d",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "moments",
    "rms_norm",
    "standardize",
    "weight_standardize",
]
