"""Pictures whose factors are known: one of three shapes, white on black, of 32 x 32 pixels, in all of its forms.

    python benchmarks/sprites.py sprites.npz     # x [13824, 32, 32, 1] of 0 and 1, factors [13824, 5]

The factors, each with all values of the others, and so independent of them:

- shape: an ellipse, a triangle and a heart, none of which looks the same at two of the rotations;
- scale: 4 sizes, from 0.6 to 1;
- rotation: 8 angles, from -60 to 60 degrees;
- x and y: 12 places each, 12 pixels from end to end, so that no shape is cut off.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

SIDE = 32
FACTORS = ("shape", "scale", "rotation", "x", "y")
SIZES = (3, 4, 8, 12, 12)
# The largest distance of a shape from its centre, and of its centre from that of the picture, in pixels.
RADIUS, MOST = 8.5, 6.0


def is_inside(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points are in a shape of radius 1.

    Args:
        shape: the number of the shape.
        u: how far the points are to the right.
        v: how far the points are up.
    """
    if shape == 0:
        return (u / 0.5) ** 2 + v**2 <= 1
    if shape == 1:
        # From the tip at the top to the base, narrower than it is high.
        return (v >= -0.8) & (np.abs(u) <= 0.3 * (1 - v))
    a, b = 1.35 * u, 1.35 * v + 0.15
    return (a**2 + b**2 - 1) ** 3 <= 2 * a**2 * b**3


def sprites() -> tuple[np.ndarray, np.ndarray]:
    """Draws the pictures, uint8 [N, 32, 32, 1], and numbers the values of their factors from 0, [N, 5]."""
    factors = np.array(list(itertools.product(*map(range, SIZES))))
    scales, angles = np.linspace(0.6, 1, SIZES[1]), np.radians(np.linspace(-60, 60, SIZES[2]))
    centers, places = np.arange(SIDE) - (SIDE - 1) / 2, np.linspace(-MOST, MOST, SIZES[3])
    # How far each column and each row is from each place [12, 32].
    away = centers - places[:, np.newaxis]
    across, above = away[:, np.newaxis, np.newaxis], away[:, ::-1, np.newaxis]
    pictures = []
    for shape, scale, angle in itertools.product(*map(range, SIZES[:3])):
        size, turn = RADIUS * scales[scale], angles[angle]
        u = (np.cos(turn) * across + np.sin(turn) * above) / size
        v = (np.cos(turn) * above - np.sin(turn) * across) / size
        pictures.append(is_inside(shape, u, v))
    return np.array(pictures, np.uint8).reshape(-1, SIDE, SIDE, 1), factors


def main() -> None:
    """Writes the pictures and their factors to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the .npz file")
    x, factors = sprites()
    np.savez_compressed(parser.parse_args().path, x=x, factors=factors, names=FACTORS)


if __name__ == "__main__":
    main()
