"""What the tests of the core share: devices, shapes, layouts, roundings, and the name of the case that failed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [(8, 4), (4, 4, 5), (3, 4, 2, 3), (2, 4, 2, 2, 3)]
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "expanded"]
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
HALF = [torch.bfloat16, torch.float16]
# half a unit in the last place and what a short computation adds to it
ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

# a file of one's own, with a layer, a function, a layer that is not finished, and what is no layer
MINE = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, channels, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x

def made(channels):
    return Mine(channels, 3.0)

class Unfinished(nn.Module):
    def __init__(self, channels):
        super().__init__()

NUMBER = 3
"""


def laid_out(x: Tensor, layout: str) -> Tensor:
    """x in another layout; expanded: its first instance, with stride 0 in place of the others."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.stack((x, x), -1)[..., 0]
    return x[:1].expand_as(x) if layout == "expanded" else x.contiguous()


def assert_near(found: Tensor, expected: Tensor, rounding: float) -> None:
    """Near in units of the largest expected value: what sums over the whole tensor may lose."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(found.detach().double(), expected, rtol=rounding, atol=rounding * max(largest, 1))


@contextmanager
def case(*what: object) -> Iterator[None]:
    """One case of a test that goes through several: if it fails, the report names it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {', '.join(map(str, what))}")
        raise


def filled(layer: nn.Module) -> nn.Module:
    """Parameters and running statistics as training would leave them, not ones and zeros."""
    for name, t in (*layer.named_parameters(), *layer.named_buffers()):
        if t.is_floating_point():
            nn.init.uniform_(t, 0.5, 2) if "var" in name else nn.init.normal_(t)
        elif "tracked" in name:
            t.fill_(7)
    return layer
