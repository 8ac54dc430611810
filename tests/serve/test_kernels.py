"""Products with stored weights are those of a plain linear layer, however they are stored."""

import pytest
import torch
from torch import nn

from tunewise.serve.kernels import _float16, _is_float16, kernel

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
def test_weights_that_float16_holds_are_stored_so_and_give_the_same_product(rows: int, has_bias: bool) -> None:
    hidden, weight, bias = drawn(rows)
    weight = weight.bfloat16().float()
    weight[3, :2] = torch.tensor([2.0**-24, -(2.0**-15)])  # among the smallest that float16 has
    found = _float16(weight, bias if has_bias else None)(hidden)
    assert _is_float16(weight)
    torch.testing.assert_close(found, nn.functional.linear(hidden, weight, bias if has_bias else None))


@pytest.mark.parametrize("number", [1 + 2.0**-11, 1e6])
def test_one_number_that_float16_cannot_hold_leaves_the_weights_as_they_are(number: float) -> None:
    hidden, weight, _ = drawn(8)
    weight = weight.bfloat16().float()
    weight[3, 5] = number
    assert not _is_float16(weight)
    torch.testing.assert_close(kernel(weight, None)(hidden), hidden @ weight.T)
