"""The requests of the soak: what honest clients send, and clients that are slow or disconnect."""

import asyncio
import io
import json
import random
from contextlib import suppress

from PIL import Image

from benchmarks.serving.contenders import JSON, RAW, read_digits
from benchmarks.soak.client import Kind, request

BOUNDARY = "digits"
SLOW_SECONDS = 5.0  # a slow client takes this long for a body


def make_mix() -> list[Kind]:
    """The mix of requests, with real digits."""
    one, many = read_digits(1), read_digits(32)
    picture = io.BytesIO()
    Image.fromarray(one[0]).resize((280, 280)).save(picture, "PNG")
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="1.png"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + picture.getvalue()
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
    as_json = json.dumps({"images": one.tolist()}).encode()
    multipart = f"multipart/form-data; boundary={BOUNDARY}"
    return [
        Kind("one image, JSON", 0.45, request("/predict", JSON, as_json)),
        Kind("one image, raw", 0.30, request("/predict/raw", RAW, one.tobytes())),
        Kind("32 images, JSON", 0.05, request("/predict", JSON, json.dumps({"images": many.tolist()}).encode())),
        Kind("32 images, raw", 0.05, request("/predict/raw", RAW, many.tobytes())),
        Kind("a picture", 0.10, request("/predict/files", multipart, form)),
        Kind("explanation", 0.02, request("/explain", JSON, as_json)),
        Kind("the model", 0.028, request("/model")),
        Kind("metrics", 0.002, request("/metrics")),
    ]


async def misbehave(port: int, seconds: float, per_second: float, seed: int = 1) -> dict[str, int]:
    """Be a slow client, a client that disconnects, and a client that stops half way, in turns.

    Args:
        port: of 127.0.0.1.
        seconds: for how long.
        per_second: number of such clients that begin a second.
        seed: decides their order.

    Returns:
        How many there were of each.
    """
    chance = random.Random(seed)  # noqa: S311, it decides an order
    done = {"slow": 0, "disconnects": 0, "half a head": 0}
    body = request("/predict/raw", RAW, read_digits(1).tobytes())
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    tasks: set[asyncio.Task[None]] = set()
    while loop.time() < until:
        kind = chance.choice(list(done))
        done[kind] += 1
        task = asyncio.create_task(_one(port, kind, body))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / per_second)
    await asyncio.gather(*tasks)
    return done


async def _one(port: int, kind: str, content: bytes) -> None:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if kind == "slow":
                parts = 20
                for start in range(0, len(content), -(-len(content) // parts)):
                    writer.write(content[start : start - (-len(content) // parts)])
                    await writer.drain()
                    await asyncio.sleep(SLOW_SECONDS / parts)
                await reader.read(100)
            elif kind == "disconnects":
                writer.write(content)
                await writer.drain()
            else:
                writer.write(content[:20])
                await writer.drain()
                await asyncio.sleep(SLOW_SECONDS)
        finally:
            writer.transport.abort()
