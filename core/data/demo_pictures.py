"""Synthetic dermatoscopy-like photographs.

Pigment (melanin) and blood absorb light by Beer and Lambert's law, so colours mix as they do in skin. A lesion adds
both, with an outline and a texture that depend on its class. The ranges of the classes overlap on purpose, so that a
network can learn them, but not perfectly. Spectrum and file size follow HAM10000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from core.data import images

Field = npt.NDArray[np.float32]  # (H, W)
Generator = np.random.Generator

HEIGHT, WIDTH = 450, 600
# Absorption of blue, green and red light by a unit of pigment and of blood
MELANIN = np.array([1.0, 0.7, 0.47], np.float32)
BLOOD = np.array([0.72, 0.95, 0.14], np.float32)
HAIR = np.array([0.9, 0.86, 0.76], np.float32)  # share of the light that a dark hair absorbs
VEIL_COLOUR = np.array([142, 112, 112], np.float32)  # blue-white veil over deep pigment
WHITE_COLOUR = np.array([214, 214, 232], np.float32)  # scale, scar, cysts


@dataclass(frozen=True)
class Recipe:
    """The ranges of a diagnosis, (low, high) each.

    radius: of the whole lesion in pixels. blobs: number of its parts. spread: their distance from the
    centre as a share of the radius. warp: displacement of the outline in pixels. softness: width of the border.
    melanin, blood: absorption in its middle. variegation: their variation inside. network, globules, veil, white,
    vessels: strength of these structures; lacunae: red lagoons instead of a flat colour; rim: pigment at the border
    rather than in the middle.
    """

    radius: tuple[float, float]
    blobs: tuple[int, int]
    spread: tuple[float, float]
    warp: tuple[float, float]
    softness: tuple[float, float]
    melanin: tuple[float, float]
    blood: tuple[float, float]
    variegation: tuple[float, float]
    network: tuple[float, float] = (0.0, 0.0)
    globules: tuple[float, float] = (0.0, 0.0)
    veil: tuple[float, float] = (0.0, 0.0)
    white: tuple[float, float] = (0.0, 0.0)
    vessels: tuple[float, float] = (0.0, 0.0)
    lacunae: tuple[float, float] = (0.0, 0.0)
    rim: tuple[float, float] = (0.0, 0.0)


RECIPES: Mapping[str, Recipe] = {
    "nv": Recipe(
        radius=(65, 125), blobs=(1, 2), spread=(0.05, 0.35), warp=(3, 14), softness=(0.18, 0.5),
        melanin=(0.7, 1.4), blood=(0.03, 0.2), variegation=(0.1, 0.4), network=(0.1, 0.6), globules=(0.0, 0.5),
    ),
    "mel": Recipe(
        radius=(110, 190), blobs=(3, 6), spread=(0.35, 0.75), warp=(10, 34), softness=(0.12, 0.45),
        melanin=(1.1, 2.3), blood=(0.1, 0.5), variegation=(0.35, 0.8), network=(0.1, 0.8), globules=(0.1, 0.9),
        veil=(0.1, 0.7), white=(0.0, 0.2),
    ),
    "bkl": Recipe(
        radius=(85, 165), blobs=(1, 4), spread=(0.2, 0.6), warp=(6, 24), softness=(0.06, 0.3),
        melanin=(0.25, 0.8), blood=(0.15, 0.45), variegation=(0.2, 0.6), network=(0.0, 0.25), globules=(0.0, 0.6),
        white=(0.1, 0.45),
    ),
    "bcc": Recipe(
        radius=(80, 155), blobs=(1, 4), spread=(0.2, 0.6), warp=(6, 22), softness=(0.25, 0.6),
        melanin=(0.02, 0.3), blood=(0.4, 0.9), variegation=(0.3, 0.7), globules=(0.0, 0.5), veil=(0.0, 0.4),
        white=(0.05, 0.4), vessels=(0.4, 1.0),
    ),
    "akiec": Recipe(
        radius=(85, 165), blobs=(1, 4), spread=(0.2, 0.6), warp=(8, 28), softness=(0.25, 0.7),
        melanin=(0.05, 0.4), blood=(0.4, 0.9), variegation=(0.3, 0.7), network=(0.0, 0.2), white=(0.2, 0.7),
        vessels=(0.0, 0.5),
    ),
    "df": Recipe(
        radius=(75, 140), blobs=(1, 2), spread=(0.05, 0.3), warp=(4, 14), softness=(0.4, 0.9),
        melanin=(0.25, 0.7), blood=(0.1, 0.4), variegation=(0.1, 0.4), network=(0.1, 0.4), white=(0.1, 0.3),
        rim=(0.6, 1.0),
    ),
    "vasc": Recipe(
        radius=(60, 130), blobs=(1, 4), spread=(0.2, 0.6), warp=(3, 12), softness=(0.06, 0.25),
        melanin=(0.0, 0.3), blood=(0.9, 1.9), variegation=(0.1, 0.4), veil=(0.0, 0.35), lacunae=(0.4, 1.0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Photograph:
    """One image to draw. Photographs with the same lesion number share the lesion's shape and the skin's colour."""

    number: int
    lesion: int
    label: str
    dx: str | None
    age: float | None
    sex: str
    localization: str

    @property
    def image_id(self) -> str:
        """The file's name without extension."""
        return f"DEMO_{self.number:07}"

    @property
    def path(self) -> str:
        """The path below the data set's root."""
        return f"{'images' if self.dx else 'negatives'}/{self.image_id}.jpg"


