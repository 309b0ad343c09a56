"""Run a function, perhaps of a notebook, in several processes: ``sync.run``.

The launcher's side turns the function into text and leaves it in a folder; each process,
started as ``-m bnutils.sync.remote FOLDER``, executes it and leaves there what it returns.
"""

import dis
import inspect
import sys
import tempfile
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, distributed

from bnutils.sync.launcher import launch, process_group

_LOOKUPS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_PLAIN = (bool, int, float, str, Tensor)


def run(
    function: Callable, *arguments: Any, processes: int = 2, timeout: float = 60.0
) -> list:
    """Call a function in each of several new processes that form a process group.

    The processes get the text of the function, so it may come from a notebook. Modules,
    and what was imported from them, may be used by their global names, as may numbers,
    strings, tensors and lists, tuples or dicts of them; everything else, functions of
    the notebook among it, has to be made inside.

    Parameters
    ----------
    function : callable
        Defined by ``def``, outside of other functions.
    *arguments
        Numbers, strings, tensors, and lists, tuples or dicts of them.
    processes, timeout
        As of :func:`launch`.

    Returns
    -------
    list
        What the function returned on rank 0, 1, ...; of the same types.

    Raises
    ------
    ValueError
        The function cannot be sent.
    LaunchError
        It failed, or the time is over.
    """
    job = capture(function) | {"arguments": arguments}
    with tempfile.TemporaryDirectory(prefix="bnutils-") as folder:
        torch.save(job, Path(folder, "job.pt"))
        launch("bnutils.sync.remote", folder, processes=processes, timeout=timeout)
        results = (Path(folder, f"{rank}.pt") for rank in range(processes))
        return [torch.load(path, weights_only=True) for path in results]


def capture(function: Callable) -> dict[str, Any]:
    """Return the function's name, its text with the imports it needs, and values.

    Raises
    ------
    ValueError
        It is no function defined by ``def``, it uses variables of an enclosing function,
        or a global name that is neither imported nor a plain value.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.isfunction(function) or not name.isidentifier():
        raise ValueError(f"expected a function defined by def, got {name}")
    if function.__closure__:
        names = ", ".join(function.__code__.co_freevars)
        raise ValueError(
            f"{name} uses {names} of an enclosing function: pass it as an argument"
        )
    lines, values = [], {}
    for used in sorted(_names(function.__code__) & function.__globals__.keys()):
        value = function.__globals__[used]
        if _is_plain(value):
            values[used] = value
        elif value is not function:
            lines.append(_import(used, value, name))
    text = textwrap.dedent(inspect.getsource(function))
    return {"name": name, "text": "\n".join([*lines, "", text]), "values": values}


def _names(code: CodeType) -> set[str]:
    """Global names that a function and the functions inside it look up.

    Not ``code.co_names``, which holds attributes as well: a method may be called like a
    function of the notebook.
    """
    inner = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    lookups = (i for i in dis.get_instructions(code) if i.opname in _LOOKUPS)
    return {i.argval for i in lookups}.union(*inner)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    return value is None or isinstance(value, _PLAIN)


def _import(used: str, value: Any, function: str) -> str:
    """The import statement that gives a global name its value."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {used}"
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", "")
    try:
        if module != "__main__" and getattr(import_module(module), name) is value:
            return f"from {module} import {name} as {used}"
    except (ImportError, AttributeError, TypeError):
        pass
    raise ValueError(
        f"{function} uses {used}, which other processes cannot import: define it inside "
        "the function, or pass it as an argument"
    )


def main(folder: str) -> None:
    """Call the function that lies in the folder, and leave there what it returns."""
    job = torch.load(Path(folder, "job.pt"), weights_only=True)
    torch.set_num_threads(1)
    with process_group():
        rank = distributed.get_rank()
        source = Path(folder, f"function{rank}.py")
        source.write_text(job["text"], "utf8")  # for the lines of a traceback
        namespace = {"__name__": "function", **job["values"]}
        exec(compile(job["text"], str(source), "exec"), namespace)
        result = namespace[job["name"]](*job["arguments"])
        torch.save(result, Path(folder, f"{rank}.pt"))


if __name__ == "__main__":
    main(sys.argv[1])
