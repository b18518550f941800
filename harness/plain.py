"""Text from outside (names, paths, values, messages of other libraries) as a terminal may show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def plain(text: object) -> str:
    r"""Text in one line that moves no cursor: whatever cannot be printed is escaped, a line feed as `\n`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def shown(text: object) -> Text:
    """Text for a rich console or table: line by line as `plain`, and without markup: `[bold]` stays `[bold]`."""
    from rich.text import Text

    return Text("\n".join(map(plain, str(text).splitlines())))