def draw(photograph: Photograph, seed: int) -> images.Pixels:
    """Draw one photograph, (450, 600, 3) BGR."""
    of_lesion = np.random.default_rng((seed, 1, photograph.lesion))
    of_view = np.random.default_rng((seed, 2, photograph.number))
    melanin, blood = skin(of_lesion, of_view)
    veil = white = np.zeros((HEIGHT, WIDTH), np.float32)
    if photograph.dx is not None:
        layers = view(lesion(RECIPES[photograph.dx], of_lesion), of_view)
        melanin, blood, veil, white = melanin + layers[0], blood + layers[1], layers[2], layers[3]
    else:
        melanin = melanin + freckles(of_view)
    hair = hairs(of_view)
    shade, balance, glints = lamp(of_view)
    planes = []
    for channel in range(3):  # blue, green, red; one plane at a time is several times faster than all three
        light = 248 * as_field(cv2.exp(-(MELANIN[channel] * melanin + BLOOD[channel] * blood)))
        light += veil * (VEIL_COLOUR[channel] - light)
        light += white * (WHITE_COLOUR[channel] - light)
        light *= (1 - HAIR[channel] * hair) * shade * balance[channel]
        light += glints * (245 - light)
        planes.append(light)
    return camera(planes, of_view)


def skin(of_lesion: Generator, of_view: Generator) -> tuple[Field, Field]:
    """Return melanin and blood of the skin around a lesion: uneven, mottled, finely lined and veined."""
    tone, flush = of_lesion.uniform(0.06, 0.24), of_lesion.uniform(0.14, 0.34)
    mottle = of_lesion.uniform(0.5, 1.3)
    melanin = tone * (0.9 + 0.09 * mottle * fractal(of_view, 220, 4, 0.35)) + 0.026 * mottle * fractal(
        of_view, 16, 2, 0.2
    )
    blood = flush * (0.9 + 0.08 * mottle * fractal(of_view, 160, 6, 0.35)) + 0.034 * mottle * fractal(
        of_view, 16, 2, 0.25
    )
    # Veins and brown net shine through in patches: ridges, where noise crosses zero
    ridges = np.exp(-((fractal(of_view, 70, 5, 0.8) / 0.12) ** 2)) * smoothstep(0.4 + fractal(of_view, 200, 50, 0.5))
    blood += of_view.uniform(0.0, 0.09) * ridges
    # A fine net of furrows between the skin's small fields
    furrows = cells(of_view, of_view.uniform(12, 24), 4.0) * np.float32(of_view.uniform(0.0, 0.05))
    furrows *= smoothstep(0.5 + 0.6 * fractal(of_view, 150, 40, 0.5))
    return np.maximum(melanin - furrows, 0), np.maximum(blood - 0.6 * furrows, 0)


