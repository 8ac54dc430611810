"""Asking: the arms of an experiment, from their requests to their answers, through the door that users have.

Knows which arm is asked where and what is kept of it; how an arm's requests are built and sent is `evaluate`'s.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, assert_never

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.config import ArmsConfig, Endpoint
from tunewise.contracts.evaluation import Answer, ArmAnswers
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ConfigError
from tunewise.evaluate import arms, floors
from tunewise.evaluate.answer_log import AnswerLog
from tunewise.evaluate.arms import ArmRequests, Window
from tunewise.evaluate.client import Sampling, Server, answer_arm, wire_message, wire_tool
from tunewise.evaluate.embedding import Embed, no_embeddings
from tunewise.evaluate.rows import EvalRow
from tunewise.jobs import elsewhere
from tunewise.jobs.elsewhere import ToHost
from tunewise.jobs.embedding import embeddings
from tunewise.jobs.lab import Lab
from tunewise.jobs.launch import serving
from tunewise.jobs.stages import input_key, write_whole
from tunewise.jobs.weights import TunedWeights, verified
from tunewise.settings import OpenAIEngine, TorchEngine, VllmEngine, get_settings, secret

# An answer may be somewhat longer than every one that was seen; one that runs on for ever must still end.
_ROOM_BEYOND_LONGEST = 1.25
# Of plain text, which has no answers to look at.
_UNSEEN_TOKENS = 200
_LEAST_ROOM_TOKENS = 16


class Asked(NamedTuple):
    """One arm's answers, and the paid API that gave them, if one did."""

    answers: ArmAnswers
    endpoint: Endpoint | None


def check_arms(config: ArmsConfig) -> None:
    """Look for the keys and the documents that the arms need, before the first of them is asked.

    Raises:
        ConfigError: a paid API's key is not in the environment.
        DataError: the documents cannot be read, or one has no text.
    """
    for arm in config.prompt:
        if arm.endpoint is not None:
            _remote_server(arm.endpoint)
    if config.retrieval is not None and config.retrieval.documents is not None:
        arms.read_passages(config.retrieval.documents)


def ask_baselines(lab: Lab, rows: Sequence[EvalRow], train: Sequence[ChatExample]) -> list[Asked]:
    """Every alternative to a fine-tune, and the floors, where there are train rows that show answers."""
    asked = []
    for arm in lab.config.arms.prompt:
        if arm.endpoint is not None:
            prompted = arms.prompt_arm(arm, rows)
            answers = _reuse(lab, prompted, train) or _ask(lab, prompted, _remote_server(arm.endpoint), train)
            asked.append(Asked(answers, arm.endpoint))
    with embeddings(lab.directory / "serve") as embed:
        built = local_arms(lab, rows, train, embed)
    asked += [Asked(answers, None) for answers in _ask_hosted(lab, built, train, None)]
    if train:
        asked += [Asked(floors.majority_answers(train, rows), None), Asked(floors.nearest_answers(train, rows), None)]
    return asked


def ask_tuned(lab: Lab, rows: Sequence[EvalRow], train: Sequence[ChatExample], tuned: TunedWeights) -> ArmAnswers:
    """The tuned model, asked as plainly as a user would.

    Raises:
        ModelError: the weights are not those that were trained.
    """
    return _ask_hosted(lab, [arms.within(arms.tuned_arm(rows), _window(lab, train))], train, tuned)[0]


def local_arms(
    lab: Lab, rows: Sequence[EvalRow], train: Sequence[ChatExample], embed: Embed = no_embeddings
) -> list[ArmRequests]:
    """What is asked of the base model. Without train rows that show answers none is shown, and text is looked up."""
    config, window = lab.config.arms, _window(lab, train)
    built = [arms.prompt_arm(arm, rows) for arm in config.prompt if arm.endpoint is None]
    if config.few_shot is not None and train:
        built.append(arms.few_shot_arm(config.few_shot, rows, train, window, seed=lab.config.training.seed))
    if config.retrieval is not None:
        # What plain text teaches could be looked up in it just as well.
        looked_up = config.retrieval.documents if train else config.retrieval.documents or lab.config.data.train
        retrieval = config.retrieval.model_copy(update={"documents": looked_up})
        built.append(arms.retrieval_arm(retrieval, rows, train, window, embed))
    return [arms.within(arm, window) for arm in built]


def _window(lab: Lab, train: Sequence[ChatExample]) -> Window:
    """The base model's context; that of a paid API is not known, and its rows are asked with the run's limit."""
    return Window(
        context=lab.base.context_length,
        completion=_sampling(lab, train).max_completion_tokens,
        tokens=lambda messages, tools: len(lab.template.prompt_ids(messages, tools)),
    )


