#!/usr/bin/env python3
"""A FastAPI service that answers with settings from the platform, and goes on when the platform does not.

LLM_CONFIG_BASE_URL=… LLM_CONFIG_TOKEN=… python service.py
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from llm_config_sdk import AsyncConfigClient, LLMConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

FALLBACKS = {("app/llm", "model"): "gpt-4o-mini"}  # for an outage that begins before the first read


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Keep one client for the life of the process: it holds the connections, the cache and the circuits."""
    async with AsyncConfigClient(timeout=2.0, fallback=FALLBACKS) as client:
        app.state.configs = client
        yield


app = FastAPI(lifespan=lifespan)


def configs(request: Request) -> AsyncConfigClient:
    """Hand the client to a route."""
    client: AsyncConfigClient = request.app.state.configs
    return client


Configs = Annotated[AsyncConfigClient, Depends(configs)]


@app.exception_handler(LLMConfigError)
async def explain(_request: Request, error: LLMConfigError) -> JSONResponse:
    """Say what went wrong, once, for every route: what may pass is a 503, the rest is ours."""
    status = 503 if error.is_transient or error.is_rate_limited else 500
    body = {"error": type(error).__name__, "hint": error.hint, "request_id": error.request_id}
    headers = {"Retry-After": f"{error.retry_after:.0f}"} if error.retry_after else None
    return JSONResponse(body, status, headers)


@app.get("/settings")
async def settings(client: Configs) -> dict[str, Any]:
    """Answer with the model in use, and say how sure that is."""
    entry = await client.get_config("app/llm", "model")
    return {"model": entry.value, "source": entry.source, "stale": entry.is_stale}


@app.get("/limits")
async def limits(client: Configs) -> dict[str, int]:
    """Answer with a setting that there is no substitute for."""
    return {"max_tokens": await client.get_int("app/llm", "max_tokens")}


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Be ready without asking the platform: its outage is no reason to be restarted."""
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