def lesion(recipe: Recipe, rng: Generator) -> list[Field]:
    """Return melanin, blood, veil and white of a lesion in the middle of the picture."""
    v = {name: float(rng.uniform(*span)) for name, span in vars(recipe).items() if name != "blobs"}
    depth = outline(recipe, v, rng)
    # The border is partly sharp, partly blurred
    softness = v["softness"] * np.exp(0.55 * fractal(rng, 160, 50, 0.5))
    inside = smoothstep(0.5 + (depth + 0.22 * v["softness"] * fractal(rng, 30, 3, 0.45)) / softness)
    middle = smoothstep(depth / 1.2)

    variation = np.exp(v["variegation"] * fractal(rng, 120, 5, 0.75) - 0.5 * v["variegation"] ** 2)
    grain = 1 + 0.2 * fractal(rng, 16, 2, 0.35)
    melanin = v["melanin"] * variation * grain * (0.75 + 0.4 * middle) * (1 - v["rim"] * middle)
    if v["network"] > 0:
        net = cells(rng, rng.uniform(7, 12), 4.5)
        patches = smoothstep(0.45 + 0.7 * fractal(rng, 120, 30, 0.5))
        melanin *= 1 + v["network"] * patches * (1.5 * net - 0.8)
    melanin += 0.8 * v["globules"] * dots(rng, 90, (1.2, 4.0)) * smoothstep(0.3 + fractal(rng, 90, 30, 0.5))

    blood = v["blood"] * np.exp(0.6 * v["variegation"] * fractal(rng, 90, 4, 0.7))
    if v["vessels"] > 0:
        blood += 0.5 * v["vessels"] * vessels(rng)
    if v["lacunae"] > 0:
        lagoons = 1 - cells(rng, rng.uniform(20, 42), 5.0)
        blood *= 1 - v["lacunae"] + 1.35 * v["lacunae"] * lagoons

    veil = v["veil"] * smoothstep(0.1 + 0.7 * fractal(rng, 130, 15, 0.8)) * smoothstep(depth / 0.9)
    flakes = smoothstep(fractal(rng, 40, 3, 0.35) - 0.6)
    white = v["white"] * (0.45 * flakes + 0.6 * dots(rng, 14, (1.0, 3.0)) + 0.7 * v["rim"] * middle)
    # A flush around the lesion, wider than itself
    halo = 0.3 * v["blood"] * smoothstep((depth + 1.2) / 1.8)
    layers = [melanin * inside, blood * inside + halo * (1 - inside), veil * inside, white * inside]
    return [np.maximum(layer, 0) for layer in layers]


def outline(recipe: Recipe, v: Mapping[str, float], rng: Generator) -> Field:
    """Return the depth of each point in the lesion: 0 on its border, larger inside; blobs merge."""
    ys, xs = grid()
    xs = xs + np.float32(v["warp"]) * fractal(rng, 130, 12, 0.9)
    ys = ys + np.float32(v["warp"]) * fractal(rng, 130, 12, 0.9)
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for blob in range(int(rng.integers(recipe.blobs[0], recipe.blobs[1] + 1))):
        angle = rng.uniform(0, 2 * np.pi)
        distance = v["spread"] * v["radius"] * (rng.uniform(0.6, 1.0) if blob else 0.3)
        size = v["radius"] * (1 - 0.45 * v["spread"]) * (rng.uniform(0.5, 0.9) if blob else rng.uniform(0.75, 1.0))
        turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.72, 1.0)
        dx, dy = xs - np.float32(distance * np.cos(angle)), ys - np.float32(distance * np.sin(angle))
        along = (dx * np.float32(np.cos(turn)) + dy * np.float32(np.sin(turn))) / np.float32(size)
        across = (dy * np.float32(np.cos(turn)) - dx * np.float32(np.sin(turn))) / np.float32(size * stretch)
        total += as_field(cv2.exp(-(along * along + across * across)))
    return as_field(cv2.log(np.maximum(total, np.float32(1e-12)))) + 1


def view(layers: list[Field], rng: Generator) -> list[Field]:
    """Return the lesion as one photograph shows it: rotated, scaled, shifted."""
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), rng.uniform(0, 360), rng.uniform(0.85, 1.2))
    shift = np.zeros((2, 3))
    shift[:, 2] = rng.normal(0, (22, 16))
    return [as_field(cv2.warpAffine(layer, turn + shift, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)) for layer in layers]


