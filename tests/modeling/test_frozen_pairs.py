"""Every variant of LoRA: computed as PEFT computes it, and saved as an adapter for the unchanged base model."""

from pathlib import Path
from typing import cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.modeling.attention import Segment
from tunewise.modeling.frozen_pairs import add_frozen, begin_at_components, restore_state, whole_config, whole_state
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import Pair, add_adapter, frozen_pair, lora_layers, trained_pair

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PLAIN = LoraSpec(rank=4, alpha=6.0, dropout=0.0, targets="all-linear")
VARIANTS = {
    "lora": PLAIN,
    "rslora": PLAIN.model_copy(update={"rank_stabilized": True}),
    "dora": PLAIN.model_copy(update={"dora": True}),
    "pissa": PLAIN.model_copy(update={"init": "pissa"}),
    "olora": PLAIN.model_copy(update={"init": "olora", "rank_stabilized": True}),
    "pissa dora": PLAIN.model_copy(update={"init": "pissa", "dora": True}),
    "pissa dropout": PLAIN.model_copy(update={"init": "pissa", "dropout": 0.2}),
    "rank above what a weight has": PLAIN.model_copy(update={"init": "pissa", "rank": 48}),
}
IDS = torch.randint(1000, 40_000, (1, 37), generator=torch.Generator().manual_seed(5))


def adapted(model: BaseModelRef, spec: LoraSpec, top_layers: int | None = None) -> PeftModel:
    """A model with an adapter that has come some way from its start."""
    torch.manual_seed(3)
    made = add_adapter(load_frozen(model, "float32"), spec, top_layers)
    if spec.init != "default":
        begin_at_components(made, spec.init)
    return move(made)


def move(model: PeftModel) -> PeftModel:
    numbers = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, weight in sorted((name, weight) for name, weight in model.named_parameters() if weight.requires_grad):
            weight.add_(torch.randn(weight.shape, generator=numbers), alpha=0.05)
    return model.eval()


def logits(model: nn.Module, *, packed: bool) -> Tensor:
    found: Tensor = model(
        input_ids=IDS, use_cache=False, **({"segments": (Segment(0, IDS.shape[1]),)} if packed else {})
    ).logits
    return found


def plain_base(model: BaseModelRef) -> PreTrainedModel:
    return load_frozen(model, "float32", attention="eager")


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "pissa", "olora", "pissa dora"])
def test_loss_and_gradients_equal_pefts_own_forward(name: str, tiny_model: BaseModelRef) -> None:
    spec = VARIANTS[name]
    ours = adapted(tiny_model, spec)
    torch.manual_seed(3)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        target_modules="all-linear",
        use_rslora=spec.rank_stabilized,
        use_dora=spec.dora,
        init_lora_weights=True if spec.init == "default" else spec.init,
    )
    theirs = move(get_peft_model(plain_base(tiny_model), config))
    found = []
    for model, packed in ((ours, True), (theirs, False)):
        loss = logits(model, packed=packed)[0, :-1].log_softmax(-1)[torch.arange(36), IDS[0, 1:]].mean()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss, {n: weight.grad for n, weight in model.named_parameters() if weight.requires_grad}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_saved_it_gives_the_same_logits_on_the_unchanged_base_model_and_merged(
    name: str, tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    live = adapted(tiny_model, VARIANTS[name])
    save(live, tmp_path)
    loaded = PeftModel.from_pretrained(plain_base(tiny_model), str(tmp_path))
    with torch.no_grad():
        wanted = logits(live, packed=True)
        torch.testing.assert_close(logits(loaded, packed=False), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(loaded.merge_and_unload(), packed=False), wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits(plain_base(tiny_model), packed=False), wanted, atol=1e-2)


@pytest.mark.parametrize("name", ["pissa", "olora", "pissa dora", "pissa dropout"])
def test_components_are_held_back_at_first_so_that_nothing_changes(name: str, tiny_model: BaseModelRef) -> None:
    base = load_frozen(tiny_model, "float32")
    weights = {path: weight.clone() for path, weight in base.state_dict().items()}
    with torch.no_grad():
        before = logits(base, packed=True)
        spec = VARIANTS[name]
        made = add_adapter(base, spec)
        assert spec.init != "default"
        begin_at_components(made, spec.init)
        torch.testing.assert_close(logits(made.eval(), packed=True), before, rtol=1e-5, atol=1e-5)
    for path, weight in made.get_base_model().state_dict().items():
        if "lora_" not in path:
            assert torch.equal(weight, weights[path.replace(".base_layer", "")])


def test_the_components_are_the_largest(tiny_model: BaseModelRef) -> None:
    made = add_adapter(load_frozen(tiny_model, "float32"), VARIANTS["pissa"])
    begin_at_components(made, "pissa")
    for layer in lora_layers(made).values():
        weight = cast(Tensor, layer.get_base_layer().weight)
        left = torch.linalg.svdvals(weight - layer.get_delta_weight("default"))
        torch.testing.assert_close(left[:3], torch.linalg.svdvals(weight)[4:7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_restored_it_is_the_same_bits(name: str, tiny_model: BaseModelRef) -> None:
    spec = VARIANTS[name]
    live, other = adapted(tiny_model, spec), add_adapter(load_frozen(tiny_model, "float32"), spec).eval()
    restore_state(other, whole_state(live))
    with torch.no_grad():
        assert torch.equal(logits(other, packed=True), logits(live, packed=True))
    assert all(torch.equal(weight, whole_state(live)[key]) for key, weight in whole_state(other).items())


def test_pairs_of_some_layers_are_filled_up_with_zeros(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    live = adapted(tiny_model, PLAIN)
    path, layer = next(iter(lora_layers(live).items()))
    before = logits(live, packed=True)
    down, up = trained_pair(layer)
    add_frozen(live, {path: Pair(torch.randn(3, down.shape[1]), torch.randn(up.shape[0], 3))})
    assert {held.down.shape[0] for each in lora_layers(live).values() if (held := frozen_pair(each))} == {3}
    save(live, tmp_path)
    loaded = PeftModel.from_pretrained(plain_base(tiny_model), str(tmp_path))
    with torch.no_grad():
        after = logits(live, packed=True)
        assert not torch.allclose(after, before, atol=1e-3)
        torch.testing.assert_close(logits(loaded, packed=False), after, rtol=1e-5, atol=1e-5)


def test_only_the_last_layers_have_an_adapter(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    live = adapted(tiny_model, PLAIN, top_layers=1)
    assert {path.split(".")[4] for path in lora_layers(live)} == {"1"}
    assert len(lora_layers(live)) == 7
    save(live, tmp_path)
    loaded = PeftModel.from_pretrained(plain_base(tiny_model), str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(logits(loaded, packed=False), logits(live, packed=True), rtol=1e-5, atol=1e-5)


def save(model: PeftModel, directory: Path) -> None:
    save_file(whole_state(model), directory / "adapter_model.safetensors")
    whole_config(model).save_pretrained(str(directory))
