"""The API's routes, a file for each neighbourhood."""

from fastapi import APIRouter

from emulator.routes import gateway, models, openai, run, tokens

router = APIRouter()
for part in (
    run.router,
    openai.router,
    openai.unserved,
    models.router,
    tokens.router,
    gateway.router,
):
    router.include_router(part)
