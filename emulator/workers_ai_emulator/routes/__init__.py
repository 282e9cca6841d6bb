"""The API's routes, a file for each neighbourhood."""

from fastapi import APIRouter

from workers_ai_emulator.routes import binding, gateway, models, openai, remote_session, run, tokens

router = APIRouter()
for part in (
    run.router,
    openai.router,
    openai.unserved,
    models.router,
    tokens.router,
    gateway.router,
    binding.router,
    remote_session.router,
):
    router.include_router(part)
