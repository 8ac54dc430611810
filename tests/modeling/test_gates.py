"""Our gated block equals each family's own, and replaces only what it equals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen3Config
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from modeling.test_norms import run
from tunewise.modeling.gates import gated, use_fast_gates

SHAPE: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 4}
GATED = {LlamaMLP: LlamaConfig, MistralMLP: MistralConfig, Qwen3MLP: Qwen3Config}
OTHERS = {GemmaMLP: GemmaConfig, Phi3MLP: Phi3Config}


def made(family: Any, config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:  # noqa: ANN401  # of every family
    torch.manual_seed(1)
    module: nn.Module = family(config(**SHAPE))
    return module.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("family", GATED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_each_family_s_block_and_its_gradient(family: type[nn.Module], dtype: torch.dtype, tolerance: float) -> None:
    module = made(family, GATED[family], dtype)
    x, upstream = torch.randn(1, 7, 48).to(dtype) * 3, torch.randn(1, 7, 48).to(dtype)
    expected = run(module, x, upstream)
    use_fast_gates(module)
    assert "forward" in vars(module), "it was not replaced"
    for found, own in zip(run(module, x, upstream), expected, strict=True):
        assert found.dtype is dtype
        assert (found - own).float().norm() / own.float().norm() < tolerance


def test_gradients_are_those_of_finite_differences() -> None:
    gates, ups = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    step, upstream = 1e-2, torch.randn(3, 5)
    found = torch.autograd.grad((gated(gates, ups) * upstream).sum(), (gates, ups))
    for which, gradient in enumerate(found):
        moved = [[each.detach().clone() for each in (gates, ups)] for _ in range(2)]
        moved[0][which] += step
        moved[1][which] -= step
        higher, lower = (gated(*pair) for pair in moved)
        torch.testing.assert_close(gradient, (higher - lower) / (2 * step) * upstream, rtol=1e-3, atol=1e-3)


def test_what_goes_in_and_what_comes_back_are_left_as_they_are() -> None:
    gates, ups, upstream = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6), torch.randn(4, 6)
    before = [each.detach().clone() for each in (gates, ups, upstream)]
    torch.autograd.grad(gated(gates, ups), gates, upstream)
    assert all(map(torch.equal, (gates.detach(), ups, upstream), before))


class HalfMLP(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2  # type: ignore[no-any-return,no-untyped-call]


@pytest.mark.parametrize("family", OTHERS)
def test_another_activation_or_shape_stays(family: type[nn.Module]) -> None:
    module = made(family, OTHERS[family])
    use_fast_gates(module)
    assert "forward" not in vars(module)


def test_a_block_that_does_more_stays() -> None:
    module = made(HalfMLP, LlamaConfig)
    use_fast_gates(module)
    assert "forward" not in vars(module)


def test_it_is_left_in_training_mode_if_it_was() -> None:
    module = made(LlamaMLP, LlamaConfig).train(True)
    use_fast_gates(module)
    assert all(part.training for part in module.modules())
