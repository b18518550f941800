"""The error rates that the paper reports (arXiv:1602.07261, Tables 2 to 5), on ImageNet's validation images."""

from __future__ import annotations

from dataclasses import dataclass

from harness.evaluation.protocols import Protocol


@dataclass(frozen=True)
class Published:
    """One row: errors in percent. network: its name in the table of architectures, where it is a row of that."""

    table: int
    network: str
    protocol: Protocol
    top1: float | None
    top5: float
    networks: int = 1


PAPER = (
    Published(2, "BN-Inception", "single", 25.2, 7.8),
    Published(2, "inception_v3", "single", 21.2, 5.6),
    Published(2, "inception_resnet_v1", "single", 21.3, 5.5),
    Published(2, "inception_v4", "single", 20.0, 5.0),
    Published(2, "inception_resnet_v2", "single", 19.9, 4.9),
    Published(3, "ResNet-152", "ten_crop", 21.4, 5.7),
    Published(3, "inception_v3", "twelve_crop", 19.8, 4.6),
    Published(3, "inception_resnet_v1", "twelve_crop", 19.8, 4.6),
    Published(3, "inception_v4", "twelve_crop", 18.7, 4.2),
    Published(3, "inception_resnet_v2", "twelve_crop", 18.7, 4.1),
    Published(4, "ResNet-152", "dense", 19.4, 4.5),
    Published(4, "inception_v3", "multi_crop_144", 18.9, 4.3),
    Published(4, "inception_resnet_v1", "multi_crop_144", 18.8, 4.3),
    Published(4, "inception_v4", "multi_crop_144", 17.7, 3.8),
    Published(4, "inception_resnet_v2", "multi_crop_144", 17.8, 3.7),
    Published(5, "ResNet-152", "dense", None, 3.6, networks=6),
    Published(5, "inception_v3", "multi_crop_144", 17.3, 3.6, networks=4),
    Published(5, "inception_v4 + 3 x inception_resnet_v2", "multi_crop_144", 16.5, 3.1, networks=4),
)
NOTES = {
    2: "validation images without about 1,700 blacklisted ones; all of them add about 0.3 (top-1) and 0.15 (top-5)",
    3: "which twelve crops is not said; ours are a guess",
    4: "on all 50,000 validation images",
    5: "on all 50,000 validation images; 16.5 is arXiv's, the AAAI version has 16.4",
}


def beside(protocol: Protocol, networks: int) -> list[Published]:
    """The paper's rows to put beside an evaluation of so many networks: those of the tables that have its protocol."""
    tables = {row.table for row in PAPER if row.protocol == protocol and (row.networks > 1) == (networks > 1)}
    return [row for row in PAPER if row.table in tables]
