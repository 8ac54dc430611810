"""OpenAI's dialect, under /v1: one module per resource."""

from tunewise.api.openai import (
    chat,
    embeddings,
    evaluations,
    files,
    fine_tuning,
    models,
    permissions,
    responses,
    uploads,
)

ROUTERS = (
    files.router,
    uploads.router,
    fine_tuning.router,
    evaluations.router,
    permissions.router,
    models.router,
    chat.router,
    embeddings.router,
    responses.router,
)
