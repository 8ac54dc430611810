"""OpenAI's dialect, under /v1: one module per resource."""

from fastapi import APIRouter

from tunewise.api.openai import chat, fine_tuning

router = APIRouter()
router.include_router(fine_tuning.router)
router.include_router(chat.router)
