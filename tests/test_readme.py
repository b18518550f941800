"""The README's sweep and its lines of Python work. That what it names exists: tests/test_documents.py."""

import re
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_sweep_expands() -> None:
    from harness.sweep.expand import expand

    (sweep,) = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "method" in block]
    assert len(expand(sweep, "README").configs) == 1 * 3 * 2 * 4


def test_its_lines_on_ones_own_network_work_on_torchvisions_resnet18() -> None:
    import torchvision

    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "observe" in block]
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()

    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "train": train}
    exec(code, names)
    frame = names["probe"].frame()
    assert "layer/layer4.1.relu/rms" in frame and "layer/layer4.1.relu/dead_share_batch" in frame
    assert list(frame.index) == [0, 1]
