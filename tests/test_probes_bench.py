"""The measurement of what the instruments cost; its results are reported, not asserted."""

from __future__ import annotations

import pytest

from harness.bench.probes import Cost, bench_probes
from harness.config import DataConfig, ModelConfig, RunConfig


def test_a_share_is_the_mean_over_the_cadence_with_its_interval() -> None:
    cost = Cost("blocks", 50, 0.1, 0.2, 0, (0.4, 0.6, 0.5, 0.5))
    share, half = cost.share()
    assert share == pytest.approx(0.5 / 50)
    assert half == pytest.approx(3.182 * 0.081650 / 2 / 50, rel=1e-3)  # t(0.975, 3), standard deviation, root of 4
    assert cost.share(1) == pytest.approx((share * 50, half * 50))


def test_every_way_is_measured_and_shown() -> None:
    model = ModelConfig(width=0.05, repeats=(1, 1, 1))
    costs = bench_probes(RunConfig(model=model, data=DataConfig(batch_size=4)), pairs=2)
    names = ["prepool", "blocks", "full", "fastai's three .item()", "keeping activations", "outcome checks"]
    names += ["probe set, prepool", "probe set, blocks", "  its layers alone", "sharpness", "gradient noise"]
    assert [cost.name for cost in costs.costs] == names
    assert all(cost.plain > 0 and cost.firing > 0 and len(cost.extra) == 2 for cost in costs.costs)
    assert [cost.name for cost in costs.costs if cost.kept] == ["keeping activations"]
    lines = str(costs).splitlines()
    assert "inception_resnet_v2, width 0.05" in lines[0] and len(lines) == 2 + len(names)
    assert "target 2%, every step 8%" in lines[3]
    with pytest.raises(ValueError, match="at least 2"):
        bench_probes(RunConfig(), pairs=1)
