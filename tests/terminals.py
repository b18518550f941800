"""Commands on a pseudo-terminal, where programs ask questions."""

import contextlib
import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def without_login(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a user whose home is an empty folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NETRC"))}
    return kept | {"HOME": str(folder), "NETRC": str(folder / "netrc")} | variables


def on_terminal(command: Sequence[str], environment: Mapping[str, str], timeout: float = 90) -> tuple[int, str]:
    """The exit code of a command, and what it said to a terminal that never answers (its standard error)."""
    terminal, of_command = pty.openpty()
    try:
        done = subprocess.run(
            command,
            stdin=of_command,
            stdout=subprocess.PIPE,
            stderr=of_command,
            timeout=timeout,
            check=False,
            env={**environment, "TERM": "xterm"},
        )
        said = os.read(terminal, 10_000).decode()
    finally:
        os.close(of_command)
        os.close(terminal)
    return done.returncode, said


def shown_on_terminal(command: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command, and all that it wrote to a terminal of 80 columns."""
    terminal, of_command = pty.openpty()
    process = subprocess.Popen(
        command, stdin=of_command, stdout=of_command, stderr=of_command, env={**os.environ, "TERM": "xterm"}
    )
    os.close(of_command)
    said = b""
    with contextlib.suppress(OSError):  # the end of the other side
        while chunk := os.read(terminal, 10_000):
            said += chunk
    os.close(terminal)
    return process.wait(timeout=60), said.decode()
