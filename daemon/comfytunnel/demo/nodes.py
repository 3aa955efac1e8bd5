"""The stand-in's node types: what each takes, what it gives back and how it is run.

Six are ComfyUI's own under their own names (their inputs, limits and file names were compared with 0.33); those that begin with
Demo are ours. A batch of pictures is a list of Pillow images. Nodes know folders and ticks, nothing of queues or HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import string
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image, ImageOps

from comfytunnel.demo.folders import Folders, models, pictures_in, save_place
from comfytunnel.demo.painter import paint, unfinished
from comfytunnel.demo.pictures import save

MAX_RESOLUTION = 16384
"""Largest width and height in pixels (measured, 0.33)."""

Pictures = list[Image.Image]
Ui = dict[str, list[Any]]
Result = tuple[tuple[Any, ...], Ui | None]
Spec = dict[str, tuple[Any, ...]]
"""Required inputs by name: (type, or a list of choices; options), as /object_info shows them."""

RESAMPLING = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Run(Protocol):
    """What a node may use of the execution that it is part of."""

    folders: Folders
    prompt: dict[str, Any]
    extra_pnginfo: dict[str, Any] | None
    padding: int
    """Bytes of noise that each saved picture is to carry (a fault)."""

    def tick(
        self, value: int, total: int, preview: Image.Image | None = None, *, whole: bool = False
    ) -> None:
        """Report progress; raises when the run has been interrupted. `whole`: the picture goes out as it is, as a PNG."""


@dataclass(frozen=True, slots=True)
class NodeType:
    """One entry of /object_info and the coroutine behind it."""

    run: Callable[[Run, Mapping[str, Any]], Awaitable[Result]]
    required: Callable[[Folders], Spec]
    returns: tuple[str, ...] = ("IMAGE",)
    return_names: tuple[str, ...] = ()
    output_node: bool = False
    category: str = "image"
    display_name: str = ""
    description: str = ""
    hidden: dict[str, str] = field(default_factory=dict)
    check: Callable[[Folders, Mapping[str, Any]], tuple[str, str] | None] | None = None
    """A node's own validation: (input, complaint), or None. Its input is then not compared with the choices."""
    changed: Callable[[Folders, Mapping[str, Any]], str] | None = None
    """A value that joins the cache key: a file's contents, for example."""


async def _empty(run: Run, inputs: Mapping[str, Any]) -> Result:
    color = inputs["color"]
    rgb = (color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF)
    size = (inputs["width"], inputs["height"])
    return ([Image.new("RGB", size, rgb) for _ in range(inputs["batch_size"])],), None


async def _invert(run: Run, inputs: Mapping[str, Any]) -> Result:
    return ([await asyncio.to_thread(ImageOps.invert, image) for image in inputs["image"]],), None


async def _scale(run: Run, inputs: Mapping[str, Any]) -> Result:
    width, height = inputs["width"], inputs["height"]
    if width == 0 and height == 0:
        return (inputs["image"],), None
    out: Pictures = []
    for image in inputs["image"]:
        size = (
            width or max(1, round(image.width * height / image.height)),
            height or max(1, round(image.height * width / image.width)),
        )
        how = RESAMPLING[inputs["upscale_method"]]
        if inputs["crop"] == "center":
            out.append(await asyncio.to_thread(ImageOps.fit, image, size, how))
        else:
            out.append(await asyncio.to_thread(image.resize, size, how))
    return (out,), None


async def _load(run: Run, inputs: Mapping[str, Any]) -> Result:
    with Image.open(run.folders.input_file(inputs["image"])) as opened:
        image = ImageOps.exif_transpose(opened)
        mask = (
            ImageOps.invert(image.getchannel("A")) if "A" in image.getbands() else Image.new("L", (64, 64), 0)
        )
        return ([image.convert("RGB")], [mask]), None


def _write(run: Run, images: Pictures, kind: str, prefix: str, level: int) -> Result:
    folder = run.folders.base / kind
    target, name, counter, subfolder = save_place(folder, prefix, images[0].width, images[0].height)
    told = [("prompt", run.prompt), *(run.extra_pnginfo or {}).items()]
    files = []
    for number, image in enumerate(images):
        file = f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
        save(image, target / file, told, padding=run.padding, level=level)
        files.append({"filename": file, "subfolder": subfolder, "type": kind})
    return (images,), {"images": files}


async def _save(run: Run, inputs: Mapping[str, Any]) -> Result:
    return await asyncio.to_thread(_write, run, inputs["images"], "output", inputs["filename_prefix"], 4)


async def _preview(run: Run, inputs: Mapping[str, Any]) -> Result:
    prefix = "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311 (a name, no secret)
    return await asyncio.to_thread(_write, run, inputs["images"], "temp", prefix, 1)


async def _send(run: Run, inputs: Mapping[str, Any]) -> Result:
    for number, image in enumerate(inputs["images"]):
        run.tick(number, len(inputs["images"]), image, whole=True)
    return (), None


async def _slow(run: Run, inputs: Mapping[str, Any]) -> Result:
    steps: int = inputs["steps"]
    for step in range(1, steps + 1):
        await asyncio.sleep(inputs["seconds"] / steps)
        run.tick(step, steps, inputs["image"][0])
    return (inputs["image"],), None


