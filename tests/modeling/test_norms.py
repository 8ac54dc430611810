"""Our RMSNorm equals each family's own, and replaces only what it equals."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tunewise.modeling.norms import rms_norm, use_fast_norms

FAMILIES = (LlamaRMSNorm, Gemma3RMSNorm, Phi3RMSNorm, Qwen3RMSNorm)
WIDTH, EPSILON = 96, 1e-3


def made(family: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    module = family(WIDTH, eps=EPSILON)
    for gain in module.parameters():
        torch.nn.init.normal_(gain, 0.5, 0.2)
    return module.to(dtype).requires_grad_(False)


def run(module: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient."""
    own = x.clone().requires_grad_()
    out: Tensor = module(own)
    (gradient,) = torch.autograd.grad(out, own, upstream)
    return out.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("shape", [(1, 7, WIDTH), (1, 5, 3, WIDTH)])
def test_each_family_s_norm_and_its_gradient(
    family: type[nn.Module], dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]
) -> None:
    module = made(family, dtype)
    x, upstream = torch.randn(shape).to(dtype) * 3, torch.randn(shape).to(dtype)
    expected = run(module, x, upstream)
    use_fast_norms(module)
    assert "forward" in vars(module), "it was not replaced"
    for found, own in zip(run(module, x, upstream), expected, strict=True):
        assert found.dtype is dtype
        assert (found - own).float().norm() / own.float().norm() < tolerance


def test_the_input_and_what_comes_back_are_left_as_they_are() -> None:
    x, upstream = torch.randn(4, WIDTH, requires_grad=True), torch.randn(4, WIDTH)
    before = x.detach().clone(), upstream.clone()
    torch.autograd.grad(rms_norm(x, torch.ones(WIDTH), EPSILON), x, upstream)
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(upstream, before[1])


class HalfRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) / 2


@pytest.mark.parametrize("module", [HalfRMSNorm(WIDTH, eps=EPSILON), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)])
def test_another_norm_stays(module: nn.Module) -> None:
    use_fast_norms(module.requires_grad_(False))
    assert "forward" not in vars(module)


def test_a_norm_that_is_trained_stays() -> None:
    module = LlamaRMSNorm(WIDTH, eps=EPSILON)
    use_fast_norms(module)
    assert "forward" not in vars(module)
