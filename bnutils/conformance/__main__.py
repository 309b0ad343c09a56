"""``python -m bnutils.conformance package.module:Class``: the report, and 1 if it differs."""

import argparse
import pkgutil
import sys

from bnutils.conformance import compare


def main(arguments: list[str] | None = None) -> int:
    """Print the report on a class or factory named on the command line.

    Returns
    -------
    int
        0 if all checks agree with PyTorch, 1 if one differs; a class that cannot be found
        or compared ends the program with 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bnutils.conformance",
        description="Compare a class with torch.nn.BatchNorm1d, check by check.",
    )
    parser.add_argument(
        "target", help="package.module:Class, or a function that makes a layer"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default 0)")
    options = parser.parse_args(arguments)
    try:
        report = compare(pkgutil.resolve_name(options.target), seed=options.seed)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        parser.error(f"{options.target}: {error}")
    sys.stdout.write(f"{report}\n")
    return 0 if report else 1


if __name__ == "__main__":
    sys.exit(main())