def freckles(rng: Generator) -> Field:
    """Return melanin of the small spots that healthy skin may have."""
    if rng.random() < 0.65:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    spots = smoothstep(fractal(rng, 60, 8, 0.6) - rng.uniform(1.2, 2.2))
    return as_field(rng.uniform(0.1, 0.35) * spots)


def hairs(rng: Generator) -> Field:
    """Return how much hair covers each pixel, 0 to 1: curved strands in one direction, some out of focus."""
    count = int(rng.integers(4, 22)) if rng.random() < 0.3 else int(rng.integers(0, 4))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    direction = rng.uniform(0, np.pi)
    steps = np.linspace(0, 1, 24)[:, None]
    for _ in range(count):
        angle = direction + rng.normal(0, 0.35)
        start = rng.uniform((0, 0), (WIDTH, HEIGHT))
        along = np.array((np.cos(angle), np.sin(angle)))
        across = np.array((-along[1], along[0]))
        length, bend = rng.uniform(60, 420), rng.normal(0, 30)
        points = start + along * length * steps + across * bend * steps**2
        shade, thickness = int(rng.uniform(90, 235)), int(rng.choice((1, 2, 3), p=(0.5, 0.38, 0.12)))
        cv2.polylines(mask, [np.rint(points * 16).astype(np.int32)], False, shade, thickness, cv2.LINE_AA, 4)
    strength = as_field(cv2.GaussianBlur(mask, (0, 0), 0.6)) / 255
    focus = np.clip(0.8 + 0.35 * fractal(rng, 200, 60, 0.5), 0, 1)
    return as_field(strength * focus)


def lamp(rng: Generator) -> tuple[Field, Field, Field]:
    """Return uneven light with the dermatoscope's dark rim (H, W), white balance (3,), glints of the fluid (H, W)."""
    ys, xs = grid()
    ys, xs = ys - np.float32(rng.normal(0, 25)), xs - np.float32(rng.normal(0, 25))
    distance = np.sqrt(ys * ys + xs * xs) / 375  # 1 in the corners
    shade = 1 - rng.uniform(0.05, 0.25) * distance**2 + (rng.normal(0, 0.03) / 300) * xs
    shade *= rng.uniform(0.93, 1.03)
    if rng.random() < 0.16:
        shade = shade * smoothstep(as_field((rng.uniform(0.86, 1.0) - distance) / 0.06 + 0.5))
    balance = as_field(rng.normal((1.0, 1.0, 1.0), (0.035, 0.012, 0.02)))
    glints = np.zeros((HEIGHT, WIDTH), np.float32)
    if rng.random() < 0.35:
        glints = 0.75 * dots(rng, int(rng.integers(3, 20)), (0.7, 2.2))
    return as_field(shade), balance, as_field(glints)


def camera(planes: list[Field], rng: Generator) -> images.Pixels:
    """Add the skin's fine relief, blur and noise; return 8-bit pixels."""
    relief = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32) * np.float32(np.exp(rng.normal(np.log(4.7), 0.35)))
    colour = rng.standard_normal((3, HEIGHT, WIDTH), dtype=np.float32) * np.float32(rng.uniform(1.5, 2.6))
    sharp = cv2.GaussianBlur(cv2.merge(planes), (0, 0), rng.uniform(0.4, 0.7))
    grain = cv2.GaussianBlur(cv2.merge(list(colour + relief)), (0, 0), rng.uniform(0.55, 0.7))
    return images.as_pixels(cv2.add(sharp, grain, dtype=cv2.CV_8U))  # rounds and clips


def as_field(array: npt.ArrayLike) -> Field:
    """Return the array in single precision, copied only where needed."""
    return np.asarray(array, dtype=np.float32)


@lru_cache
def grid() -> tuple[Field, Field]:
    """Return row and column of every pixel relative to the picture's middle."""
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH]
    return as_field(ys - HEIGHT / 2), as_field(xs - WIDTH / 2)


