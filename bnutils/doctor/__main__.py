"""Examine a model from the command line, so that the doctor can guard a training script.

::

    python -m bnutils.doctor package.module:factory
    python -m bnutils.doctor train:make_model --loader train:make_loader --checkpoint last.pt

Prints the report. Exit status: 0 without errors (warnings and notes may be there), 1 with
errors or, with ``--strict``, any finding, 2 if the model or the loader cannot be made.
"""

import argparse
import pkgutil
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from bnutils import doctor
from bnutils._words import few, wrapped
from bnutils.doctor.codes import TABLE


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.codes:
        codes = [TABLE[name] for name in doctor.CODES]
        lines = [f"{code.severity:8} {code.name}: {code.what}" for code in codes]
        sys.stdout.write(wrapped(lines, indent=9) + "\n")
        return 0
    if options.model is None:
        _parser().error("the following arguments are required: model")
    try:
        model = _made(options.model)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"{options.model} gave a {type(model).__name__}, no nn.Module"
            )
        if options.checkpoint:
            _load(model, options.checkpoint, options.key)
        loader = _made(options.loader) if options.loader else None
        call = pkgutil.resolve_name(options.call) if options.call else None
        if options.eval:
            model.eval()
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    report = doctor.examine(model, loader, call=call)
    sys.stdout.write(f"{report}\n")
    bad = len(report) if options.strict else sum(f.severity == "error" for f in report)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m bnutils.doctor", description="Examine the batch norms of a model."
    )
    add = parser.add_argument
    add("model", nargs="?", help="package.module:name of a model or of what makes one")
    add(
        "--loader", help="package.module:name of training batches or of what makes them"
    )
    add("--checkpoint", help="file with a state dict, loaded strictly")
    add("--key", help="where in the checkpoint the state dict is, such as state_dict")
    add("--call", help="package.module:name of a function (model, batch) -> output")
    add("--eval", action="store_true", help="put the model into evaluation mode first")
    add("--strict", action="store_true", help="exit with 1 on any finding")
    add("--codes", action="store_true", help="list what is looked for, and exit")
    return parser


def _made(where: str) -> object:
    """What is at a place; if it is a function or a class, what calling it gives."""
    found = pkgutil.resolve_name(where)
    made_already = isinstance(found, nn.Module) or not isinstance(found, Callable)
    return found if made_already else found()


def _load(model: nn.Module, file: str, key: str | None) -> None:
    state = torch.load(file, map_location="cpu", weights_only=True)
    if key is not None:
        if key not in state:
            raise KeyError(f"{file} holds no {key!r}, but: {few(list(state))}")
        state = state[key]
    nested = [name for name, value in state.items() if _is_state(value)]
    if nested and not _is_state(state):
        keys = " or ".join(f"--key {name}" for name in nested)
        raise ValueError(f"{file} is no state dict, but holds some: give {keys}")
    for wrapper in ("module.", "_orig_mod."):  # of DDP, torch.compile
        if not any(name.startswith(wrapper) for name in model.state_dict()):
            consume_prefix_in_state_dict_if_present(state, wrapper)
    model.load_state_dict(state)


def _is_state(value: object) -> bool:
    """Whether a value is a state dict: it holds tensors by the names of parameters."""
    return isinstance(value, dict) and any(
        isinstance(one, Tensor) for one in value.values()
    )


if __name__ == "__main__":
    sys.exit(main())