async def _sample(run: Run, inputs: Mapping[str, Any]) -> Result:
    steps, seed, canvas = inputs["steps"], inputs["seed"], inputs["image"]
    painted = [
        await asyncio.to_thread(paint, inputs["positive"], seed + number, empty.width, empty.height)
        for number, empty in enumerate(canvas)
    ]
    for step in range(1, steps + 1):
        await asyncio.sleep(inputs["seconds"] / steps)
        run.tick(step, steps, await asyncio.to_thread(unfinished, painted[0], step / steps))
    return (painted,), None


async def _model(run: Run, inputs: Mapping[str, Any]) -> Result:
    return (inputs["image"],), None


async def _fail(run: Run, inputs: Mapping[str, Any]) -> Result:
    raise RuntimeError(inputs["message"])


def _missing_file(folders: Folders, inputs: Mapping[str, Any]) -> tuple[str, str] | None:
    name = inputs["image"]
    return None if folders.input_file(name).is_file() else ("image", f"Invalid image file: {name}")


def _contents(folders: Folders, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(folders.input_file(inputs["image"]).read_bytes()).hexdigest()


def _int(default: int, low: int, high: int, **more: Any) -> tuple[Any, ...]:
    return ("INT", {"default": default, "min": low, "max": high, **more})


_PNG_INFO = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}

NODES: dict[str, NodeType] = {
    "EmptyImage": NodeType(
        _empty,
        lambda _: {
            "width": _int(512, 1, MAX_RESOLUTION, step=1),
            "height": _int(512, 1, MAX_RESOLUTION, step=1),
            "batch_size": _int(1, 1, 4096),
            "color": _int(0, 0, 0xFFFFFF, step=1, display="color"),
        },
        display_name="Empty Image",
    ),
    "ImageInvert": NodeType(
        _invert, lambda _: {"image": ("IMAGE",)}, category="image/color", display_name="Invert Image Colors"
    ),
    "ImageScale": NodeType(
        _scale,
        lambda _: {
            "image": ("IMAGE",),
            "upscale_method": (list(RESAMPLING),),
            "width": _int(512, 0, MAX_RESOLUTION, step=1),
            "height": _int(512, 0, MAX_RESOLUTION, step=1),
            "crop": (["disabled", "center"],),
        },
        category="image/upscaling",
        display_name="Upscale Image",
    ),
    "LoadImage": NodeType(
        _load,
        lambda folders: {"image": (pictures_in(folders.base / "input"), {"image_upload": True})},
        returns=("IMAGE", "MASK"),
        display_name="Load Image",
        check=_missing_file,
        changed=_contents,
    ),
    "SaveImage": NodeType(
        _save,
        lambda _: {"images": ("IMAGE", {}), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
        return_names=("images",),
        output_node=True,
        display_name="Save Image",
        description="Writes the pictures to the output folder.",
        hidden=_PNG_INFO,
    ),
    "PreviewImage": NodeType(
        _preview,
        lambda _: {"images": ("IMAGE",)},
        return_names=("images",),
        output_node=True,
        display_name="Preview Image",
        description="Writes the pictures to the temp folder.",
        hidden=_PNG_INFO,
    ),
    "SaveImageWebsocket": NodeType(
        _send,
        lambda _: {"images": ("IMAGE",)},
        returns=(),
        output_node=True,
        display_name="Save Image (Websocket)",
        changed=lambda *_: str(time.time_ns()),
    ),
    "DemoSlow": NodeType(
        _slow,
        lambda _: {
            "image": ("IMAGE",),
            "seconds": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 86400.0}),
            "steps": _int(10, 1, 10000),
        },
        category="demo",
        display_name="Slow (demo)",
        description="Passes the pictures on after some seconds; can be interrupted between two steps.",
    ),
    "DemoSampler": NodeType(
        _sample,
        lambda _: {
            "image": ("IMAGE",),
            "positive": ("STRING", {"multiline": True}),
            "negative": ("STRING", {"multiline": True}),
            "seed": _int(0, 0, 0xFFFFFFFFFFFFFFFF),
            "steps": _int(20, 1, 10000),
            "seconds": ("FLOAT", {"default": 3.0, "min": 0.0, "max": 86400.0}),
        },
        category="demo",
        display_name="Sampler (demo)",
        description="Paints hills, in the light of a word such as dusk, night or desert, over a picture of the size that is wanted.",
    ),
    "DemoModel": NodeType(
        _model,
        lambda folders: {"image": ("IMAGE",), "model": (models(folders), {"tooltip": "Changes nothing."})},
        category="demo",
        display_name="Model (demo)",
        description="Passes the pictures on; its list of models grows with the folder models/.",
    ),
    "DemoFail": NodeType(
        _fail,
        lambda _: {"image": ("IMAGE",), "message": ("STRING", {"default": "failed on purpose"})},
        category="demo",
        display_name="Fail (demo)",
        description="Raises an error with a traceback.",
    ),
}


REPLACED = {"DemoSleep": "DemoSlow"}
"""Classes of the past, and those that are put in their place (with the same inputs)."""


def describe(name: str, folders: Folders) -> dict[str, Any]:
    """One node's entry in /object_info."""
    node = NODES[name]
    required = node.required(folders)
    shown: dict[str, Any] = {"required": required} | ({"hidden": node.hidden} if node.hidden else {})
    return {
        "input": shown,
        "input_order": {section: list(inputs) for section, inputs in shown.items()},
        "is_input_list": False,
        "output": node.returns,
        "output_is_list": [False] * len(node.returns),
        "output_name": node.return_names or node.returns,
        "name": name,
        "display_name": node.display_name,
        "description": node.description,
        "python_module": "nodes",
        "category": node.category,
        "output_node": node.output_node,
        "has_intermediate_output": False,
        "search_aliases": [],
    }
