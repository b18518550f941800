"""The scoreboard: every claim, its verdict and what that stands on, as a table, as JSON, and as figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from analysis.claims.claim import Finding
from analysis.figures import forest
from analysis.frames.results import Results
from analysis.statistics.estimates import Estimate
from harness.located import InputError

HEAD = ("claim", "words", "source", "verdict", "effect (interval)", "n", "p")


def lines(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """One line a claim, its cells as HEAD names them."""
    return [_line(finding) for finding in findings]


def markdown(findings: Iterable[Finding]) -> str:
    """The scoreboard as a table of Markdown."""
    rows = [HEAD, tuple("---" for _ in HEAD), *lines(findings)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def as_dicts(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The scoreboard as plain values; a number that there is not, or that is infinite, is None."""
    return [_as_dict(finding) for finding in findings]


def figures(findings: Sequence[Finding], results: Mapping[str, Results]) -> Iterator[tuple[str, Figure]]:
    """The figures of the claims that were judged, by name: the arms of each, and what else the claim draws."""
    for finding in findings:
        if finding.judgement is None:
            continue
        name = f"claim_{finding.claim.name}"
        if finding.judgement.arms:
            levels = " or ".join(sorted({f"{each.level * 100:g} %" for _, each in finding.judgement.arms}))
            caption = f"{finding.claim.words}: {finding.verdict}. Marks: estimates with {levels} intervals and n. " + (
                f"Rule: {finding.claim.rule}. {finding.why}"
            )
            title = f"{finding.claim.name}: {finding.verdict}"
            yield name, forest.forest(finding.judgement.arms, finding.claim.axis, title, caption, reference=None)
        if finding.claim.draw is not None:
            try:
                yield f"{name}_more", finding.claim.draw(results)
            except InputError:  # nothing to draw, as when no run died
                continue


def _line(finding: Finding) -> tuple[str, ...]:
    claim, judged = finding.claim, finding.judgement
    if judged is None:
        return (claim.name, claim.words, claim.source, finding.verdict, "–", "–", "–")
    p = "–" if math.isnan(finding.adjusted) else f"{finding.adjusted:.2g}"
    effect = f"{judged.of}: {judged.effect.short}"
    return claim.name, claim.words, claim.source, finding.verdict, effect, f"{judged.effect.n}", p


def _as_dict(finding: Finding) -> dict[str, Any]:
    claim, judged = finding.claim, finding.judgement
    found: dict[str, Any] = {
        "claim": claim.name,
        "words": claim.words,
        "source": claim.source,
        "verdict": finding.verdict,
        "statistic": claim.statistic,
        "rule": claim.rule,
        "sweeps": list(claim.sweeps),
        "missing": list(finding.missing),
        "notes": finding.why,
    }
    if judged is not None:
        found |= {
            "effect": _estimate(judged.effect) | {"of": judged.of},
            "p": _plain(judged.p),
            "p_holm": _plain(finding.adjusted),
            "arms": [{"arm": name.strip(), **_estimate(each)} for name, each in judged.arms],
        }
    return found


def _estimate(each: Estimate) -> dict[str, Any]:
    return {
        "value": _plain(each.value),
        "low": _plain(each.low),
        "high": _plain(each.high),
        "n": each.n,
        "unit": each.unit,
        "level": round(each.level, 3),
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
