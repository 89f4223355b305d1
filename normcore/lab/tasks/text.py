"""The next character of a text: an LSTM, and a small pre-norm transformer, each with a slot for a normalizer."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..config import RunConfig
from ..errors import DataError, UsageError, unknown
from ..files import write_text
from . import datasets
from .networks import spatial_only
from .task import Batch, MakeNorm, Task

LENGTH = 64  # characters of a window, unless the task's options say otherwise


class NextCharacter(Task):
    """The next character at every position of a window, by cross-entropy (nats a character).

    The first nine tenths of the text are trained on, the last tenth is held out; both are cut into windows of
    ``length`` characters (a task option). ``validation`` windows are the last ones of the training part. What is read
    step by step is looked at in windows of twice the length, too.
    """

    unit: ClassVar[str] = "windows"
    probes: ClassVar[tuple[str, ...]] = (*Task.probes, "steps")
    option: ClassVar[tuple[str, int]] = "length", LENGTH  # of the task, and what it is unless told otherwise
    models: ClassVar[tuple[str, ...]] = "lstm", "transformer"

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.answers = int(config.task_options.get(*self.option))
        self.text = text = load(config.dataset)
        self.codes = torch.from_numpy(text.codes).long().to(device)
        train, test = self._cut()
        kept = len(train) - config.validation
        if kept < config.batch_size:
            raise UsageError(
                f"{config.dataset} has {len(train)} {self.unit} of {self.answers} characters to train on: too few for "
                f"batch_size={config.batch_size} and validation={config.validation}"
            )
        self.items, self.held_items = train[:kept], train[kept:] if config.validation else test

    def _cut(self) -> tuple[Tensor, Tensor]:
        """Where in the text each window begins that is trained on, and each that is not."""
        starts = torch.arange(0, len(self.codes) - self.answers, self.answers, device=self.device)
        return starts[starts + self.answers < self.text.train], starts[starts >= self.text.train]

    @classmethod
    def check(cls, config: RunConfig) -> None:
        texts = [name for name, entry in datasets.registry().items() if entry.text]
        for name, names in {"dataset": texts, "model": cls.models}.items():
            if getattr(config, name) not in names:
                raise unknown("text" if name == "dataset" else name, getattr(config, name), names)
        option, usual = cls.option
        for name in config.task_options.keys() - {option}:
            raise unknown(f"option of the task {config.task}", name, [option])
        length = config.task_options.get(option, usual)
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise UsageError(f"{option} must be a number of characters, at least 1, got {length!r}")
        for name in ("image_size", "outliers", "foreign"):
            if getattr(config, name):
                raise UsageError(f"{name} is of images: a run on text has none, got {getattr(config, name)!r}")
        where = f"and cannot stand in {config.model}, which gives it single tokens"
        if config.norm == "vbn":
            raise UsageError(f"vbn keeps one reference batch for every call, {where}")
        if spatial_only(config.norm):
            raise UsageError(f"{config.norm} needs positions beside channels, {where}")

    @classmethod
    def prepare(cls, config: RunConfig) -> None:
        load(config.dataset)

    def network(self, norm: MakeNorm) -> nn.Module:
        return MODELS[self.config.model](norm, len(self.text.alphabet), self.answers, **self.config.model_options)

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        return self._windows(index, self.answers)

    def _windows(self, starts: Tensor, length: int) -> Batch:
        windows = self.codes[starts[:, None] + torch.arange(length + 1, device=self.device)]
        return windows[:, :-1], windows[:, 1:]

    def long(self) -> Iterator[Batch]:
        length = self.answers * (2 if self.config.model == "lstm" else 1)  # a transformer has no later positions
        first, last = int(self.held_items[0]), int(self.held_items[-1])
        starts = torch.arange(first, last + self.answers - length + 1, length, device=self.device)
        for some in starts.split(125):
            yield self._windows(some, length)

    def provenance(self) -> dict[str, Any]:
        return {"fingerprint": self.text.fingerprint, "origin": self.text.origin, "characters": len(self.text.codes)}


@dataclass(frozen=True)
class Text:
    """A text as numbers.

    Attributes:
        alphabet: its characters, in order.
        codes: each character's place in the alphabet.
        train: so many characters at the beginning are trained on.
        fingerprint: hash of the text.
        origin: where it came from: ``embedded``, ``NORMCORE_DATA``, ``cache`` or ``hub``.
    """

    alphabet: str
    codes: NDArray[np.int32]
    train: int
    fingerprint: str
    origin: str


@functools.lru_cache(maxsize=4)
def load(name: str) -> Text:
    """The text of this name.

    Raises:
        UsageError: unknown name.
        DataError: not found anywhere, or not readable; it names the file.
    """
    entry = datasets.find(name)
    characters, origin = _read(entry)
    digest = hashlib.sha256(characters.encode()).hexdigest()[:16]
    if entry.items and len(characters) != sum(entry.items.values()):
        wanted = sum(entry.items.values())
        raise DataError(f"{name} ({origin}): {len(characters)} characters, {wanted} expected; get it again")
    alphabet = "".join(sorted(set(characters)))
    points = np.frombuffer(characters.encode("utf-32-le"), dtype=np.uint32)
    codes = np.searchsorted(np.array([ord(c) for c in alphabet], dtype=np.uint32), points).astype(np.int32)
    return Text(alphabet, codes, len(codes) * 9 // 10, digest, origin)


def _read(entry: datasets.Entry) -> tuple[str, str]:
    """(the text, where it came from)."""
    if entry.embedded:
        return _descriptions(), "embedded"
    files = datasets.text_files(entry)
    for origin, path in files.items():
        if path.is_file():
            return _decoded(path), origin
    stored = datasets.from_hub(entry)
    characters = "".join(row["text"] for split in ("train", "validation", "test") for row in stored[split])
    write_text(files["cache"], characters)
    return characters, "hub"


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a text in UTF-8 ({error}): get it again") from error


def _descriptions() -> str:
    """What scikit-learn's data sets say of themselves, one after another."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "descr"
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst")))


