"""Run one stage of `make test` or `make nightly`: a line with its time, the rest in a log.

    python tests/stage.py NAME COMMAND ...

A stage that passes prints its line and, for pytest, where the time went; one that fails prints
what failed as well. The whole output is in _build/logs/NAME.log. The exit status is the command's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

LOGS = Path(__file__).resolve().parents[1] / "_build" / "logs"
AT_MOST = 150  # lines of a failure; more are in the log
# pytest's sections and its last line, with or without the frame of equal signs.
SECTION = re.compile(r"^=+ (?P<title>[a-zA-Z ]+) =+$")
CLOSING = re.compile(r"^=* ?(?P<counts>\d+ \w+(?:, \d+ \w+)*) in [\d.]+s", re.M)


def sections(output: str) -> dict[str, list[str]]:
    """The lines of pytest's report below each of its headings."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output.splitlines():
        if heading := SECTION.match(line):
            lines = found.setdefault(heading["title"], [])
        else:
            lines.append(line)
    return found


def counts(output: str) -> str:
    """What pytest's last line counts, such as "1204 passed, 3 skipped"; "" without pytest."""
    return ", ".join(line["counts"] for line in CLOSING.finditer(output))


def failing(output: str) -> list[str]:
    """The part of the output that says what went wrong."""
    parts = sections(output)
    told = [line for title in ("ERRORS", "FAILURES") for line in parts.get(title, [])]
    listed = parts.get("short test summary info", [])
    lines = told[:AT_MOST] + listed[:AT_MOST]
    return lines or output.splitlines()[-AT_MOST:]


def finished(child: subprocess.Popen) -> int:
    """Wait for a process; its exit status.

    An interrupt reaches the process as well. pytest then counts what it did, so it is waited for.
    """
    try:
        return child.wait()
    except KeyboardInterrupt:
        return child.wait()


def main(arguments: list[str]) -> int:
    """Run the command; its exit status."""
    name, *command = arguments
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    start = time.perf_counter()
    with log.open("wb") as file:
        status = finished(subprocess.Popen(command, stdout=file, stderr=file))
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    output = log.read_text("utf8", errors="replace")
    if status:
        print("\n".join(failing(output)))
    verdict = "failed" if status else "passed"
    print(
        f"{name:<10}{verdict:<8}{minutes:3}:{seconds:02}   {counts(output)}", flush=True
    )
    for line in sections(output).get("seconds by part", []):
        if line.endswith(" s"):
            print(f"    {line}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
