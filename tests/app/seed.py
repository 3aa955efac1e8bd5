"""A backend as people write it: FastAPI, and ComfyUI on localhost by `requests` or `httpx`, without a session, a retry or a word about us.

It knows nothing of this project and is not to learn of it: test_fastapi.py runs it as a process of its own while cables are pulled. Nothing has a timeout here but
where `httpx` sets one of 5 s by itself, so that a call that hangs is seen to hang.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import httpx
import requests
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

COMFYUI = os.environ.get("COMFYUI", "http://localhost:18188")
POLL = 0.1  # seconds between two looks at the history

app = FastAPI()


class Wish(BaseModel):
    color: int


def graph(wish: Wish) -> dict[str, Any]:
    image = {"width": 64, "height": 64, "batch_size": 1, "color": wish.color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "seed"}},
    }


@app.post("/api/generate")
def generate(wish: Wish) -> Response:
    answer = requests.post(f"{COMFYUI}/prompt", json={"prompt": graph(wish)})
    answer.raise_for_status()
    prompt_id = answer.json()["prompt_id"]
    while prompt_id not in (history := requests.get(f"{COMFYUI}/history/{prompt_id}").json()):
        time.sleep(POLL)
    image = history[prompt_id]["outputs"]["3"]["images"][0]
    picture = requests.get(f"{COMFYUI}/view", params=image)
    picture.raise_for_status()
    return Response(picture.content, media_type="image/png")


@app.post("/api/generate-async")
async def generate_async(wish: Wish) -> Response:
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(f"{COMFYUI}/prompt", json={"prompt": graph(wish)})
    answer.raise_for_status()
    prompt_id = answer.json()["prompt_id"]
    while True:
        async with httpx.AsyncClient(timeout=60) as http:
            history = (await http.get(f"{COMFYUI}/history/{prompt_id}")).json()
        if prompt_id in history:
            break
        await asyncio.sleep(POLL)
    image = history[prompt_id]["outputs"]["3"]["images"][0]
    async with httpx.AsyncClient(timeout=60) as http:
        picture = await http.get(f"{COMFYUI}/view", params=image)
    picture.raise_for_status()
    return Response(picture.content, media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, fd=int(sys.argv[1]), log_level="warning")
