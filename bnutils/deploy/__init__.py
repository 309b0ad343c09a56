"""Make a trained model ready for use.

- ``recalibrate`` (chapter 7): replace stale running statistics by averages over fresh
  batches; in :mod:`bnutils.deploy.recalibration`.
- ``fold`` (chapter 13): put the batch norms into the layers before them, where nothing
  but rounding changes; in :mod:`bnutils.deploy.folding`. It asks
  :mod:`~bnutils.deploy.graph` which layer feeds which batch norm,
  :mod:`~bnutils.deploy.obstacles` whether something forbids it, lets
  :mod:`~bnutils.deploy.arithmetic` change the numbers, and compares the outputs on an
  :mod:`~bnutils.deploy.example`.
"""

from bnutils.deploy.folding import FoldedNorm, FoldReport, FoldResult, KeptNorm, fold
from bnutils.deploy.recalibration import (
    RecalibratedNorm,
    RecalibrationReport,
    recalibrate,
)

__all__ = [
    "FoldReport",
    "FoldResult",
    "FoldedNorm",
    "KeptNorm",
    "RecalibratedNorm",
    "RecalibrationReport",
    "fold",
    "recalibrate",
]
