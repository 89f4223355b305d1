"""The examples of the page "In your model" run as they are printed, from top to bottom, and do what is said of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normcore import BatchRenorm, FusedNorm

PAGE = Path(__file__).parents[3] / "book" / "in-your-model.md"


@pytest.mark.usefixtures("seed")
def test_every_example_runs_and_does_what_is_said() -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 9
    for block in blocks:
        exec(block, names)
    model, loader = names["model"], names["loader"]
    assert [type(model[i][1]) for i in (0, 1)] == [BatchRenorm] * 2
    assert all(m.frozen for m in names["frozen"].modules() if isinstance(m, BatchRenorm))
    hidden = torch.cat([model[0][0](x) for x in loader])
    torch.testing.assert_close(names["averaged"].module[0][1].running_mean, hidden.mean((0, 2, 3)))
    assert names["difference"].abs().max() < 1e-5
    assert sum(isinstance(m, FusedNorm) for m in names["fused"].modules()) == 2
    assert model[0][1].num_batches_tracked == 1
    twin = nn.Sequential(model[0][0], nn.BatchNorm2d(8))
    names["checkpoint"](twin, loader[0], use_reentrant=False).sum().backward()
    assert twin[1].num_batches_tracked == 2
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in names["synchronized"].modules()) == 2
    torch.testing.assert_close(names["exported"](loader[1][:3]), names["fused"](loader[1][:3]))
