"""The world that the demo's model knows: one object on a background, 64 x 64 pixels, described by attributes.

Shapes, colours, textures and backgrounds have words. Two shapes, two colours and some combinations are never
named in a caption; they do occur in images, under a generic word ("a toy on the beach") and without the
attribute that has no word. So the model can draw them but has nothing to call them by, which is the place of
a concept that Textual Inversion learns.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from shapes import OUTLINES

SIDE = 64
HELD_OUT_SHAPES = ("flower", "hourglass")
SHAPES = tuple(name for name in OUTLINES if name not in HELD_OUT_SHAPES)
RGB = {
    "red": (215, 30, 35),
    "orange": (245, 140, 20),
    "yellow": (250, 222, 30),
    "green": (25, 140, 50),
    "cyan": (30, 200, 205),
    "blue": (30, 65, 205),
    "purple": (125, 40, 165),
    "pink": (250, 125, 190),
    "brown": (115, 65, 30),
    "white": (252, 252, 252),
    "black": (18, 18, 18),
    "lime": (165, 235, 40),
    "crimson": (200, 10, 115),
}
HELD_OUT_COLOURS = ("lime", "crimson")
COLOURS = tuple(name for name in RGB if name not in HELD_OUT_COLOURS)
TEXTURES = ("plain", "striped", "dotted", "checked")
# The tones of each background, the main one first; `_backdrop` paints with them.
BACKGROUNDS = {
    "gray": ((128, 128, 128),),
    "green": ((178, 226, 178),),
    "blue": ((170, 200, 245),),
    "yellow": ((250, 242, 190),),
    "pink": ((250, 212, 224),),
    "night": ((24, 28, 66), (194, 198, 236)),
    "wall": ((168, 98, 78), (206, 158, 140)),
    "beach": ((165, 210, 240), (236, 208, 150)),
}
# Backgrounds whose second tone is no detail but half of the image.
_HALVES = ("beach",)
SIZES = {"small": 13.0, "medium": 17.5, "large": 22.0}
PLACES = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
# Words that are all known, together in no caption: colour, texture (None: any) and shape.
HELD_OUT_COMBINATIONS = (
    ("purple", "striped", "heart"),
    ("cyan", "dotted", "star"),
    ("orange", "checked", "moon"),
    ("red", "plain", "arrow"),
)
# Nouns that say colour, texture and shape at once, as most nouns do: one word can mean a whole object.
THINGS = {
    "banana": ("yellow", "plain", "moon"),
    "bee": ("yellow", "striped", "circle"),
    "button": ("white", "dotted", "circle"),
    "chessboard": ("black", "checked", "square"),
    "cookie": ("brown", "dotted", "circle"),
    "donut": ("pink", "dotted", "ring"),
    "kite": ("blue", "checked", "triangle"),
    "lifebuoy": ("orange", "striped", "ring"),
    "lightning": ("yellow", "plain", "bolt"),
    "quilt": ("purple", "checked", "square"),
    "signpost": ("green", "plain", "arrow"),
    "starfish": ("orange", "dotted", "star"),
    "strawberry": ("red", "dotted", "heart"),
    "tent": ("green", "striped", "triangle"),
    "valentine": ("pink", "plain", "heart"),
    "windmill": ("cyan", "striped", "cross"),
}
# Colours closer than this, in CIELAB (CIE76), are not put on one another.
_LEAST_CONTRAST = 30.0
_SHARE_HELD_OUT_SHAPE, _SHARE_HELD_OUT_COLOUR, _SHARE_THINGS = 0.16, 0.08, 0.08
# Of the textures, in pixels.
STRIPE_PERIOD, DOT_PERIOD, CHECK_PERIOD = 10.0, 8.0, 12.0
_AXIS = (np.arange(SIDE, dtype=np.float32) + 0.5) - SIDE / 2
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")


@dataclass(frozen=True)
class Scene:
    """One image: names of its attributes, and the numbers that caption words leave open.

    Attributes:
      shape: of `OUTLINES`.
      colour: of `RGB`.
      texture: of `TEXTURES`.
      background: of `BACKGROUNDS`.
      size: of `SIZES`.
      place: of `PLACES`.
      tilted: rotated by more than the few degrees that every object may have.
      centre: of the object, in pixels right of and below the image's centre.
      radius: in pixels.
      angle: clockwise, in degrees.
      phase: of the texture and of the background's details, in pixels.
    """

    shape: str
    colour: str
    texture: str
    background: str
    size: str
    place: str
    tilted: bool
    centre: tuple[float, float]
    radius: float
    angle: float
    phase: tuple[float, float]

    @property
    def is_held_out_combination(self) -> bool:
        """Whether colour, texture and shape together are never named."""
        return self.object in HELD_OUT_COMBINATIONS

    @property
    def object(self) -> tuple[str, str, str]:
        """Colour, texture and shape."""
        return self.colour, self.texture, self.shape


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB values from 0 to 255, `[..., 3]` to `[..., 3]` (IEC 61966-2-1, CIE 15)."""
    scaled = np.asarray(rgb, np.float64) / 255.0
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def second_tone(colour: str) -> np.ndarray:
    """The other colour of a texture: the fill halfway to white, or to gray where it is light already."""
    fill = np.asarray(RGB[colour], np.float32)
    light = fill @ np.array([0.299, 0.587, 0.114], np.float32) > 170
    return fill * 0.45 if light else fill * 0.4 + 255 * 0.6


