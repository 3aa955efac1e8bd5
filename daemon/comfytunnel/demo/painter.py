"""What the stand-in's sampler paints: hills under a sky, light and colours after a few words of the prompt, the rest after the seed. Pure.

No model and no pretence of one; but two seeds give two pictures, the same seed the same one, and a preview looks like a thing that becomes.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

PALETTES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "dusk": ((58, 44, 92), (246, 146, 108), (120, 70, 120), (34, 24, 54)),
    "dawn": ((140, 178, 214), (252, 214, 186), (176, 150, 178), (66, 62, 96)),
    "night": ((10, 16, 44), (50, 74, 128), (34, 50, 94), (8, 12, 30)),
    "desert": ((120, 180, 214), (250, 222, 172), (226, 150, 86), (140, 66, 40)),
    "forest": ((158, 196, 200), (228, 236, 210), (96, 142, 112), (20, 52, 46)),
    "snow": ((128, 162, 204), (236, 240, 250), (198, 212, 232), (86, 108, 146)),
    "sea": ((88, 160, 200), (224, 240, 236), (66, 146, 164), (12, 62, 92)),
}
"""By a word of the prompt: the sky above, the sky at the horizon, the farthest hills, the nearest."""
LAYERS = 6
POINTS = 90  # of a ridge
STARS = 160


def paint(prompt: str, seed: int, width: int, height: int) -> Image.Image:
    """The same arguments give the same picture, bit for bit with the same Pillow."""
    dice = random.Random(f"{seed}/{prompt}")  # noqa: S311 (a picture, no secret)
    words = prompt.lower()
    named = [name for name in PALETTES if name in words]
    mood = named[0] if named else dice.choice(list(PALETTES))
    high, low, far, near = PALETTES[mood]
    picture = _sky(high, low, width, height)
    light = (dice.uniform(0.18, 0.82) * width, dice.uniform(0.2, 0.5) * height)
    radius = dice.uniform(0.035, 0.085) * min(width, height)
    if mood in ("night", "dusk"):
        _stars(picture, dice)
    picture = _glow(picture, light, radius)
    for layer in range(LAYERS):
        depth = layer / (LAYERS - 1)
        ridge = _ridge(dice, width, height * (0.5 + 0.42 * depth**1.2), height * (0.05 + 0.1 * depth))
        draw = ImageDraw.Draw(picture)
        draw.polygon([(0, height), *ridge, (width, height)], fill=_mix(far, near, depth))
        if layer < LAYERS - 1:
            haze = Image.new("RGB", picture.size, low)
            picture = Image.composite(haze, picture, _haze(width, height, ridge, 0.16 * (1 - depth)))
    return picture


def unfinished(picture: Image.Image, done: float) -> Image.Image:
    """How it looks after that fraction of the steps (0 to 1)."""
    left = 1 - done
    if left <= 0:
        return picture
    blurred = picture.filter(ImageFilter.GaussianBlur(left * max(picture.size) / 18))
    noise = Image.effect_noise((max(1, picture.width // 4), max(1, picture.height // 4)), 110)
    return Image.blend(blurred, noise.resize(picture.size).convert("RGB"), 0.85 * left**1.5)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _sky(high: Colour, low: Colour, width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for y in range(height):
        column.putpixel((0, y), _mix(high, low, min(1.0, y / (height * 0.62)) ** 1.15))
    return column.resize((width, height))


def _stars(picture: Image.Image, dice: random.Random) -> None:
    for _ in range(STARS):
        at = dice.randrange(picture.width), int(picture.height * 0.55 * dice.random() ** 1.6)
        picture.putpixel(at, _mix((150, 160, 190), (255, 255, 255), dice.random()))


def _glow(picture: Image.Image, at: tuple[float, float], radius: float) -> Image.Image:
    lit = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(lit)
    x, y = at
    for times, light in ((5.0, 26), (3.0, 46), (1.9, 80)):
        draw.ellipse((x - radius * times, y - radius * times, x + radius * times, y + radius * times), light)
    lit = lit.filter(ImageFilter.GaussianBlur(radius * 1.4))
    ImageDraw.Draw(lit).ellipse((x - radius, y - radius, x + radius, y + radius), 235)
    lit = lit.filter(ImageFilter.GaussianBlur(max(0.6, radius / 40)))
    warm = Image.merge("RGB", (lit, lit.point(lambda v: v * 0.93), lit.point(lambda v: v * 0.8)))
    return ImageChops.screen(picture, warm)


def _ridge(dice: random.Random, width: int, level: float, swing: float) -> list[tuple[float, float]]:
    waves = [
        (dice.uniform(0.6, 1.3) / order, order * dice.uniform(0.7, 1.6), dice.uniform(0, math.tau))
        for order in (1, 2, 4, 7)
    ]
    points = []
    for step in range(POINTS + 1):
        share = step / POINTS
        height = sum(size * math.sin(math.tau * share * often + phase) for size, often, phase in waves)
        points.append((share * width, level - height * swing))
    return points


def _haze(width: int, height: int, ridge: list[tuple[float, float]], most: float) -> Image.Image:
    """Air between two layers: thicker towards the foot of the one behind."""
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).polygon([(0, height), *ridge, (width, height)], fill=round(255 * most))
    fall = Image.linear_gradient("L").resize((width, height))
    return ImageChops.multiply(mask, fall)
