"""DoRA's row norms (Liu et al. 2024, arXiv:2402.09353), without forming the weight that they are of.

Knows matrices; nothing of layers, training or serving. Exactness: tests/modeling/test_lora.py.
"""

from torch import Tensor


def row_squares(weight: Tensor) -> Tensor:
    """The squared length of each row, float32. weight: (outputs, inputs)."""
    return weight.float().square().sum(1)


def row_norms(squares: Tensor, weight_down: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The length of each row of `weight + up @ down`, (outputs,).

    squares: (outputs,), those of `weight` alone; weight_down: (outputs, rank), `weight @ down.T`; down: (rank, inputs);
    up: (outputs, rank), the scale in it. A square is opened up, so that nothing of the weight's size is made.
    """
    mixed = weight_down.mul(2).addmm_(up, down @ down.t())
    return (squares + (mixed * up).sum(1)).clamp_(min=0).sqrt()
