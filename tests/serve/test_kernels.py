"""Products with stored weights: exact ones, and those that are stored smaller, within what their format can hold."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ConfigError
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.kernels import Weights, kernel
from tunewise.serve.local import LocalEngine
from tunewise.serve.network import Network

ROWS = [1, 2, 7, 8, 33, 300]


def drawn(rows: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(rows)
    hidden, weight, bias = (torch.randn(*shape, generator=numbers) for shape in ((1, rows, 72), (40, 72), (40,)))
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_kernel_is_a_linear_layer(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, bias = drawn(rows, dtype)
    found, expected = kernel(weight, bias)(hidden), nn.functional.linear(hidden, weight, bias)
    assert torch.allclose(found.float(), expected.float(), atol=tolerance * 10, rtol=tolerance)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_float16_weights_are_rounded_and_nothing_else_is(rows: int, has_bias: bool) -> None:
    hidden, weight, bias = drawn(rows)
    own_bias = bias if has_bias else None
    found = kernel(weight, own_bias, "float16")(hidden)
    rounded = nn.functional.linear(hidden, weight.half().float(), own_bias)
    torch.testing.assert_close(found, rounded, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, nn.functional.linear(hidden, weight, own_bias))


def test_weights_too_large_for_float16_stay_as_they_are() -> None:
    hidden, weight, _ = drawn(8)
    weight[3, 5] = 1e6
    torch.testing.assert_close(kernel(weight, None, "float16")(hidden), hidden @ weight.T)


@pytest.mark.parametrize("rows", ROWS)
def test_int8_weights_keep_a_product_within_three_hundredths(rows: int) -> None:
    hidden, weight, bias = drawn(rows)
    weight[7] = 0  # a row without a scale
    expected = nn.functional.linear(hidden, weight, bias)
    found = kernel(weight, bias, "int8")(hidden)
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.03
    assert torch.allclose(found[..., 7], bias[7])


@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_smaller_weights_are_refused_beside_other_activations(tiny_model: BaseModelRef, weights: Weights) -> None:
    with pytest.raises(ConfigError, match="float32 activations") as refused:
        Network(tiny_model.path, torch.bfloat16, weights)
    assert refused.value.code == "weights_unsupported"


@pytest.mark.parametrize(("weights", "apart"), [("same", 1e-5), ("float16", 0.02), ("int8", 1.0)])
def test_a_hosted_model_with_an_adapter_says_the_same_with_smaller_weights(
    tiny_model: BaseModelRef, adapters: dict[str, Path], weights: Weights, apart: float
) -> None:
    wanted = Generation(tuple(range(500, 560)), "third", 1, 1, Sampling(0.0, 1.0, 0), top_logprobs=3, ignore_eos=True)
    found = {}
    for kind in ("same", weights):
        with LocalEngine(tiny_model.path, torch.float32, weights=kind) as local:
            local.engine.load_adapter("third", adapters["third"])  # DoRA, which reads the weight back
            found[kind] = local.generate([wanted])[0].logprobs[0][0].logprob
    assert found[weights] == pytest.approx(found["same"], abs=apart)