def fractal(rng: Generator, coarsest: float, finest: float, roughness: float) -> Field:
    """Return noise of about unit variance with patches from `coarsest` to `finest` pixels, weighted by size**roughness.

    The octaves are added from the coarsest on; the resolution doubles before each.
    """
    octaves = 1 + max(0, int(np.log2(coarsest / finest)))
    rows, columns = int(HEIGHT / coarsest) + 3, int(WIDTH / coarsest) + 3
    total = np.zeros((rows, columns), np.float32)
    power = 0.0
    for octave in range(octaves):
        if octave:
            total = as_field(cv2.resize(total, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
            size = coarsest / 2**octave
            total = total[: int(HEIGHT / size) + 4, : int(WIDTH / size) + 4]
        weight = 2.0 ** (-octave * roughness)
        total = total + np.float32(weight) * rng.standard_normal(total.shape, dtype=np.float32)
        power += weight**2
    size = coarsest / 2 ** (octaves - 1)
    if size > 1:
        total = as_field(cv2.resize(total, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC))
    top, left = rng.integers(0, (total.shape[0] - HEIGHT + 1, total.shape[1] - WIDTH + 1))
    crop = total[top : top + HEIGHT, left : left + WIDTH]
    return as_field(crop * np.float32(1.35 / np.sqrt(power)))


def cells(rng: Generator, size: float, warp: float) -> Field:
    """Return a net around cells of about `size` pixels, warped: 1 on its lines, 0 in the cells' middles."""
    margin = 2 * size
    ys, xs = np.mgrid[-margin : HEIGHT + margin : 0.87 * size, -margin : WIDTH + margin : size]
    xs[::2] += size / 2
    points = np.stack([ys, xs], axis=-1) + rng.normal(0, 0.2 * size, (*ys.shape, 2))
    rows, columns = np.rint(points + margin).astype(int).reshape(-1, 2).T
    seeds = np.full((HEIGHT + int(2 * margin), WIDTH + int(2 * margin)), 255, np.uint8)
    held = (rows >= 0) & (columns >= 0) & (rows < seeds.shape[0]) & (columns < seeds.shape[1])
    seeds[rows[held], columns[held]] = 0
    distance = as_field(cv2.distanceTransform(seeds, cv2.DIST_L2, 5)) / np.float32(0.62 * size)
    to_row, to_column = grid()
    to_row = to_row + np.float32(HEIGHT / 2 + margin) + np.float32(warp) * fractal(rng, 40, 10, 0.7)
    to_column = to_column + np.float32(WIDTH / 2 + margin) + np.float32(warp) * fractal(rng, 40, 10, 0.7)
    warped = cv2.remap(distance, to_column, to_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return smoothstep((as_field(warped) - np.float32(0.35)) / np.float32(0.6))


def dots(rng: Generator, count: int, radius: tuple[float, float]) -> Field:
    """Return soft round spots at random places, 0 to 1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, column, size, shade in rng.uniform((0, 0, radius[0], 90), (HEIGHT, WIDTH, radius[1], 255), (count, 4)):
        center, across = (int(column * 16), int(row * 16)), int(size * 16)
        cv2.circle(mask, center, across, int(shade), cv2.FILLED, cv2.LINE_AA, 4)
    return as_field(cv2.GaussianBlur(mask, (0, 0), 0.9)) / np.float32(255)


def vessels(rng: Generator) -> Field:
    """Return branching vessels in the middle of the picture, 0 to 1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(int(rng.integers(4, 9))):
        stems = [(rng.normal((HEIGHT / 2, WIDTH / 2), (70, 90)), rng.uniform(0, 2 * np.pi), 3)]
        while stems:
            start, angle, thickness = stems.pop()
            bends = angle + np.cumsum(rng.normal(0, 0.28, 12))
            path = start + np.cumsum(np.column_stack([np.sin(bends), np.cos(bends)]) * rng.uniform(4, 8), axis=0)
            corners = np.rint(path[:, ::-1] * 16).astype(np.int32)
            cv2.polylines(mask, [corners], False, int(rng.uniform(120, 230)), thickness, cv2.LINE_AA, 4)
            if thickness > 1:
                stems += [(path[index], bends[index] + rng.normal(0, 0.8), thickness - 1) for index in (5, 9, 11)]
    return as_field(cv2.GaussianBlur(mask, (0, 0), 1.0)) / np.float32(255)


def smoothstep(x: Field) -> Field:
    """Return 0 for x ≤ 0, 1 for x ≥ 1, and 3x² − 2x³ between."""
    t = np.minimum(np.maximum(x, 0), 1)
    return as_field(t * t * (3 - 2 * t))
