"""The first tutorial's design: a web service that answers at once, delivers in the background and keeps dead letters
in memory."""

import asyncio
import hmac
import json
import logging
import os
import random
import ssl
import uuid
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

TARGET_URL = os.environ["TARGET_URL"]
WEBHOOK_SECRET = os.environ["WEBHOOK_SECRET"].encode()
PORT = int(os.environ.get("PORT", "8000"))
MAX_RETRIES = int(os.environ.get("MAX_RETRIES", "3"))
RETRY_BASE_SECONDS = float(os.environ.get("RETRY_BASE_SECONDS", "2"))
TARGET_TIMEOUT_SECONDS = float(os.environ.get("TARGET_TIMEOUT_SECONDS", "10"))

logger = logging.getLogger("service")


@dataclass
class DeadLetter:
    body: str
    content_type: str
    error: str
    attempts: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    failed_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


dead_letters: dict[str, DeadLetter] = {}

# The event loop holds tasks by weak references only.
deliveries: set[asyncio.Task] = set()


@asynccontextmanager
async def lifespan(app: FastAPI):
    # To wait for a connection of our own is no failure of the target.
    timeout = httpx.Timeout(TARGET_TIMEOUT_SECONDS, pool=None)
    trusted = ssl.create_default_context()
    async with httpx.AsyncClient(timeout=timeout, verify=trusted, trust_env=False) as client:
        app.state.client = client
        yield


app = FastAPI(title="Genesys webhook receiver", lifespan=lifespan)


@app.post("/webhook/genesys")
async def receive(request: Request):
    secret = request.headers.get("x-webhook-secret", "")
    if not hmac.compare_digest(secret.encode(), WEBHOOK_SECRET):
        raise HTTPException(401, "The secret does not match.")
    body = await request.body()
    try:
        event = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON.") from error
    if not isinstance(event, (dict, list)):
        raise HTTPException(400, "The body is neither an object nor an array.")
    logger.info("accepted %d bytes", len(body))
    start_delivery(body, request.headers.get("content-type", "application/json"))
    return {"status": "accepted"}


@app.get("/dlq")
async def list_dead_letters():
    return {"dlq_items": [asdict(letter) for letter in dead_letters.values()], "count": len(dead_letters)}


@app.post("/dlq/{item_id}/retry")
async def retry_dead_letter(item_id: str):
    letter = dead_letters.pop(item_id, None)
    if letter is None:
        raise HTTPException(404, "There is no such dead letter.")
    start_delivery(letter.body.encode(), letter.content_type)
    return {"status": "retried", "item_id": item_id}


def start_delivery(body: bytes, content_type: str):
    task = asyncio.create_task(deliver(body, content_type))
    deliveries.add(task)
    task.add_done_callback(deliveries.discard)


async def deliver(body: bytes, content_type: str):
    """Delivers with exponential backoff, and keeps a dead letter when all attempts have failed."""
    attempts = MAX_RETRIES + 1
    for attempt in range(1, attempts + 1):
        try:
            response = await app.state.client.post(TARGET_URL, content=body, headers={"content-type": content_type})
            if response.is_success:
                logger.info("delivered at attempt %d", attempt)
                return
            error = f"the target answered {response.status_code}"
        except httpx.HTTPError as failure:
            error = repr(failure)
        if attempt < attempts:
            delay = RETRY_BASE_SECONDS * 2 ** (attempt - 1) + random.uniform(0, 1)
            logger.warning("attempt %d failed, the next comes in %.2f s: %s", attempt, delay, error)
            await asyncio.sleep(delay)
    letter = DeadLetter(body.decode(), content_type, error, attempts)
    dead_letters[letter.id] = letter
    logger.error("dead letter %s: %s", letter.id, error)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # httpx would log every request once more.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    uvicorn.run(app, host="127.0.0.1", port=PORT, workers=1, access_log=False)
