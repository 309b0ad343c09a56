"""Helpers and finished implementations of the book *Batch Normalization from First Principles*.

Each module holds one idea, in the order in which data flows: ``arrays`` (the mathematics in
NumPy), ``norm`` (the layer), ``conformance`` (checked against PyTorch), ``data``, ``models``,
``train``, ``sweep`` (many trainings), ``probe``, ``deploy`` (recalibrate, fold), ``relatives``
(sibling norms), ``sync`` (several processes), ``fast``, ``doctor``; ``plot`` and ``exercises``
serve all chapters. Importing the package imports none of them.
"""

__version__ = "0.1.0"
