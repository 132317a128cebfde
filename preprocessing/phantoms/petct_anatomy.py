"""The head and neck of a phantom patient, as shapes in millimetres that can be drawn on any grid.

Coordinates: x to the right, y to the front, z to the head; x and y from the middle of the neck, z from the lower end of
the CT, 120 mm below its upper one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.phantoms.shapes import Axes, Lump, Point, ellipsoid, make_lump, make_ripple

PRIMARY, NODE = 1, 2  # label ids

# Hounsfield units and standardised uptake value of each tissue
TISSUES: dict[str, tuple[float, float]] = {
    "air": (-1000, 0.03),
    "support": (-350, 0.0),
    "fat": (-100, 0.35),
    "muscle": (55, 0.9),
    "bone": (750, 0.7),
    "marrow": (230, 1.4),
    "disc": (90, 0.6),
    "nerve": (35, 1.6),
    "brain": (36, 7.5),
    "vessel": (55, 1.5),
    "gland": (15, 2.4),
    "tonsil": (60, 4.5),
    "brown fat": (-85, 5.0),
    "benign node": (48, 1.1),
}
ID = {name: i for i, name in enumerate(TISSUES)}

# half width and half depth of the body at some heights
_HEIGHTS = (-40, 0, 18, 45, 70, 100, 170)
_WIDTHS = (120, 70, 55, 57, 63, 66, 64)
_DEPTHS = (85, 58, 52, 60, 69, 71, 69)
_SOFT = ("fat", "muscle", "vessel", "gland", "tonsil", "brown fat", "benign node")  # where lesions grow


@dataclass(frozen=True)
class Lesion:
    """A tumour or a node; `uptake` is the SUV of its living part, `necrotic` the share of its radius that is not."""

    lump: Lump
    label: int
    hu: float
    uptake: float
    necrotic: float


class Patient:
    """Everything about a patient that is random, but for the noise."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.size = rng.uniform(0.92, 1.04)
        self.lean = rng.uniform(-0.06, 0.06, 2)
        self.fat = rng.uniform(4, 10)
        self.contrast = rng.uniform(80, 130) if rng.random() < 0.5 else 0.0  # HU that vessels gain by contrast medium
        self.airway = (float(rng.uniform(-2, 2)), float(rng.uniform(12, 18)))
        self.planes = make_ripple(rng, 26)  # fat between muscles
        self.folds = make_ripple(rng, 18)  # of the brain
        self.organs = list(_organs(rng))
        self.lesions = list(self._lesions(rng))

    def tissues(self, axes: Axes) -> np.ndarray:
        """uint8 [X, Y, Z] ids of tissues, without the lesions."""
        x, y, z = axes[0] - self.lean[0] * (axes[2] - 60), axes[1] - self.lean[1] * (axes[2] - 60), axes[2]
        tissue = np.zeros([axis.size for axis in axes], np.uint8)
        _paint(tissue, "support", (np.abs(np.hypot(axes[0], axes[1]) - 77) < 1.6) & (axes[1] < -15))
        inner = self._body(x, y, z, self.fat)
        _paint(tissue, "fat", self._body(x, y, z, 0))
        _paint(tissue, "muscle", inner & (np.abs(self.planes.on(axes)) > 0.17))
        _paint_spine(tissue, x, y, z)
        jaw = np.hypot(x / 45, (y - 10) / 46)
        _paint(tissue, "bone", (np.abs(jaw - 0.92) < 0.07) & (y > 5) & (np.abs(z - 50 - 0.25 * np.abs(x)) < 8) & inner)
        for name, lump in self.organs:
            _paint(tissue, name, (lump.level(axes) < 1) & inner & (tissue != ID["bone"]))
        for across, front, radius in ((27, 3, 3.5), (33, -3, 5.0)):  # carotid arteries, jugular veins
            _paint(tissue, "vessel", ((np.abs(x) - across) ** 2 + (y - front) ** 2 < radius**2) & (z < 82))
        lumen = ((x - self.airway[0]) / 8.5) ** 2 + ((y - self.airway[1]) / 6) ** 2
        _paint(tissue, "air", (lumen < 1) & (z < 78))
        _paint(tissue, "air", ellipsoid((np.abs(x) - 9, y, z), (0, 40, 90), (6, 20, 10)) < 1)  # nose
        skull = ellipsoid((x, y, z), (0, -2, 154), (59 * self.size, 66 * self.size, 58))
        _paint(tissue, "bone", (skull < 1) & inner)
        _paint(tissue, "brain", (skull < 0.9) & inner)
        return tissue

    def extent(self, lesion: Lesion, tissue: np.ndarray, axes: Axes) -> tuple[np.ndarray, np.ndarray]:
        """bool [X, Y, Z], twice: where a lesion lies among tissues, and where it is necrotic."""
        level = lesion.lump.level(axes)
        soft = np.array([name in _SOFT for name in TISSUES])
        inside = (level < 1) & soft[tissue]
        return inside, inside & (level < lesion.necrotic)

    def _body(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, skin: float) -> np.ndarray:
        width, depth = (
            (self.size * np.interp(z, _HEIGHTS, half) - skin).astype(np.float32) for half in (_WIDTHS, _DEPTHS)
        )
        return (x / width) ** 2 + (y / depth) ** 2 < 1

    def _lesions(self, rng: np.random.Generator) -> Iterator[Lesion]:
        """A primary tumour beside the airway, nodes at the sides of the neck, or both."""
        primary = rng.random() < 0.85
        if primary:
            radius, angle = rng.uniform(10, 17), rng.uniform(0, 2 * np.pi)
            away = 7 + 0.6 * radius
            centre = (
                self.airway[0] + away * np.cos(angle), self.airway[1] + 0.7 * away * np.sin(angle), rng.uniform(22, 66)
            )  # fmt: skip
            yield _lesion(rng, centre, radius, PRIMARY)
        for _ in range(max(not primary, rng.choice(4, p=[0.3, 0.3, 0.25, 0.15]))):
            yield _lesion(rng, _beside_vessels(rng), rng.uniform(6, 11), NODE)


