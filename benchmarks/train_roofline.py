"""How near training comes to what this machine can multiply: floor time over measured time, in steady state.

    python benchmarks/train_roofline.py [--rows FILE] [--limit 48] [--epochs 2] [--seconds-each 0.5]

The peak is measured here, in the number format that planning picks: the model's own matrix products, forward
(x @ W.T) and backward (grad @ W), the trunk's at a part's length and the head's at a chunk's, best of many. The floor
counts what no exact method can leave out of a LoRA step with a frozen base: 4 FLOPs for each of the trunk's weights
and token (2 forward, 2 backward), and 4 for each of the head's weights and supervised token. Attention, norms, the
adapter and the optimizer are not in it. Tokens are those of the user's rows: where rows share what they begin with,
fewer are computed.

Two floors: `peak`, all FLOPs at the rate of the fastest product, is the ratio; `shapes` gives each product its own
best time. Measured is the last of `--epochs`, so that every first time is past. The machine's rate is measured before
and after training, and the higher counts. The last line is one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from train_sides import DATA, make_spec, steps_of, train
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import BaseModelRef, TrainSpec
from tunewise.machine import probe
from tunewise.modeling.loading import backbone, torch_dtype
from tunewise.modeling.trained_head import CHUNK_TOKENS
from tunewise.settings import get_settings
from tunewise.train.plan import PART_TOKENS
from tunewise.train.session import usable_cores


class Product(NamedTuple):
    """A matrix product: (tokens, inputs) by (inputs, outputs); backward, the weight lies as its layer keeps it."""

    tokens: int
    inputs: int
    outputs: int
    is_backward: bool

    @property
    def flops(self) -> int:
        """One multiplication and one addition for each."""
        return 2 * self.tokens * self.inputs * self.outputs


class Work(NamedTuple):
    """How often a model does each product: the trunk's for every token, the head's for supervised ones."""

    trunk: Counter[Product]
    head: Counter[Product]


class Steady(NamedTuple):
    """The last epoch of a run: seconds, tokens of its rows, those of them that carried loss; the run's peak memory."""

    seconds: float
    tokens: int
    supervised: float
    peak_memory_bytes: int


def main() -> None:
    """Measure the products, train, measure them again, and print."""
    options = _options()
    model = find(DEFAULT_MODEL, get_settings())
    work = work_of(model)
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as name:
        spec = spec_of(Path(name), model, options)
        before = fastest(work, torch_dtype(spec.dtype), options.seconds_each)
        steady = train_to_steady_state(Path(name) / "run", spec)
        after = fastest(work, torch_dtype(spec.dtype), options.seconds_each)
    report(work, {product: min(before[product], after[product]) for product in before}, steady, spec)


def work_of(model: BaseModelRef) -> Work:
    """The products of a model's linear layers, forward and backward, without reading a weight."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.path))  # type: ignore[no-untyped-call]
    work = Work(Counter(), Counter())
    for layer in backbone(empty).modules():
        if isinstance(layer, nn.Linear):
            work.trunk.update(both_ways(PART_TOKENS, layer.in_features, layer.out_features))
    head = empty.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    work.head.update(both_ways(CHUNK_TOKENS, head.in_features, head.out_features))
    return work


def both_ways(tokens: int, inputs: int, outputs: int) -> tuple[Product, Product]:
    """A layer's forward product, and that which gives its input's gradient."""
    return Product(tokens, inputs, outputs, is_backward=False), Product(tokens, outputs, inputs, is_backward=True)


def fastest(work: Work, dtype: torch.dtype, seconds_each: float) -> dict[Product, float]:
    """The best time of each product, in seconds."""
    return {product: best_time(product, dtype, seconds_each) for product in {**work.trunk, **work.head}}


def best_time(product: Product, dtype: torch.dtype, seconds: float) -> float:
    """The least that one product took, of as many as fit into so many seconds."""
    left = torch.randn(product.tokens, product.inputs, dtype=dtype)
    weight = torch.randn(product.outputs, product.inputs, dtype=dtype).t()
    right = weight.contiguous() if product.is_backward else weight
    out = torch.empty(product.tokens, product.outputs, dtype=dtype)
    torch.mm(left, right, out=out)
    best, until = float("inf"), time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - started)
    return best


def spec_of(directory: Path, model: BaseModelRef, options: argparse.Namespace) -> TrainSpec:
    """A run over the first rows of the file."""
    lines = options.rows.read_bytes().splitlines(keepends=True)[: options.limit]
    (directory / "train.jsonl").write_bytes(b"".join(lines))
    spec = make_spec(model, directory / "train.jsonl", len(lines), in_bfloat16=probe().bfloat16)
    return spec.model_copy(update={"n_epochs": options.epochs})


def train_to_steady_state(directory: Path, spec: TrainSpec) -> Steady:
    """Train, and look at the last epoch."""
    result = train(directory, spec)
    steps = steps_of(directory)
    last_before = steps[len(steps) // spec.n_epochs * (spec.n_epochs - 1) - 1]
    return Steady(
        seconds=steps[-1].seconds - last_before.seconds,
        tokens=steps[-1].tokens - last_before.tokens,
        supervised=result.supervised_tokens / spec.n_epochs,
        peak_memory_bytes=result.peak_memory_bytes,
    )


def report(work: Work, seconds: Mapping[Product, float], steady: Steady, spec: TrainSpec) -> None:
    """Print the products' rates, both floors against what was measured, and the JSON line."""
    rates = {product: product.flops / took / 1e9 for product, took in seconds.items()}
    for product, rate in rates.items():
        way = "backward" if product.is_backward else "forward"
        print(f"{way:8} {product.tokens:5} x {product.inputs:5} x {product.outputs:5} {rate:8.1f} GFLOP/s")
    flops = total(work, steady, lambda product: product.flops)
    by_shape = total(work, steady, seconds.__getitem__)
    peak = max(rates.values())
    share, shape_share = flops / peak / 1e9 / steady.seconds, by_shape / steady.seconds
    print(
        f"{steady.tokens} tokens, {steady.supervised:.0f} of them supervised, in {steady.seconds:.1f} s: "
        f"{steady.tokens / steady.seconds:.1f} tok/s, peak {steady.peak_memory_bytes / 2**30:.2f} GiB\n"
        f"floor at the peak of {peak:.0f} GFLOP/s {share * steady.seconds:.1f} s: {share:.0%} of the roofline; "
        f"at each product's own rate {by_shape:.1f} s: {shape_share:.0%}"
    )
    sides = {
        "floor": {"peak_gflops": round(peak, 1), "flops": flops, "share_at_each_products_rate": round(shape_share, 3)},
        "tunewise": steady._asdict() | {"tokens_per_second": round(steady.tokens / steady.seconds, 1)},
    }
    print(json.dumps({"name": "train_roofline", "ratio": round(share, 3), "dtype": spec.dtype, "sides": sides}))


def total(work: Work, steady: Steady, cost: Callable[[Product], float]) -> float:
    """What an epoch's products cost: the trunk's for each token, the head's for each supervised one."""
    return sum(
        cost(product) / product.tokens * count * tokens
        for products, tokens in ((work.trunk, steady.tokens), (work.head, steady.supervised))
        for product, count in products.items()
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=next((path for path in DATA if path.is_file()), DATA[-1]))
    parser.add_argument("--limit", type=int, default=48, help="of the file's rows, the first so many")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seconds-each", type=float, default=0.5, help="how long each product is repeated")
    return parser.parse_args()


if __name__ == "__main__":
    main()
