"""A claim as a declared object, and what results say about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from matplotlib.figure import Figure

from analysis.frames.results import Results
from analysis.statistics import estimates
from analysis.statistics.estimates import Estimate
from harness.located import InputError

Verdict = Literal["holds", "does not hold", "undecided"]
Arms = Sequence[tuple[str, Estimate]]
ALPHA = 0.05
"""What a p-value, after Holm's correction over all claims that have one, must be below."""

FAMILY = 25
"""Claims over which a number of runs is planned to stand correction."""


@dataclass(frozen=True)
class Judgement:
    """What the results of a claim's sweeps say.

    verdict: by the claim's rule, a p-value taken as it is. effect: the number that the rule looks at first, and of
    what. p: the verdict's, NaN where the rule is one of estimates alone. arms: the estimates that the verdict stands
    on, each with its n. remarks: what else was found, one sentence each.
    """

    verdict: Verdict
    effect: Estimate
    of: str
    p: float = math.nan
    arms: Arms = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One claim, with the rule that decides it, fixed before its sweeps were run.

    name: as in the table of claims, with a letter where a row of it holds several. words: the claim. source: who says
    it. sweeps: names of the sweeps whose results it needs, files of experiments/claims/. statistic: what is computed.
    rule: when it holds, and when it does not; in every other case it is undecided. judge: applies the rule. axis: what
    the arms are, as the label of a figure. beyond: what these sweeps cannot decide, and what would. draw: a further
    figure. metrics: those of the rows that judge and draw need. needs: runs an arm takes. test: gives the p-value of a
    verdict whose `judge` was committed without one, from the results and that verdict.
    """

    name: str
    words: str
    source: str
    sweeps: tuple[str, ...]
    statistic: str
    rule: str
    judge: Callable[[Mapping[str, Results]], Judgement]
    axis: str
    beyond: str = ""
    draw: Callable[[Mapping[str, Results]], Figure] | None = None
    metrics: tuple[str, ...] = ()
    needs: int | None = None
    test: Callable[[Mapping[str, Results], Verdict], float] | None = None


@dataclass(frozen=True)
class Finding:
    """A claim and its verdict, after Holm's correction.

    judgement: None where sweeps are missing. adjusted: the corrected p-value, NaN where there is none.
    """

    claim: Claim
    judgement: Judgement | None
    missing: tuple[str, ...] = ()
    adjusted: float = math.nan

    @property
    def verdict(self) -> Verdict:
        """Undecided where sweeps are missing, or where the corrected p-value is not below ALPHA."""
        if self.judgement is None:
            return "undecided"
        return "undecided" if self.adjusted >= ALPHA else self.judgement.verdict

    @property
    def why(self) -> str:
        """What else there is to say about the verdict, in sentences."""
        if self.judgement is None:
            commands = ", ".join(f"`{_command(name)}`" for name in self.missing)
            return f"Not judged: needs {commands}."
        notes = list(self.judgement.remarks)
        if self.verdict != self.judgement.verdict:
            notes.append(f"After Holm's correction p = {self.adjusted:.2g}, so it stays undecided.")
        if self.verdict == "undecided":
            notes.append(self._would_decide(self.judgement))
        if self.claim.beyond:
            notes.append(self.claim.beyond)
        return " ".join(notes)

    def _would_decide(self, judgement: Judgement) -> str:
        """How many runs like these would decide it."""
        commands = ", ".join(f"`{_command(name)}`" for name in self.claim.sweeps)
        enough = estimates.runs_to_find(judgement.p, judgement.effect.n, level=1 - ALPHA / FAMILY)
        if enough is None:
            return f"What was seen is near neither side of the rule: more seeds of {commands} would not decide it."
        notes = [f"With more seeds these may decide it: {commands}."]
        if self.claim.needs is not None:
            notes.append(f"An arm needs n = {self.claim.needs} runs.")
        unit, there = judgement.effect.unit, judgement.effect.n
        return " ".join([*notes, f"An effect as seen takes about {enough} {unit}, of which there are {there}."])


def _command(sweep: str) -> str:
    return f"harness sweep experiments/claims/{sweep}.yaml"


def _judged(claim: Claim, results: Mapping[str, Results]) -> Judgement:
    """What the results say, undecided with the reason where they lack what the claim compares."""
    try:
        found = claim.judge(results)
        return found if claim.test is None else replace(found, p=claim.test(results, found.verdict))
    except InputError as error:
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        reasons = tuple(f"Not judged: {problem}." for problem in error.problems)
        return Judgement("undecided", nothing, "nothing to compare", remarks=reasons)


def judge(claims: Sequence[Claim], results: Mapping[str, Results]) -> tuple[Finding, ...]:
    """What the results of several sweeps, by name, say about claims; p-values corrected over the claims judged."""
    judged: dict[str, Judgement] = {}
    missing = {claim.name: tuple(name for name in claim.sweeps if name not in results) for claim in claims}
    for claim in claims:
        if not missing[claim.name]:
            judged[claim.name] = _judged(claim, results)
    adjusted = estimates.holm({name: each.p for name, each in judged.items()})
    return tuple(
        Finding(claim, judged.get(claim.name), missing[claim.name], adjusted.get(claim.name, math.nan))
        for claim in claims
    )
