"""The parity gate of hosting: an adapter answers only once it answers as it did when its training ended.

All recorded prompts and answers are one packed forward pass through the very network that will answer. Knows networks
and adapters by their key; nothing of requests.
"""

from pathlib import Path

import torch

from tunewise.modeling.parity import (
    Decode,
    Precision,
    read_logits,
    read_parity,
    require_parity,
    require_vocabulary,
    tolerance,
)
from tunewise.serve.attention import PromptSpan, StepLayout
from tunewise.serve.kv import Strip
from tunewise.serve.network import Network

PRECISIONS: dict[torch.dtype, Precision] = {torch.float32: "hosted float32", torch.bfloat16: "bfloat16"}


def replay(network: Network, key: int, name: str, directory: Path, decode: Decode) -> None:
    """Hold what `network` computes with the adapter `key` to what lies in its directory, where something does.

    Raises:
        ModelError: parity_failed, naming the prompt; unreadable_parity.
    """
    parity = read_parity(directory)
    if parity is None:
        return
    require_vocabulary(parity, network.vocabulary, directory)
    ids: list[int] = []
    positions: list[int] = []
    picked: list[int] = []
    spans = []
    for each in parity.prompts:
        row, start = [*each.prompt, *each.continuation[:-1]], len(ids)
        ids += row
        positions += range(len(row))
        picked += range(len(ids) - len(each.continuation), len(ids))
        spans.append(PromptSpan(start, len(ids), Strip(network.kv_shape, len(row)), 0))
    network.route([key] * len(ids), 0)
    logits = network.forward(torch.tensor(ids), torch.tensor(positions), StepLayout(spans=spans), torch.tensor(picked))
    read = iter(read_logits(logits, [token for each in parity.prompts for token in each.continuation]))
    readings = [[next(read) for _ in each.continuation] for each in parity.prompts]
    allowed = tolerance(PRECISIONS[network.dtype], parity.dtype)
    require_parity(parity.prompts, readings, allowed, what=f"{name!r} from {directory}", decode=decode)
