"""The model card of an export, in the form that the Hugging Face hub reads.

Of the data it tells counts and hashes, and neither names nor rows: a card is for others. Knows a run's manifest, its
result and its verdict; measures nothing.
"""

import yaml

from tunewise.contracts.export import ExportSpec
from tunewise.contracts.run import RunResult, TrainSpec
from tunewise.modeling import card


def model_card(spec: ExportSpec) -> str:
    """The whole README."""
    is_adapter = _is_adapter(spec)
    base = spec.hub_id or (spec.base.name if spec.base else "not recorded")
    licence = f"Licence: {spec.licence.name}, as the base model." if spec.licence else "Licence: the base model's."
    about = f"A LoRA adapter for {base}." if is_adapter else f"{base}, tuned; the weights are whole."
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(spec), sort_keys=False, allow_unicode=True)}---",
        f"# {spec.title}",
        f"{about} {licence}",
        _how_to_use(spec, base),
        *_verdict(spec),
        *([] if spec.spec is None else _training(spec.spec)),
        *([] if spec.result is None else [card.table("Outcome", _outcome(spec.result))]),
        *([] if spec.spec is None else [card.table("Versions", spec.spec.versions)]),
    ]
    return "\n\n".join(parts) + "\n"


def _is_adapter(spec: ExportSpec) -> bool:
    return spec.kind == "adapter" and spec.target in {"adapter", "hub-dir"}


def _front_matter(spec: ExportSpec) -> dict[str, object]:
    """A base model that the hub does not know by this name would be an error there, and is left to the text."""
    front: dict[str, object] = {"library_name": "peft" if _is_adapter(spec) else "transformers"}
    front["pipeline_tag"] = "text-generation"
    if spec.hub_id:
        front["base_model"] = spec.hub_id
        front["base_model_relation"] = "adapter" if _is_adapter(spec) else "finetune"
    if spec.licence:
        front["license"] = spec.licence.id
        front |= {"license_name": spec.licence.name} if spec.licence.id == "other" else {}
    front["tags"] = ["tunewise", *(["lora"] if _is_adapter(spec) else []), *([_method(spec.spec)] if spec.spec else [])]
    return front


def _method(spec: TrainSpec) -> str:
    return {"supervised": "sft"}.get(spec.objective.type, spec.objective.type)


def _how_to_use(spec: ExportSpec, base: str) -> str:
    load = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if _is_adapter(spec):
        load = ["from peft import PeftModel", *load]
        load += [
            f'base = AutoModelForCausalLM.from_pretrained("{base}")',
            'model = PeftModel.from_pretrained(base, ".")',
        ]
    else:
        load += ['model = AutoModelForCausalLM.from_pretrained(".")']
    load += [
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'messages = [{"role": "user", "content": "…"}]',
        "ids = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**ids, max_new_tokens=200)",
        'print(tokenizer.decode(answer[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    return "\n".join(["## Use", "", "In this directory:", "", "```python", *load, "```"])


def _verdict(spec: ExportSpec) -> list[str]:
    found = spec.verdict
    if found is None:
        return []
    rows = {
        score.arm: f"{score.mean.value:.3f} ({score.mean.low:.3f} to {score.mean.high:.3f})" for score in found.scores
    }
    title = f"Evaluation: {found.grader}, with 95 % intervals"
    return [f"{card.table(title, rows)}\n\nVerdict: {found.outcome.replace('_', ' ')}. {found.headline}"]


def _training(spec: TrainSpec) -> list[str]:
    base = {"content sha256": spec.base_model.revision, "parameters": spec.base_model.parameters}
    return [card.data(spec), card.hyperparameters(spec), card.table("Base model", base)]


def _outcome(result: RunResult) -> dict[str, object]:
    told = {
        "steps": result.steps,
        "trained tokens": result.trained_tokens,
        "training loss, last epoch": result.train_loss,
        "validation loss": result.valid_loss,
        "validation token accuracy": result.valid_mean_token_accuracy,
    }
    return {
        name: f"{value:.4f}" if isinstance(value, float) else value for name, value in told.items() if value is not None
    }
