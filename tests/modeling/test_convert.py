"""Conversion: a small GGUF file written here, damaged ones, and a hub that answers on this machine."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewise.catalogue import find
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.modeling import convert
from tunewise.settings import Settings

VOCABULARY, WIDTH, HEADS, INNER = 288, 64, 4, 128
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def write_gguf(path: Path, *, tokenizer: bool = True, template: str | None = TEMPLATE) -> dict[str, np.ndarray]:
    """A llama of one layer whose matrices are stored as Q4_1 and Q8_0; returns what they de-quantise to.

    Its end token is <|endoftext|>, although the template ends a turn with <|im_end|>, as in many files.
    """
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 512),
        (writer.add_embedding_length, WIDTH),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, INNER),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, HEADS),
        (writer.add_rope_dimension_count, WIDTH // HEADS),
        (writer.add_vocab_size, VOCABULARY),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    if tokenizer:
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokens = [*special, *byte_alphabet(), "ab"]
        tokens += [f"<unused{place}>" for place in range(VOCABULARY - len(tokens))]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_merges(["a b"])
        writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (VOCABULARY - 3))
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
        if template:
            writer.add_chat_template(template)
    random = np.random.default_rng(3)
    shapes = {
        "token_embd": (VOCABULARY, WIDTH),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    stored = {}
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if name == "token_embd" else gguf.GGMLQuantizationType.Q4_1
        blocks = gguf.quantize(random.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
        stored[name] = gguf.dequantize(blocks, kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


class Converted(NamedTuple):
    source: Path
    directory: Path
    stored: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    home = tmp_path_factory.mktemp("converted")
    stored = write_gguf(home / "small.gguf")
    assert convert.main([str(home / "small.gguf"), str(home / "model")]) == 0
    return Converted(home / "small.gguf", home / "model", stored)


def test_weights_are_those_of_the_file_in_bfloat16(converted: Converted) -> None:
    weights = load_file(converted.directory / "model.safetensors")
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down"),
        ("model.layers.0.self_attn.v_proj", "blk.0.attn_v"),
    ):
        torch.testing.assert_close(
            weights[f"{ours}.weight"], torch.tensor(converted.stored[theirs]).bfloat16(), rtol=0, atol=0
        )
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_queries_are_put_back_into_the_order_of_transformers(converted: Converted) -> None:
    """llama.cpp interleaves the two rotary halves of each head; see `permute` in its convert_hf_to_gguf.py."""
    ours = load_file(converted.directory / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    interleaved = ours.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH)
    assert torch.equal(interleaved, torch.tensor(converted.stored["blk.0.attn_q"]).bfloat16())


def test_the_result_loads_without_a_trace_of_quantisation(converted: Converted) -> None:
    config = json.loads((converted.directory / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(converted.directory, dtype=torch.float32)
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, VOCABULARY)


def test_the_tokenizer_and_the_template_are_those_of_the_file(converted: Converted) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted.directory)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Straße 5 €"}], tokenize=False)
    assert text == "<|im_start|>user\nStraße 5 €<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_generation_also_ends_at_the_token_that_ends_a_turn(converted: Converted) -> None:
    generation = json.loads((converted.directory / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 2]


def test_the_real_model_ends_at_im_end(smollm2: BaseModelRef) -> None:
    generation = json.loads((smollm2.path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 2
    assert (smollm2.parameters, smollm2.context_length) == (134_515_008, 8192)


def test_find_converts_once_even_when_three_ask_at_once(converted: Converted, settings: Settings) -> None:
    notices: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(find, str(converted.source), settings, notify=notices.append) for _ in range(3)]
        references = [future.result() for future in asked]
    assert len(set(references)) == 1
    assert references[0].revision == hashlib.sha256(converted.source.read_bytes()).hexdigest()
    assert [path.name for path in settings.models_dir.glob("[!.]*")] == [references[0].path.name]
    notices.clear()
    find(str(converted.source), settings, notify=notices.append)
    assert notices == []


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "not gguf":
            path.write_bytes(b"PK\x03\x04" + whole[4:])
        case "empty":
            path.write_bytes(b"")
        case "cut in the header":
            path.write_bytes(whole[:200])
        case _:
            path.write_bytes(whole[:-1000])


@pytest.mark.parametrize("how", ["not gguf", "empty", "cut in the header", "cut in the weights"])
def test_a_damaged_file_is_named_and_leaves_nothing(converted: Converted, tmp_path: Path, how: str) -> None:
    source = tmp_path / "bad.gguf"
    shutil.copy(converted.source, source)
    damage(source, how)
    with pytest.raises(ModelError, match=r"bad\.gguf") as raised:
        convert.convert_gguf(source, tmp_path / "models" / "made")
    assert raised.value.code == "corrupt_model"
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


@pytest.mark.parametrize(
    ("tokenizer", "template", "code"), [(False, None, "no_tokenizer"), (True, None, "no_chat_template")]
)
def test_a_file_that_cannot_chat_is_refused(tmp_path: Path, tokenizer: bool, template: str | None, code: str) -> None:
    write_gguf(tmp_path / "base.gguf", tokenizer=tokenizer, template=template)
    with pytest.raises(ModelError) as raised:
        convert.convert_gguf(tmp_path / "base.gguf", tmp_path / "made")
    assert raised.value.code == code


def test_a_disk_that_is_too_small_is_known_beforehand(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ModelError, match="TUNEWISE_HOME") as raised:
        convert.convert_gguf(converted.source, tmp_path / "made")
    assert raised.value.code == "disk_full"
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_one_line_of_json_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"nothing")
    assert convert.main([str(tmp_path / "bad.gguf"), str(tmp_path / "made")]) == ModelError.exit_code
    assert json.loads(capsys.readouterr().out)["code"] == "corrupt_model"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The four routes of the model hub that a download uses, over directories named owner/name."""

    repositories: Path

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if api else parts[:2])
        directory = self.repositories / repository
        if not directory.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif api:
            files = sorted(file for file in directory.iterdir())
            siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
            tree = [{"type": "file", "path": file["rfilename"], "size": file["size"], "oid": ""} for file in siblings]
            answer = tree if "tree" in parts else {"id": repository, "sha": COMMIT, "siblings": siblings}
            body = json.dumps(answer).encode()
            self._send(200, body, {"Content-Type": "application/json"}, with_body)
        else:
            body = (directory / parts[-1]).read_bytes()
            etag = hashlib.sha1(body, usedforsecurity=False).hexdigest()
            self._send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub with one good model, `some/chat`, and one of pickled weights, `some/pickled`."""
    repositories = tmp_path / "hub"
    shutil.copytree(converted.directory, repositories / "some" / "chat")
    (repositories / "some" / "pickled").mkdir()
    (repositories / "some" / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (repositories / "some" / "chat" / "training_args.bin").write_bytes(b"\x80\x04.")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHub", (Hub,), {"repositories": repositories}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    yield repositories
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_and_then_needs_no_network(
    hub: Path, converted: Converted, settings: Settings
) -> None:
    fetched = find("some/chat", settings)
    assert (
        load_file(fetched.path / "model.safetensors").keys()
        == load_file(converted.directory / "model.safetensors").keys()
    )
    assert not (fetched.path / "training_args.bin").exists()
    shutil.rmtree(hub)
    offline = Settings(home=settings.home, hub_offline=True)
    assert find("some/chat", offline) == fetched
    shutil.rmtree(settings.models_dir)
    assert find("some/chat", offline) == fetched


@pytest.mark.parametrize(
    ("source", "offline", "code"),
    [
        ("some/nothing", False, "unknown_model"),
        ("some/pickled", False, "pickle_weights"),
        ("some/chat", True, "hub_unreachable"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_cannot_give_has_a_name(tmp_path: Path, source: str, offline: bool, code: str) -> None:
    with pytest.raises(ModelError, match=source) as raised:
        convert.pull_hub(source, tmp_path / "made", offline=offline)
    assert raised.value.code == code
    assert not (tmp_path / "made").exists()


def test_a_hub_that_does_not_answer_is_said_to_be_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with pytest.raises(ModelError) as raised:
        convert.pull_hub("some/chat", tmp_path / "made", offline=False)
    assert raised.value.code == "hub_unreachable"
