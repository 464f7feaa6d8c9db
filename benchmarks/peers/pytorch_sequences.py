"""The same VAE of windows in PyTorch: GRU, dilated convolutions or a Transformer, with gaps and padding."""

import itertools
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from peers import sequences
from peers.architectures import LOG_2_PI, MIN_SCALE, RAW_SHIFT
from peers.peer import EPSILON, LEARNING_RATE

# The defaults of tfvae's networks.
UNITS, FILTERS, WIDTH, HEADS, BLOCKS, DILATIONS, COARSE = 64, 32, 64, 4, 2, (1, 2, 4, 8), 8
T, C, L = sequences.NUM_STEPS, sequences.CHANNELS, sequences.LATENT_DIM


def dense(*widths: int) -> nn.Sequential:
    """Dense layers, each with its activation."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(module for pair in pairs for module in (nn.Linear(*pair), nn.SiLU())))


class Convolutions(nn.Module):
    """Dilated convolutions of [B, F, T], each added to what it reads."""

    def __init__(self, dilations: tuple[int, ...], causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(FILTERS, FILTERS, 3, dilation=dilation) for dilation in dilations)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The features [B, F, T]."""
        for layer in self.layers:
            reach = 2 * layer.dilation[0]
            x = x + functional.silu(layer(functional.pad(x, (reach, 0) if self.causal else (reach // 2, reach // 2))))
        return x


class Block(nn.Module):
    """A block of rotary attention and dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(WIDTH, eps=1e-3)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.after = nn.LayerNorm(WIDTH, eps=1e-3)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        half = WIDTH // HEADS // 2
        angles = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """The heads [B, N, T, H] of [B, T, F]."""
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """The heads turned by their positions."""
        first, second = self.heads(x).chunk(2, -1)
        return torch.cat([first * self.cos - second * self.sin, first * self.sin + second * self.cos], -1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The features [B, T, F]."""
        y = self.before(x)
        query, key, value = self.turned(self.query(y)), self.turned(self.key(y)), self.heads(self.value(y))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.silu(self.wide(self.after(x))))


class Recurrent(nn.Module):
    """The networks with a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.GRU(2 * C, UNITS, batch_first=True)
        self.summary = dense(2 * UNITS + 1, 64, 32)
        self.code, self.shown, self.start = dense(L, 64), nn.Linear(64, UNITS), nn.Linear(64, UNITS)
        self.writer, self.last = nn.GRU(UNITS, UNITS, batch_first=True), nn.Linear(UNITS, C)

    def steps(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The features [B, T, F] of the steps."""
        return self.reader(x)[0]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The locations [B, T, C]."""
        code = self.code(z)
        shown = self.shown(code)[:, None].expand(-1, T, -1)
        return self.last(self.writer(shown, self.start(code)[None])[0])

    def parts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers of the encoder and of the decoder, in the order of those of Keras."""
        return [self.reader, *self.summary], [*self.code, self.shown, self.start, self.writer, self.last]


class Temporal(nn.Module):
    """The networks with dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.reader = nn.Linear(2 * C, FILTERS), Convolutions(DILATIONS, causal=True)
        self.summary = dense(2 * FILTERS + 1, 64, 32)
        self.code = dense(L, 64, T // COARSE * FILTERS)
        self.writer, self.last = Convolutions(DILATIONS[::-1], causal=False), nn.Linear(FILTERS, C)

    def steps(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The features [B, T, F] of the steps."""
        return self.reader(self.first(x).mT).mT

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The locations [B, T, C]."""
        coarse = self.code(z).unflatten(-1, (-1, FILTERS)).mT
        return self.last(self.writer(coarse.repeat_interleave(COARSE, -1)).mT)

    def parts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers of the encoder and of the decoder, in the order of those of Keras."""
        return [self.first, *self.reader.layers, *self.summary], [*self.code, *self.writer.layers, self.last]


class Transformer(nn.Module):
    """The networks with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.reader = nn.Linear(2 * C, WIDTH), nn.ModuleList(Block() for _ in range(BLOCKS))
        self.reader_norm, self.summary = nn.LayerNorm(WIDTH, eps=1e-3), dense(2 * WIDTH + 1, 64, 32)
        self.code, self.shown = dense(L, 64), nn.Linear(64, WIDTH)
        self.positions = nn.Parameter(torch.zeros(T, WIDTH))
        self.writer, self.writer_norm = nn.ModuleList(Block() for _ in range(BLOCKS)), nn.LayerNorm(WIDTH, eps=1e-3)
        self.last = nn.Linear(WIDTH, C)

    def steps(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The features [B, T, F] of the steps."""
        x, attended = self.first(x), mask[:, None, None, :, 0] > 0
        for block in self.reader:
            x = block(x, attended)
        return self.reader_norm(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The locations [B, T, C]."""
        x = self.shown(self.code(z))[:, None] + self.positions
        for block in self.writer:
            x = block(x, None)
        return self.last(self.writer_norm(x))

    def parts(self) -> tuple[list, list]:
        """The layers of the encoder and of the decoder, in the order of those of Keras."""
        reader, writer = (
            [
                layer
                for block in blocks
                for layer in (
                    *(block.before, block.query, block.key, block.value, block.out, block.after, block.wide),
                    block.narrow,
                )
            ]
            for blocks in (self.reader, self.writer)
        )
        encoder = [self.first, *reader, self.reader_norm, *self.summary]
        return encoder, [*self.code, self.shown, self.positions, *writer, self.writer_norm, self.last]


KINDS = {"recurrent": Recurrent, "temporal": Temporal, "transformer": Transformer}


class VAE(nn.Module):
    """A variational autoencoder of windows [B, T, C], with NaN for what is missing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.network = KINDS[kind]()
        self.loc, self.scale = nn.Linear(32, L), nn.Linear(32, L)

    def load(self, weights: list[np.ndarray]) -> None:
        """Sets the weights from the arrays of Keras."""
        arrays = iter(weights)
        encoder, decoder = self.network.parts()
        with torch.no_grad():
            for module in (*encoder, self.loc, self.scale, *decoder):
                _load(module, arrays)
        if next(arrays, None) is not None:
            raise ValueError("Keras has more weights than PyTorch")

    def forward(self, x: torch.Tensor, epsilon: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of x, at the given noise [B, L] or at new noise."""
        is_observed = ~x.isnan()
        filled = torch.where(is_observed, x, 0.0)
        number = torch.arange(1, T + 1)[:, None]
        length = (is_observed.any(-1, keepdim=True) * number).amax(1, keepdim=True)
        mask = (number <= length).float()
        steps = self.network.steps(torch.cat([filled, is_observed.float()], -1), mask)
        last = steps.gather(1, (length - 1).clamp(0).expand(-1, -1, steps.shape[-1]))[:, 0]
        mean = (steps * mask).sum(1) / length[:, 0]
        features = self.network.summary(torch.cat([last, mean, length[:, 0].float().log()], -1))
        loc, scale = self.loc(features), functional.softplus(self.scale(features) + RAW_SHIFT) + MIN_SCALE
        z = loc + scale * (torch.randn_like(loc) if epsilon is None else epsilon)
        error = torch.where(is_observed, (filled - self.network.decode(z)).square() + LOG_2_PI, 0.0)
        kl = ((loc.square() + scale.square() - 1) / 2 - scale.log()).sum(-1)
        return (kl + error.sum((1, 2)) / 2).mean()


def _load(module: nn.Module | nn.Parameter, arrays: object) -> None:
    if isinstance(module, nn.SiLU):
        return
    first = torch.from_numpy(next(arrays))
    if isinstance(module, nn.Parameter):
        module.copy_(first)
        return
    if isinstance(module, nn.GRU):
        recurrent, bias = torch.from_numpy(next(arrays)), torch.from_numpy(next(arrays))
        # The gates are z, r, h in Keras and r, z, n in PyTorch.
        named = ((module.weight_ih_l0, first.T), (module.weight_hh_l0, recurrent.T))
        for parameter, array in (*named, (module.bias_ih_l0, bias[0]), (module.bias_hh_l0, bias[1])):
            update, reset, new = array.chunk(3)
            parameter.copy_(torch.cat([reset, update, new]))
        return
    if isinstance(module, nn.Conv1d):
        module.weight.copy_(first.permute(2, 1, 0))
    elif isinstance(module, nn.LayerNorm):
        module.weight.copy_(first)
    else:
        module.weight.copy_(first.reshape(module.in_features, module.out_features).T)
    module.bias.copy_(torch.from_numpy(next(arrays)).flatten())


class TorchSequences:
    """The VAE in PyTorch, eager or compiled.

    Args:
        kind: "recurrent", "temporal" or "transformer".
        batch_size: B, the number of windows in a step.
        compiled: whether `torch.compile` compiles the loss and its gradient.
    """

    def __init__(self, kind: str, batch_size: int, compiled: bool = False) -> None:
        torch.set_num_threads(int(os.environ.get("TF_NUM_INTRAOP_THREADS") or len(os.sched_getaffinity(0))))
        torch.manual_seed(0)
        self._model, self._batch_size, self._x = VAE(kind), batch_size, None
        self._loss = torch.compile(self._model, dynamic=False) if compiled else self._model
        self._optimizer = torch.optim.Adam(self._model.parameters(), LEARNING_RATE, eps=EPSILON, fused=True)

    def load(self, weights: list[np.ndarray]) -> None:
        """Sets the weights from the arrays of Keras."""
        self._model.load(weights)

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of windows [B, T, C] at given noise [1, B, L]."""
        with torch.no_grad():
            return float(self._model(torch.from_numpy(x), torch.from_numpy(epsilon[0])))

    def epoch(self, steps: int) -> float:
        """The seconds of an epoch of so many steps, in a new order."""
        if self._x is None:
            self._x = torch.from_numpy(sequences.data(steps * self._batch_size))
        start = time.perf_counter()
        for rows in torch.randperm(len(self._x)).split(self._batch_size):
            self._optimizer.zero_grad(set_to_none=True)
            self._loss(self._x.index_select(0, rows)).backward()
            self._optimizer.step()
        return time.perf_counter() - start
