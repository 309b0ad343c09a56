"""How a run of all tests is ordered and summed up: hooks of pytest for conftest.py."""

from __future__ import annotations

from collections import Counter

# What takes longest begins first, so that no worker is left with it at the end.
LONGEST = ("notebooks/", "tests/book/test_book_site.py")


def pytest_collection_modifyitems(items):
    """Put the files that take longest first and leave the others in their order."""

    def rank(item):
        return next(
            (i for i, part in enumerate(LONGEST) if item.nodeid.startswith(part)),
            len(LONGEST),
        )

    items.sort(key=rank)


def part(file: str) -> str:
    """What a file of tests counts to: its folder, or for the book's build itself."""
    return "the book's build" if file == LONGEST[1] else file.rpartition("/")[0]


def pytest_terminal_summary(terminalreporter, config):
    """Say where the time went when several processes shared the work."""
    if not getattr(config.option, "numprocesses", None):
        return
    files: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if seconds := getattr(report, "duration", 0):
                files[report.nodeid.partition("::")[0]] += seconds
    parts: dict[str, list[tuple[float, str]]] = {}
    for file, seconds in files.items():
        parts.setdefault(part(file), []).append((seconds, file.rpartition("/")[2]))
    terminalreporter.section("seconds by part")
    for name, found in sorted(parts.items(), key=total, reverse=True):
        seconds, file = max(found)
        terminalreporter.line(
            f"{name:<30}{total((name, found)):5.0f} s   longest: {file} {seconds:.0f} s"
        )


def total(entry: tuple[str, list[tuple[float, str]]]) -> float:
    """Seconds of all files of a part."""
    return sum(seconds for seconds, _ in entry[1])
