"""The one error of unusable input."""

from __future__ import annotations

from collections.abc import Iterable

from harness.plain import plain

_LONGEST = 900


def _cut(problem: str) -> str:
    """A line that can be read: of a longer one the beginning and the end."""
    half = _LONGEST // 2
    return problem if len(problem) <= _LONGEST else f"{problem[:half]} ... {problem[-half:]}"


class InputError(Exception):
    """Unusable input: every problem at once, each one line `place: what was found, what is allowed`. Exit code 2."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(_cut(plain(problem)) for problem in problems))
        super().__init__("\n".join(self.problems))
