"""``python -m bnutils``: what is installed here, and which chapters will lack something."""

import importlib
import importlib.util
import os
import platform
import re
import sys
import textwrap
from importlib import metadata

from bnutils import __version__
from bnutils._words import first_line

# As in pyproject.toml, which is not at hand where the package was copied, not installed.
REQUIRED = {
    "torch": "2.4",
    "torchvision": "0.19",
    "numpy": "1.26",
    "matplotlib": "3.8",
    "scikit-learn": "1.4",
    "cloudpickle": "3.0",
    "psutil": "5.9",
    "tqdm": "4.63",
}
IMPORTED_AS = {"scikit-learn": "sklearn"}
WIDTH = 79  # of the report, so that it fits a plain terminal


def main() -> int:
    """Print the report.

    Returns
    -------
    int
        0 if the chapters run, 1 if a required package is missing, too old or broken, or
        if the data named by BNUTILS_DATA cannot be used. What only one chapter needs
        does not count.
    """
    problems = {name: _package_problem(name) for name in REQUIRED}
    lines = [f"bnutils {__version__} on Python {platform.python_version()}", ""]
    lines.append(_line("system", f"{platform.system()}, {platform.machine()}"))
    for name in REQUIRED:
        lines.append(_line(name, problems[name] or metadata.version(name)))
    # Without these two nothing below can be asked.
    blocked = problems["torch"] or problems["numpy"]
    data_problem = ""
    if not blocked:
        data, data_problem = _data()
        lines += ["", _line("computes on", _device()), _line("data", data)]
        lines.append(_line("chapter 13", _onnx()))
        lines.append(_line("chapter 15", _processes()))
        lines.append(_line("chapter 16", _kernel()))
    lines.append(_line("JupyterLab", _jupyter()))

    wrong = [name for name in REQUIRED if problems[name]]
    if data_problem:
        wrong.append("data")
    if wrong:
        end = f"The chapters will not all run: see {', '.join(wrong)}."
    else:
        end = "All that every chapter needs is here."
    sys.stdout.write("\n".join([*lines, "", end, ""]))
    return 1 if wrong else 0


def _line(name: str, value: str) -> str:
    """A line of the report; a long message goes on below, since its end says what to do."""
    return textwrap.fill(
        " ".join(value.split()),
        WIDTH,
        initial_indent=f"{name:<14}",
        subsequent_indent=" " * 14,
    )


def _package_problem(name: str) -> str:
    """What is wrong with a required package; an empty text if nothing is."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f'MISSING: pip install "{name}>={REQUIRED[name]}"'
    if _release(version) < _release(REQUIRED[name]):
        return f'{version}, TOO OLD: pip install "{name}>={REQUIRED[name]}"'
    try:
        importlib.import_module(IMPORTED_AS.get(name, name))
    except Exception as error:
        # Not only ImportError: a library that does not load raises OSError, and a
        # torchvision built for another torch RuntimeError.
        if name == "torchvision":
            return ""  # bnutils.data reads MNIST with it all the same
        return f"{version}, BROKEN: {first_line(error)}"
    return ""


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: (2, 4) for "2.4.0+cpu"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _missing(*names: str) -> str:
    """Those of the packages that are not installed, as pip takes them."""
    return " ".join(name for name in names if importlib.util.find_spec(name) is None)


def _device() -> str:
    """The device of the networks, and what the processor's sums depend on."""
    import torch

    from bnutils.train.machine import default_device

    instructions = torch.backends.cpu.get_cpu_capability()
    return (
        f"{default_device()}; the processor has {os.cpu_count()} cores, {instructions}"
    )


def _data() -> tuple[str, str]:
    """Which data the chapters will read, and what is wrong with them, if anything."""
    from bnutils import data

    try:
        found = data.load(download=False)
    except data.DataError as error:
        return f"PROBLEM: {error}", str(error)
    if found.name == "MNIST":
        return f"MNIST, {found.source}", ""
    if os.environ.get("BNUTILS_DATA"):
        return "the offline digits, as BNUTILS_DATA asks", ""
    return "MNIST is downloaded when first needed; offline, digits stand in", ""


def _onnx() -> str:
    import torch

    if missing := _missing("onnx", "onnxscript", "onnxruntime"):
        return f"without its export: pip install {missing}"
    if "dynamic_shapes" not in (torch.onnx.export.__kwdefaults__ or {}):
        return "without its export: this PyTorch is too old for it"
    return "complete"


def _processes() -> str:
    from torch import distributed

    if os.name != "posix":
        return "without its two processes: they need Linux or macOS"
    if not distributed.is_available():
        return "without its two processes: this PyTorch cannot distribute"
    return "complete"


def _kernel() -> str:
    from bnutils.fast import extension

    if extension.obstacle():
        return f"without its C++: {extension.obstacle()}"
    if extension.library() is None:
        return "complete; compiles its C++ at the first run, half a minute"
    return "complete; its C++ is compiled"


def _jupyter() -> str:
    if missing := _missing("jupyterlab", "ipywidgets"):
        return f"incomplete: pip install {missing}"
    return f"complete, {metadata.version('jupyterlab')}"


if __name__ == "__main__":
    sys.exit(main())