@functools.cache
def goes_on(colour: str, background: str) -> bool:
    """Whether an object of a colour stands out from a background."""
    tones = lab(np.stack([np.asarray(RGB[colour], np.float32), second_tone(colour)]))
    grounds = lab(np.asarray(BACKGROUNDS[background])[: 2 if background in _HALVES else 1])
    return bool((np.linalg.norm(tones[:, None] - grounds, axis=-1) > _LEAST_CONTRAST).all())


def random_scene(rng: np.random.Generator, **fixed: str) -> Scene:
    """Draws a scene; attributes given by name (`shape="star"`) are kept."""
    if not fixed and rng.random() < _SHARE_THINGS:
        fixed = dict(zip(("colour", "texture", "shape"), THINGS[str(rng.choice(list(THINGS)))]))
    shapes = HELD_OUT_SHAPES if rng.random() < _SHARE_HELD_OUT_SHAPE else SHAPES
    colours = HELD_OUT_COLOURS if rng.random() < _SHARE_HELD_OUT_COLOUR else COLOURS
    colour = fixed.get("colour") or str(rng.choice(colours))
    grounds = [name for name in BACKGROUNDS if goes_on(colour, name)]
    size, place = (
        fixed.get("size") or str(rng.choice(list(SIZES))),
        fixed.get("place") or str(rng.choice(list(PLACES))),
    )
    radius = SIZES[size] * rng.uniform(0.93, 1.07)
    # No outline reaches further than 1.13 radii; a margin of a pixel stays around it.
    room = SIDE / 2 - 1.13 * radius - 1.5
    shift = np.array(PLACES[place]) * min(room, 14.0) * rng.uniform(0.8, 1.0) + rng.uniform(-1.5, 1.5, 2)
    shift = np.clip(shift, -room, room)
    tilted = bool(rng.random() < 0.3)
    angle = rng.uniform(18, 32) * rng.choice([-1, 1]) if tilted else rng.uniform(-6, 6)
    return Scene(
        shape=fixed.get("shape") or str(rng.choice(shapes)),
        colour=colour,
        texture=fixed.get("texture") or str(rng.choice(TEXTURES)),
        background=fixed.get("background") or str(rng.choice(grounds)),
        size=size,
        place=place,
        tilted=tilted,
        centre=(float(shift[0]), float(shift[1])),
        radius=float(radius),
        angle=float(angle),
        phase=(float(rng.uniform(0, DOT_PERIOD)), float(rng.uniform(0, DOT_PERIOD))),
    )


def render(scene: Scene) -> np.ndarray:
    """Paints a scene: `[64, 64, 3]` uint8."""
    dx, dy = _X - scene.centre[0], _Y - scene.centre[1]
    cos, sin = np.cos(np.radians(scene.angle)), np.sin(np.radians(scene.angle))
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    distance = OUTLINES[scene.shape](x / scene.radius, y / scene.radius) * scene.radius
    # A pixel half covered is half of each: the edge is one pixel wide.
    cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    tone = second_tone_share(scene.texture, x + scene.phase[0], y + scene.phase[1])[..., None]
    paint = np.asarray(RGB[scene.colour], np.float32) * (1 - tone) + second_tone(scene.colour) * tone
    image = _backdrop(scene) * (1 - cover) + paint * cover
    return np.round(image).astype(np.uint8)


def render_batch(scenes: Sequence[Scene]) -> np.ndarray:
    """Paints several scenes: `[scenes, 64, 64, 3]` uint8."""
    return np.stack([render(scene) for scene in scenes])


def second_tone_share(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How much of a texture's second tone each point has, from 0 to 1.

    Args:
      texture: of `TEXTURES`.
      u: across the object, in pixels from the texture's origin.
      v: along it.
    """
    if texture == "striped":
        return np.clip(0.5 + 1.6 * np.sin(2 * np.pi * (u + v) / STRIPE_PERIOD), 0, 1)
    if texture == "dotted":
        middle = DOT_PERIOD / 2
        return np.clip(2.9 - np.hypot(u % DOT_PERIOD - middle, v % DOT_PERIOD - middle), 0, 1)
    if texture == "checked":
        side = CHECK_PERIOD / 2
        return np.clip(0.5 + 2.5 * np.sin(np.pi * u / side) * np.sin(np.pi * v / side), 0, 1)
    return np.zeros_like(u)


def _backdrop(scene: Scene) -> np.ndarray:
    """The background alone, `[64, 64, 3]` float32."""
    tones = np.asarray(BACKGROUNDS[scene.background], np.float32)
    u, v = _X + scene.phase[0] + SIDE, _Y + scene.phase[1] + SIDE
    share = np.zeros_like(_X)
    if scene.background == "night":
        share = np.clip(1.4 - np.hypot(u % 16 - 8, (v + 8 * (u // 16 % 2)) % 16 - 8), 0, 1)
    if scene.background == "wall":
        shifted = u + 6 * (v // 6 % 2)
        share = np.maximum(np.clip(1.2 - v % 6, 0, 1), np.clip(1.2 - shifted % 12, 0, 1))
    if scene.background == "beach":
        share = np.clip(_Y - 6 + scene.phase[1] / 2, 0, 1)
    return tones[0] + share[..., None] * (tones[-1] - tones[0])
