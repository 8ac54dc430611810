"""Noise on embeddings: as wide as the paper says, a row's own, and drawn from torch's random state."""

import math

import pytest
import torch

from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Rendered
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.noise import with_noise
from tunewise.modeling.packing import pack, packed_loss

ALPHA, WIDTH = 5.0, 64


def test_each_rows_noise_is_as_wide_as_its_length_says() -> None:
    torch.manual_seed(0)
    noise = with_noise(torch.zeros(104, WIDTH), (4, 100), ALPHA)
    for rows, length in ((noise[:4], 4), (noise[4:], 100)):
        widest = ALPHA / math.sqrt(length * WIDTH)
        assert rows.abs().max().item() == pytest.approx(widest, rel=0.02)
        assert rows.abs().max().item() <= widest
        assert rows.abs().mean().item() == pytest.approx(widest / 2, rel=0.1)
        assert rows.mean().item() == pytest.approx(0.0, abs=widest / 10)


def test_the_random_state_decides_the_noise() -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(with_noise(torch.zeros(9, WIDTH), (4, 5), ALPHA))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@torch.no_grad()
def test_the_noise_of_one_row_equals_a_hook_on_the_embeddings_of_transformers(tiny_model: BaseModelRef) -> None:
    """transformers' own hook draws between -s and s for a padded batch; a batch of one row has no padding."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    model = load_frozen(tiny_model, "float32")
    packed = pack([Rendered(list(range(20, 60)), [0] * 20 + [1] * 20)], share_prefixes=False)
    torch.manual_seed(3)
    ours = packed_loss(model, packed, noise_alpha=ALPHA).losses
    embeddings = model.get_input_embeddings()
    embeddings.neftune_noise_alpha = torch.tensor(ALPHA)
    handle = embeddings.train().register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(3)
    theirs = packed_loss(model, packed).losses
    handle.remove()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, packed_loss(model, packed).losses, rtol=1e-4)
