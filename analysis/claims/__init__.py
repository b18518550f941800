"""The claims of QUESTION.md as declared objects: what each needs, the rule that decides it, and what results say.

from analysis import claims
from analysis.frames import results
findings = claims.judge(claims.CLAIMS, results.read_all(["experiments/results/filters", ...]))
"""

from analysis.claims import asynchrony, course, filters, mechanism, remedies, scoreboard, theory
from analysis.claims.claim import Claim, Finding, Judgement, judge

__all__ = ["CLAIMS", "Claim", "Finding", "Judgement", "judge", "scoreboard"]


def _order(claim: Claim) -> tuple[int, str]:
    number = claim.name.removeprefix("C").rstrip("abc")
    return int(number), claim.name


CLAIMS: tuple[Claim, ...] = tuple(
    sorted(
        (
            *filters.CLAIMS,
            *course.CLAIMS,
            *remedies.CLAIMS,
            *theory.CLAIMS,
            *asynchrony.CLAIMS,
            *mechanism.CLAIMS,
        ),
        key=_order,
    )
)
"""All claims, in the order of their numbers."""
