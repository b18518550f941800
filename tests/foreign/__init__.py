"""What other packages' networks are called and shaped like, as their own code printed it, and their names by ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.models import Network
from harness.models.weights.names import known_names


def keys_of(model: Network, source: str) -> Mapping[str, str]:
    """The keys of the first package so named, by ours."""
    return next(names.keys for names in known_names(model) if source in names.source)


def table(name: str) -> Iterator[list[str]]:
    """The lines of one of the tables in this folder, split at spaces."""
    for line in Path(__file__).with_name(name).read_text().splitlines():
        if not line.startswith("#"):
            yield line.split()
