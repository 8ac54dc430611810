"""NEFTune: noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914). Knows rows' lengths only."""

from collections.abc import Sequence

import torch
from torch import Tensor


def with_noise(embedded: Tensor, lengths: Sequence[int], alpha: float) -> Tensor:
    """Embeddings with uniform noise between -s and s added, s = alpha / sqrt(length * d_model) of each token's row.

    embedded: (tokens, d_model), rows of `lengths` tokens end to end. The noise is drawn from torch's random state,
    which checkpoints keep. A row's length counts its tokens up to the last that carries loss; no later is computed.
    """
    row = torch.tensor(lengths, device=embedded.device)
    scale = (alpha / torch.sqrt(row * embedded.shape[1])).repeat_interleave(row)
    noise = torch.empty_like(embedded).uniform_(-1.0, 1.0)
    return embedded + noise * scale[:, None].to(embedded.dtype)
