"""OpenAI's dialect, under /v1: one module per resource."""

from fastapi import APIRouter

from tunewise.api.openai import chat, files, fine_tuning, models, permissions, uploads

router = APIRouter()
for resource in (files, uploads, fine_tuning, permissions, models, chat):
    router.include_router(resource.router)
