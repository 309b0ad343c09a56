"""Import torchvision's reader of MNIST, even beside a torch it was not built for."""

import importlib
import warnings
from types import ModuleType

import torch


def import_mnist() -> ModuleType:
    """Import ``torchvision.datasets.mnist``, declaring missing operators where need be.

    torchvision's compiled operators load only with the torch they were built for;
    PyPI's torchvision beside the CPU build of torch is a pair that does not fit. Its
    import then stops at ``operator torchvision::nms does not exist``: its Python code
    describes two operators that nobody declared. Reading MNIST needs none of them, so,
    where the import failed for that reason and only there, they are declared without
    an implementation. Calling them still fails.
    """
    name = "torchvision.datasets.mnist"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on compiled image readers, not needed here
        try:
            try:
                return importlib.import_module(name)
            except RuntimeError as error:
                if "operator torchvision::" not in str(error):
                    raise
            for operator in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, operator):
                    schema = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
                    torch.library.define(f"torchvision::{operator}", schema)
            return importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            raise ImportError(
                f"torchvision cannot be imported ({error}): install the version that "
                f"belongs to torch {torch.__version__}, or use the offline digits with "
                'data.load("digits")'
            ) from error
