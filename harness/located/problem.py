"""The one error of unusable input."""

from __future__ import annotations

from collections.abc import Iterable

from harness.plain import plain


class InputError(Exception):
    """Unusable input: every problem at once, each one line `place: what was found, what is allowed`. Exit code 2."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(map(plain, problems)))
        super().__init__("\n".join(self.problems))
