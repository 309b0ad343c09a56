"""What the doctor says: findings as data, as text and as a table."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from bnutils._words import few, wrapped
from bnutils.doctor.codes import SEVERITIES, TABLE, Found
from bnutils.doctor.compare import Comparison


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or probably wrong, with one module.

    Attributes
    ----------
    severity : "error", "warning" or "note"
        Results are wrong; probably worse than they could be; harmless but worth knowing.
    code : str
        Stable name of the kind of finding, such as "stale-statistics".
    path : str
        Of the module in ``model.named_modules()``; empty for the model itself.
    evidence : str
        What was measured, in words with its number.
    value : float
        That number.
    consequence, remedy : str
        What follows from it, and what to do.
    """

    severity: str
    code: str
    path: str
    evidence: str
    value: float
    consequence: str
    remedy: str

    @classmethod
    def of(cls, name: str, found: Found, path: str) -> "Finding":
        """Put what a check found together with the texts of its code."""
        code = TABLE[name]
        return cls(
            severity=found.severity or code.severity,
            code=name,
            path=path.rstrip("."),
            evidence=found.evidence,
            value=float(found.value),
            consequence=code.means,
            remedy=found.remedy or code.remedy,
        )


@dataclass(frozen=True, repr=False)
class Report:
    """The doctor's findings, worst first: a table in Jupyter, text in a terminal.

    In code: iterate, ``len``, ``report["dead-channels"]`` for the findings of one code;
    a report is true in a condition if there is any finding.

    Attributes
    ----------
    findings : list of Finding
    norms : int
        How many batch norms the model has.
    batches : int
        How many batches were run through a copy of it.
    notes : list of str
        What could not be examined, and why.
    checked : dict
        ``report.checked[code][path]`` says what became of a check at a batch norm: "fine",
        "found", "not applicable: ..." or "could not: ..."; checks of the whole model have
        the path "".
    comparison : Comparison or None
        Outputs in evaluation against those in training mode, if they were compared.
    """

    findings: list[Finding]
    norms: int
    batches: int
    notes: list[str]
    checked: dict[str, dict[str, str]] = field(default_factory=dict)
    comparison: Comparison | None = None

    @property
    def codes(self) -> list[str]:
        """Codes of the findings, each once, worst first."""
        return list(dict.fromkeys(f.code for f in self))

    def __iter__(self) -> Iterator[Finding]:
        """Go through the findings, worst first."""
        return iter(self.findings)

    def __len__(self) -> int:
        """Count the findings."""
        return len(self.findings)

    def __bool__(self) -> bool:
        """Whether there is any finding."""
        return bool(self.findings)

    def __getitem__(self, code: str) -> list[Finding]:
        """Return the findings of one code; KeyError names the codes there can be."""
        if code not in TABLE:
            raise KeyError(f"no code {code!r}; there are: {', '.join(TABLE)}")
        return [f for f in self if f.code == code]

    def __str__(self) -> str:
        """Group the findings by code, with evidence, consequence and remedy."""
        lines = [self._headline()]
        for group in self._groups():
            worst = group[0]
            lines += [
                f"{worst.severity.upper():8} {worst.code}: {_paths(group)}",
                f"  found    {_evidence(group)}",
                f"  means    {worst.consequence}",
                f"  remedy   {worst.remedy}",
            ]
        return wrapped([*lines, *self._below()], indent=11)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><b>{g[0].severity}</b><br>"
            f"<code style='white-space: nowrap'>{g[0].code}</code></td>"
            f"<td>{escape(_paths(g))}</td><td>{escape(_evidence(g))}</td>"
            f"<td>{escape(g[0].consequence)}</td><td>{escape(g[0].remedy)}</td></tr>"
            for g in self._groups()
        )
        names = ("finding", "where", "evidence", "consequence", "remedy")
        head = "".join(f"<th>{name}</th>" for name in names)
        headline = escape(self._headline())
        table = (
            f"<table><caption>{headline}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )
        notes = "".join(f"<p>{escape(words)}</p>" for words in self._below())
        return (table if rows else f"<p>{headline}</p>") + notes

    def _headline(self) -> str:
        kinds = [(s, sum(f.severity == s for f in self)) for s in SEVERITIES]
        counts = ", ".join(_count(n, s) for s, n in kinds if n) or "no finding"
        seen = f"{_count(self.norms, 'batch norm')}, {_count(self.batches, 'batch')}"
        if not self.norms and not self:
            return f"nothing to examine ({seen})"
        return f"{counts} ({seen} examined)"

    def _below(self) -> list[str]:
        """What stands under the findings: the modes compared, what was not checked, notes."""
        words = []
        if self.comparison is not None:
            words.append(f"modes: {self.comparison.sentence()}")
        if missing := self._unchecked():
            words.append(f"not checked: {missing}")
        return words + [f"note: {note}" for note in self.notes]

    def _unchecked(self) -> str:
        """Kinds of finding that could not be looked for at every batch norm, by reason."""
        by_reason: dict[str, list[str]] = defaultdict(list)
        for code, places in self.checked.items():
            for told in dict.fromkeys(places.values()):
                if told.startswith("could not: "):
                    by_reason[told.removeprefix("could not: ")].append(code)
        parts = []
        for reason, codes in by_reason.items():
            which = f"{len(codes)} kinds" if len(codes) > 3 else ", ".join(codes)
            parts.append(f"{which} ({reason})")
        return "; ".join(parts)

    def _groups(self) -> list[list[Finding]]:
        """Findings of the same code, severity and remedy, each group by falling value."""
        groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
        for one in self:
            groups[one.severity, one.code, one.remedy].append(one)
        return [sorted(g, key=lambda f: -abs(f.value)) for g in groups.values()]


def _paths(group: list[Finding]) -> str:
    return few([f.path or "the model" for f in group])


def _evidence(group: list[Finding]) -> str:
    same = len({f.evidence for f in group}) == 1
    where = "" if same else f" ({group[0].path or 'the model'})"
    return group[0].evidence + where


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "es" if what == "batch" else "s")