def _ask_hosted(
    lab: Lab, asked: Sequence[ArmRequests], train: Sequence[ChatExample], tuned: TunedWeights | None
) -> list[ArmAnswers]:
    """Ask the base model, or the tuned one; it is hosted only if an answer is still missing."""
    identity = "" if tuned is None else tuned.identity
    known = [_reuse(lab, arm, train, identity) for arm in asked]
    missing = [arm for arm, answers in zip(asked, known, strict=True) if answers is None]
    if not missing:
        return [answers for answers in known if answers is not None]
    with _hosted(lab, tuned) as server:
        fresh = {arm.arm: _ask(lab, arm, server, train, identity) for arm in missing}
    return [answers or fresh[arm.arm] for arm, answers in zip(asked, known, strict=True)]


@contextmanager
def _hosted(lab: Lab, tuned: TunedWeights | None) -> Iterator[Server]:
    """The base model, or the tuned one, on the engine of the experiment."""
    directory = lab.directory / "serve"
    model, adapters = _to_host(lab, tuned)
    name = lab.base.name if tuned is None else lab.tuned_name
    match lab.engine:
        case TorchEngine():
            with serving(model, dtype=lab.dtype, directory=directory, adapters=adapters) as base_url:
                yield Server(base_url, name)
        case OpenAIEngine() | VllmEngine():
            path = None if model == lab.base else model.path
            settings = get_settings().model_copy(update={"engine": lab.engine})
            with elsewhere.hosted(ToHost(model.name, path, adapters, name), settings, directory) as server:
                yield server
        case _:
            assert_never(lab.engine)


def _to_host(lab: Lab, tuned: TunedWeights | None) -> tuple[BaseModelRef, dict[str, Path]]:
    """The model to host, and the adapters on it."""
    if tuned is None:
        return lab.base, {}
    directory = verified(tuned)
    match tuned.kind:
        case "adapter":
            return lab.base, {lab.tuned_name: directory}
        case "model":
            return lab.base.model_copy(update={"name": lab.tuned_name, "path": directory}), {}
        case _:
            assert_never(tuned.kind)


def _ask(lab: Lab, arm: ArmRequests, server: Server, train: Sequence[ChatExample], adapter: str = "") -> ArmAnswers:
    """The arm's answers, each written down as it comes; those that an interrupted run left are not asked again."""
    whole = _answers_path(lab, arm, train, adapter)
    total = len(arm.requests)
    with AnswerLog(whole.with_suffix(".jsonl")) as log:
        done = len(log.collected.answers)
        if done:
            lab.watcher.reused(arm.arm, f"{done} of {total} answers of an interrupted run")

        def heard(answer: Answer) -> None:
            nonlocal done
            log.write(answer)
            done += 1
            lab.watcher.progress(done, total, arm.arm)

        answers = asyncio.run(
            answer_arm(
                arm,
                server,
                _sampling(lab, train),
                concurrency=lab.config.evaluation.concurrency,
                on_answer=heard,
                collected=log.collected,
            )
        )
    if not any(answer.error for answer in answers.answers):
        write_whole(whole, answers.model_dump_json())
    return answers


def _reuse(lab: Lab, arm: ArmRequests, train: Sequence[ChatExample], adapter: str = "") -> ArmAnswers | None:
    """The answers of an earlier run to the same requests, if all were kept."""
    path = _answers_path(lab, arm, train, adapter)
    if not path.exists():
        return None
    known = ArmAnswers.model_validate_json(path.read_bytes())
    lab.watcher.reused(arm.arm, f"{len(known.answers)} answers")
    return known


def _answers_path(lab: Lab, arm: ArmRequests, train: Sequence[ChatExample], adapter: str) -> Path:
    """Named by all that an answer depends on: the weights, the requests, and how answers are drawn."""
    requests = [
        [
            [wire_message(message) for message in request.messages],
            [wire_tool(tool) for tool in request.tools or ()],
            request.completion,
        ]
        for request in arm.requests
    ]
    key = input_key(
        lab.base.revision,
        adapter,
        lab.dtype,
        lab.engine,
        lab.config.evaluation.concurrency,
        arm.settings,
        requests,
        _sampling(lab, train),
    )
    return lab.stages_dir / f"answers-{arm.arm}-{key}.json"


def _sampling(lab: Lab, train: Sequence[ChatExample]) -> Sampling:
    asked = lab.config.evaluation
    limit = asked.max_completion_tokens
    if limit == "auto":
        known = [len(lab.template.encode(text)) for text in floors.train_answers(train)]
        longest = max(known, default=0) if train else _UNSEEN_TOKENS
        limit = int(longest * _ROOM_BEYOND_LONGEST) + _LEAST_ROOM_TOKENS
    return Sampling(max_completion_tokens=limit, temperature=asked.temperature, seed=lab.config.training.seed)


def _remote_server(endpoint: Endpoint) -> Server:
    key = secret(endpoint.api_key_env) if endpoint.api_key_env else None
    if endpoint.api_key_env and not key:
        raise ConfigError(
            "missing_key",
            f"arms.prompt: {endpoint.base_url} needs a key, but the environment variable {endpoint.api_key_env} is "
            "not set; set it, or take the arm out",
            param="arms.prompt.endpoint.api_key_env",
        )
    return Server(endpoint.base_url, endpoint.model, key)