class PerStep(nn.ModuleList):
    """A normalizer for every time step, with running averages of its own and one scale and shift for all; a step beyond
    the last takes the last's (Cooijmans et al. 2017, sections 3 and 4).

    Args:
        norm: makes a normalizer.
        channels: of a step.
        steps: so many have their own.
    """

    def __init__(self, norm: MakeNorm, channels: int, steps: int) -> None:
        super().__init__(norm(channels) for _ in range(steps))
        first, *others = self
        for layer in others:
            for name, shared in first.named_parameters(recurse=False):
                setattr(layer, name, shared)

    def at(self, step: int) -> nn.Module:
        """The normalizer of a time step, from 0 on."""
        return self[min(step, len(self) - 1)]


class LSTM(nn.Module):
    r"""One layer of LSTM (Hochreiter & Schmidhuber 1997) with a normalizer at every step, as Cooijmans et al. 2017,
    equations 6 to 8, and Ba, Kiros & Hinton 2016 have it:

    .. math:: (f, i, o, g) = N_h(W_h h_{t-1}) + N_x(W_x x_t) + b, \quad
              c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh(g), \quad h_t = \sigma(o) \tanh(N_c(c_t))

    A normalizer is given the channels of a batch at one step, (N, C), and is the same one at every step: where it
    keeps running averages, those are over all steps, unless told otherwise.

    Args:
        norm: makes a normalizer.
        characters: of the alphabet.
        length: of what is trained on; any length is read.
        width: units.
        per_step: whether each of the first ``length`` steps has running averages of its own; see :class:`PerStep`.
        scale: what the normalizers' scales start at; Cooijmans et al. have 0.1.
    """

    def __init__(
        self, norm: MakeNorm, characters: int, length: int, width: int = 128, per_step: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()

        def normalizer(channels: int) -> nn.Module:
            layer = PerStep(norm, channels, length) if per_step else norm(channels)
            for name, values in layer.named_parameters():
                if scale != 1 and name.endswith("weight"):
                    nn.init.constant_(values, scale)
            return layer

        self.width = width
        self.embedding = nn.Embedding(characters, width)
        self.input, self.hidden = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width, bias=False)
        self.norm_input, self.norm_hidden, self.norm_cell = map(normalizer, (4 * width, 4 * width, width))
        self.head = nn.Linear(width, characters)
        with torch.no_grad():
            self.input.bias[:width] = 1.0  # remember at first (Jozefowicz, Zaremba & Sutskever 2015)

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        """Scores of what follows each of the characters.

        Args:
            x: characters, (N, T); or of sequences of different lengths, packed, L in all. Then a step is that of the
                sequences that are not at their end; where one alone is left, which has no statistics of a batch, it is
                normalized as in evaluation mode.

        Returns:
            (N, characters, T); or (L, characters).
        """
        from_input = F.linear(self.embedding(x.data), self.input.weight)
        steps = from_input.split(x.batch_sizes.tolist()) if isinstance(x, PackedSequence) else from_input.unbind(1)
        h = c = from_input.new_zeros(len(steps[0]), self.width)
        states = []
        for step, at_step in enumerate(steps):
            if len(at_step) < len(h):
                h, c = h[: len(at_step)], c[: len(at_step)]
            alone = isinstance(x, PackedSequence) and len(at_step) == 1
            from_state = _normalized(self.norm_hidden, step, alone, self.hidden(h))
            gates = from_state + _normalized(self.norm_input, step, alone, at_step) + self.input.bias
            forget, enter, leave, new = gates.chunk(4, 1)
            c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
            h = torch.sigmoid(leave) * torch.tanh(_normalized(self.norm_cell, step, alone, c))
            states.append(h)
        if isinstance(x, PackedSequence):
            return self.head(torch.cat(states))
        return self.head(torch.stack(states, 1)).movedim(-1, 1)


