"""What arms and graders know of embeddings: a function from texts to vectors. Who makes them is handed in."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunewise.errors import EvaluationError

Vector: TypeAlias = NDArray[np.float32]
Vectors: TypeAlias = NDArray[np.float32]
Embed: TypeAlias = Callable[[Sequence[str]], Vectors]
"""Texts, none empty → (texts, dimensions), each row of length 1.

Raises:
    EvaluationError: the server cannot be reached, or refuses.
"""


def no_embeddings(_texts: Sequence[str]) -> Vectors:
    """Where nobody makes embeddings.

    Raises:
        EvaluationError: embeddings_unavailable.
    """
    raise EvaluationError(
        "embeddings_unavailable",
        "embeddings are needed here (evaluation_metric cosine, or a retrieval arm by embeddings), and no server makes "
        "them; evaluate in a run, which starts one",
    )
