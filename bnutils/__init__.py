"""The code of the book *Batch Normalization from First Principles*: a map, chapter by chapter.

=============== ======= ====================================================================
module          chapter what it holds
=============== ======= ====================================================================
``arrays``      2, 3    batch normalisation in NumPy, forward and backward
``norm``        4       the layer, ``BatchNorm1d``, and its pure functions
``conformance`` 5       compare a layer with PyTorch's: checks and their report
``deploy``      7, 13   recalibrate running statistics, fold a norm into its neighbour
``data``        8       MNIST, verified, or digits where there is no network
``models``      8       the networks that the chapters train
``train``       8       ``fit``, ``evaluate`` and what they record
``sweep``       9       many trainings, kept when you press stop
``probe``       11      look into a network: inputs, outputs and gradients of its layers
``relatives``   14      layer, group, instance and other norms
``sync``        15      one batch over several processes
``fast``        16      the same layer, faster: plain PyTorch, compiled, C++
``doctor``      17      what is wrong with the batch norms of a model
``exercises``   all     check an answer and say what is off, one module a chapter
``plot``        all     the look of the figures
``progress``    all     the one bar that a long cell shows
=============== ======= ====================================================================

``_modules`` holds what several of them ask of a model (its batch norms, device, modes), and
``_batches`` what they ask of a batch (which arguments a model takes of it), ``_words`` how
they put things into words (an error in a line, a long list cut).
Importing the package imports none of them: ``from bnutils import norm`` does, and so does the
first look at ``bnutils.norm``.
"""

TYPE_CHECKING = False  # as typing's, which takes longer to import than all that is here
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":
    """Import a module of the map at the first ``bnutils.name``."""
    import importlib

    there = [one for one in __dir__() if not one.startswith("_")]
    if name not in there:
        raise AttributeError(
            f"module 'bnutils' has no attribute {name!r}; its modules: {', '.join(there)}"
        )
    return importlib.import_module(f"bnutils.{name}")


def __dir__() -> list[str]:
    import pkgutil

    modules = (module.name for module in pkgutil.iter_modules(__path__))
    hidden = [name for name in globals() if name.startswith("__")]
    return [*hidden, *(name for name in modules if not name.startswith("_"))]