def _normalized(layer: nn.Module, step: int, alone: bool, x: Tensor) -> Tensor:
    """x, (N, C), by the layer of a step; what is ``alone`` as in evaluation mode."""
    own = layer.at(step) if isinstance(layer, PerStep) else layer
    if not (alone and own.training):
        return own(x)
    own.eval()
    y: Tensor = own(x)
    own.train()
    return y


class Tokenwise(nn.Module):
    """A normalizer over the channels of single tokens: (N, T, C) is given to it as (N T, C).

    So what normalizes a sample by itself normalizes a token by itself, and sees no later one. Batch statistics are over
    all tokens of the batch, later ones among them.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (N, T, C)."""
        normalized: Tensor = self.norm(x.flatten(0, 1))
        return normalized.view_as(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the block with the normalizer before each part (Xiong et al.
    2020), causal."""

    def __init__(self, norm: MakeNorm, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = Tokenwise(norm(width)), Tokenwise(norm(width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x, (N, T, C)."""
        q, k, v = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norm_mlp(x))
        return x


class Transformer(nn.Module):
    """A decoder of pre-norm blocks with learned positions, and a normalizer before the head.

    Args:
        norm: makes a normalizer, which is given tokens; see :class:`Tokenwise`.
        characters: of the alphabet.
        length: of a window, at most.
        width, heads, blocks: its size.
        embedding_scale: whether a learned scalar stands behind the embeddings, which begins with the square root of the
            width (Zhu et al. 2025, for what has no statistics: without it the values are too small for it to be more
            than linear; Vaswani et al. 2017 have the same scalar, fixed).
    """

    def __init__(
        self, norm: MakeNorm, characters: int, length: int, width: int = 64, heads: int = 4, blocks: int = 2,
        embedding_scale: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise UsageError(f"width must be a multiple of heads, got width={width} and heads={heads}")
        self.embedding, self.positions = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(norm, width, heads) for _ in range(blocks)))
        self.norm, self.head = Tokenwise(norm(width)), nn.Linear(width, characters)
        for module in self.modules():  # as GPT-2 has it: the default of an embedding is too large for no normalizer
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.scale = nn.Parameter(torch.tensor(width**0.5)) if embedding_scale else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, characters, T) of what follows each of the characters x, (N, T)."""
        y = self.scale * (self.embedding(x) + self.positions.weight[: x.shape[1]])
        return self.head(self.norm(self.blocks(y))).movedim(-1, 1)


MODELS: dict[str, Callable[..., nn.Module]] = {"lstm": LSTM, "transformer": Transformer}