def _lesion(rng: np.random.Generator, centre: Point, radius: float, label: int) -> Lesion:
    necrotic = rng.uniform(0.4, 0.65) if radius > 8 and rng.random() < 0.4 else 0.0
    hu, uptake = rng.uniform(58, 80), np.exp(rng.uniform(np.log(4), np.log(12)))
    return Lesion(make_lump(rng, centre, radius, 0.16), label, hu, float(uptake), necrotic)


def _organs(rng: np.random.Generator) -> Iterator[tuple[str, Lump]]:
    """Glands, tonsils and brown fat, which come in pairs that are alike but not the same; nodes that are benign."""
    pairs: list[tuple[str, Point, float]] = [
        ("gland", (49, -4, 66), 10),
        ("gland", (27, 22, 42), 8),
        ("tonsil", (15, 12, 64), rng.uniform(5, 7)),
    ]
    if rng.random() < 0.4:
        pairs.append(("brown fat", (44, -20, 14), rng.uniform(7, 9)))
    for name, (across, front, height), radius in pairs:
        for side in (-1, 1):
            dx, dy, dz = rng.uniform(-2, 2, 3)
            centre = (side * across + dx, front + dy, height + dz)
            yield name, make_lump(rng, centre, radius * rng.uniform(0.9, 1.1), 0.15)
    for _ in range(rng.integers(0, 4)):
        yield "benign node", make_lump(rng, _beside_vessels(rng), rng.uniform(4, 7), 0.1)


def _beside_vessels(rng: np.random.Generator) -> Point:
    return rng.choice((-1, 1)) * rng.uniform(27, 40), rng.uniform(-14, 12), rng.uniform(14, 62)


def _paint_spine(tissue: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    body, ring, phase = (x / 13) ** 2 + ((y + 16) / 10) ** 2, np.hypot(x, y + 34), np.mod(z, 19)
    low = z < 104  # the skull begins
    _paint(tissue, "bone", (body < 1) & low)
    _paint(tissue, "marrow", (body < 0.65) & low)
    _paint(tissue, "disc", (body < 1) & (phase < 4.5) & low)
    _paint(tissue, "bone", (ring < 12.5) & (ring > 8) & (phase > 7) & low)
    _paint(tissue, "nerve", (ring < 8) & low)


def _paint(tissue: np.ndarray, name: str, where: np.ndarray) -> None:
    tissue[np.broadcast_to(where, tissue.shape)] = ID[name]
