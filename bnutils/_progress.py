"""A progress bar where someone watches: in a terminal and in Jupyter."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator


def _in_jupyter() -> bool:
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


@contextlib.contextmanager
def bar(
    total: int, wanted: bool | None, unit: str = "step"
) -> Iterator[Callable[[], object]]:
    """Yield a function that advances a progress bar by one, or does nothing."""
    if wanted is None:
        silenced = os.environ.get("BNUTILS_PROGRESS") == "0" or os.environ.get("CI")
        wanted = not silenced and (sys.stderr.isatty() or _in_jupyter())
    if not wanted:
        yield lambda: None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about widgets that Jupyter lacks
        from tqdm.auto import tqdm
    with tqdm(total=total, unit=unit, leave=False) as shown:
        yield shown.update
