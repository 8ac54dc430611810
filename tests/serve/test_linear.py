"""Packed and joined linear layers compute what the plain ones do, with and without adapters."""

import copy

import numpy as np
import torch
from torch import nn

from tunewise.serve.adapters import NO_ADAPTER, AdapterRows, LoraPair, Segment
from tunewise.serve.linear import PackedLinear, pack

ROWS = [1, 2, 7, 8, 33, 300]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(48, 64, bias=False), nn.Linear(48, 16), nn.Linear(48, 16)
        self.down_proj = nn.Linear(96, 24)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        together = torch.cat([self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)], dim=-1)
        out: torch.Tensor = self.down_proj(together)
        return out


def test_joined_layers_compute_what_the_plain_ones_do() -> None:
    plain = Block()
    packed = copy.deepcopy(plain)
    layers = pack(packed, AdapterRows())
    assert [layer.paths for layer in layers] == [("q_proj", "k_proj", "v_proj"), ("down_proj",)]
    with torch.inference_mode():
        for rows in ROWS:
            hidden = torch.randn(1, rows, 48)
            assert torch.allclose(packed(hidden), plain(hidden), atol=1e-5)


def test_rows_get_their_own_adapter_from_the_bank_and_in_segments() -> None:
    layers = [nn.Linear(32, 24, bias=False), nn.Linear(32, 8)]
    rows = AdapterRows()
    joined = PackedLinear(["q", "k"], layers, rows)
    pairs = {
        3: {"q": LoraPair(torch.randn(4, 32), torch.randn(24, 4))},
        5: {
            "q": LoraPair(torch.randn(2, 32), torch.randn(24, 2)),
            "k": LoraPair(torch.randn(6, 32), torch.randn(8, 6), magnitude=torch.rand(8) + 0.5),
        },
    }
    owners = [5, NO_ADAPTER, 3, 5, 5, 3, 3]
    hidden = torch.randn(1, len(owners), 32)
    with torch.inference_mode():
        expected = torch.cat([layer(hidden) for layer in layers], dim=-1)[0]
        for row, owner in enumerate(owners):
            for path, columns in (("q", slice(0, 24)), ("k", slice(24, 32))):
                if pair := pairs.get(owner, {}).get(path):
                    expected[row, columns] += pair.up @ (pair.down @ hidden[0, row])
                if pair and pair.magnitude is not None:
                    length = (layers[1].weight + pair.up @ pair.down).norm(dim=1)
                    bias = layers[1].bias
                    expected[row, columns] = (expected[row, columns] - bias) * pair.magnitude / length + bias
        for key, pair_by_path in pairs.items():
            joined.lora.put(key, pair_by_path)
        for bank in ([3, 5], [5, 3], [NO_ADAPTER, 5, 3], [3, 5, NO_ADAPTER]):
            joined.lora.fill(bank)
            single = [row for row in range(5) if owners[row] in pairs]
            rows.single, rows.slots = np.array(single), np.array([bank.index(owners[row]) for row in single])
            rows.segments = [Segment(5, 7, 3)]
            assert torch.allclose(joined(hidden)[0], expected, atol=1e-4)
        rows.single = np.empty(0, np.int64)
        rows.segments = [Segment(0, 1, 5), Segment(2, 3, 3), Segment(3, 5, 5), Segment(5, 7, 3)]
        assert torch.allclose(joined(hidden)[0], expected, atol=1e-4)
