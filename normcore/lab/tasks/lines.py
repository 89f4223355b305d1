"""The next character of a line: sequences of different lengths."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from .task import Batch, Task
from .text import NextCharacter

LONGEST = 54  # characters


class NextCharacterOfLine(NextCharacter):
    """The character that follows each character of a line, by cross-entropy (nats a character). A batch is packed: a
    time step of it is that of the lines that are not at their end.

    Lines of the first nine tenths of the text are trained on where they have at most ``longest`` characters (a task
    option); those of the last tenth are held out, whatever their length. Empty lines are left out. ``validation`` lines
    are the last ones of the training part.
    """

    unit: ClassVar[str] = "lines"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    scores: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    probes: ClassVar[tuple[str, ...]] = ("steps", "statistics")
    replayed = False
    option: ClassVar[tuple[str, int]] = "longest", LONGEST
    models: ClassVar[tuple[str, ...]] = ("lstm",)

    def _cut(self) -> tuple[Tensor, Tensor]:
        ends = (self.codes == self.text.alphabet.find("\n")).nonzero().squeeze(1)
        self.starts, self.lengths = ends[:-1] + 1, ends.diff() - 1
        lines = self.lengths.nonzero().squeeze(1)
        trained = lines[self.starts[lines] + self.lengths[lines] < self.text.train]
        return trained[self.lengths[trained] <= self.answers], lines[self.starts[lines] >= self.text.train]

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        lengths = self.lengths[index]
        places = self.starts[index, None] + torch.arange(int(lengths.max()), device=self.device)
        packed = pack_padded_sequence(places, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return packed._replace(data=self.codes[packed.data]), self.codes[packed.data + 1]

    long = Task.long

    def measure(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        x, y = batch
        return (F.cross_entropy(model(x), y),)

    def evaluate(self, model: nn.Module, held: bool = True, batch_size: int = 125) -> dict[str, float]:
        """Mean cross-entropy and accuracy over all characters of the held-out lines, or of the training lines."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        for index in (self.held_items if held else self.items).split(batch_size):
            x, y = self.batch(index, held)
            scores = model(x)
            loss = F.cross_entropy(scores, y, reduction="sum")
            totals += torch.stack([loss.double(), (scores.argmax(1) == y).sum().double(), totals.new_tensor(len(y))])
        loss, right, characters = totals.tolist()
        return {"loss": loss / characters, "accuracy": right / characters}
