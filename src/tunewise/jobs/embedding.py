"""An experiment's embeddings: a model server of its own, started by the first who asks. Knows nothing of what for."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tunewise import embedding_models
from tunewise.contracts.config import EvaluationPlan
from tunewise.contracts.graders import TextSimilarity
from tunewise.embedding_models import DEFAULT_EMBEDDINGS
from tunewise.evaluate.client import Server
from tunewise.evaluate.embedding import Embed, Vectors
from tunewise.evaluate.embedding_client import embedder
from tunewise.jobs.launch import serving_embeddings


def require_embeddings(plan: EvaluationPlan) -> None:
    """See that the model is there where something in the plan needs it, before anything is spent.

    Raises:
        ModelError: model_not_installed, with the command that installs it.
    """
    cosine = any(isinstance(grader, TextSimilarity) and grader.evaluation_metric == "cosine" for grader in plan.graders)
    retrieval = plan.arms.retrieval
    if cosine or (retrieval is not None and retrieval.by == "embeddings"):
        embedding_models.find(DEFAULT_EMBEDDINGS)


@contextmanager
def embeddings(directory: Path) -> Iterator[Embed]:
    """Makes embeddings while the context lasts; `directory`: for the server's log.

    Raises:
        ModelError: model_not_installed.
        ServingError: the server did not come up.
    """
    with ExitStack() as held:
        started: Embed | None = None

        def embed(texts: Sequence[str]) -> Vectors:
            nonlocal started
            if started is None:
                model = embedding_models.find(DEFAULT_EMBEDDINGS)
                base_url = held.enter_context(serving_embeddings(model, directory=directory))
                started = held.enter_context(embedder(Server(base_url, model.name)))
            return started(texts)

        yield embed
