"""Finds the separate modes of a posterior of many local latent variables, which are integrated out.

The global variables are few: rays from the mode found first show where their density rises again. Of the local ones,
each is moved alone, all of a color at a time; and all of a latent variable are shifted together, as the level of a
series. What lies beyond a valley is a start of another climb.
"""

from collections.abc import Sequence

import numpy as np

from tfvae.inference import modes, newton, valleys
from tfvae.inference.density import Density
from tfvae.inference.nested_laplace import End, Search, State, StructuredGaussian
from tfvae.inference.structure import multiply, places_of

# The most points at which the local variables are integrated out, and numbers of which these points may consist.
_FEWEST_POINTS, _MOST_POINTS, _NUMBERS = 44, 400, 2**18
# The most climbs from starts beyond a valley, and from how many local variables, each moved alone, these are chosen.
_MOST_CLIMBS, _CHOSEN = 4, 32
# The most latent variables of which all local ones are shifted together.
_MOST_LEVELS = 8
# A local variable has another mode where the density rises, along it, by this slope in nats per standard deviation.
_SLOPE = 0.3
# Local variables are moved as far, in smaller steps.
_DISTANCES = 3.0 * 1.3 ** np.arange(17)
# How many numbers of the precision of a density there must be in a standard deviation.
_SPACINGS = 16.0
# How far out a density of global variables is followed, in standard deviations, and how far it must fall at each of the
# last steps, in nats. With a finite integral it falls by the logarithm of the ratio of their distances at least, 0.35.
_FAR, _FALL, _LAST = 4.0 * 2.0 ** (0.5 * np.arange(25)), 0.15, 2


def flat(search: Search, density: Density, end: End) -> np.ndarray:
    """Which global variables [L] have a density that does not fall, far out along one of them.

    The local variables are integrated out: their scale may go to 0, where their own density grows without bound.

    Args:
        search: finds Gaussians near the density.
        density: the density.
        end: where the density is followed from; from the origin, if the end is so far out that it is not resolved.
    """
    remaining = np.zeros(density.dim, bool)
    if not search.size:
        return remaining
    state, deviations = end.state, np.sqrt(np.diag(end.metric))
    if not _is_resolved(end, density.epsilon):
        state = search.state(np.zeros_like(state.globals), np.zeros_like(state.local))
        deviations = np.ones(search.size)
    of_globals = _OfGlobals(search, density, [state])
    for index, deviation in enumerate(deviations):
        for sign in (-1.0, 1.0):
            globals_ = np.repeat(state.globals, len(_FAR), axis=0)
            globals_[:, index] += sign * deviation * _FAR
            values = of_globals(globals_)
            falls = -np.diff(values[np.isfinite(values)])[-_LAST:]
            remaining[search.pattern.order[index]] |= len(falls) == _LAST and bool(np.all(falls < _FALL))
    return remaining


def separate(
    search: Search, density: Density, ends: list[End], shapes: list[tuple[int, ...]]
) -> list[modes.Mode[StructuredGaussian]]:
    """Finds the modes with at least 1% of the mass, the largest first.

    Args:
        search: finds Gaussians near the density.
        density: the density.
        ends: where its climbs from the first starts ended.
        shapes: the unconstrained shapes of the latent variables, in their order in z.
    """
    return _Modes(search, density, shapes).find(ends)


class _Modes:
    def __init__(self, search: Search, density: Density, shapes: list[tuple[int, ...]]) -> None:
        self.search, self.density, self.shapes = search, density, shapes
        self.found: list[End] = []

    def find(self, ends: list[End]) -> list[modes.Mode[StructuredGaussian]]:
        """See `separate`."""
        best, *others = sorted(ends, key=lambda end: -end.evidence)
        self.found = [best]
        for end in others:
            self.add(end)
        for state in self.starts(best):
            self.add(self.search.end(state))
        evidences = np.array([end.evidence for end in self.found])
        shares = np.exp(evidences - np.logaddexp.reduce(evidences))
        pairs = sorted(zip(shares, self.found, strict=True), key=lambda pair: -pair[0])
        return [
            modes.Mode(self.search.gaussian(end.state, end.metric), float(share))
            for share, end in pairs
            if share >= modes.LOWEST_SHARE
        ]

    def add(self, end: End) -> None:
        """Adds an end to those that were found, if it has a good part of the mass and is a mode of its own."""
        highest = max(each.evidence for each in self.found)
        if len(self.found) == modes.MOST_MODES or not end.evidence > highest + np.log(modes.LOWEST_SHARE):
            return
        if _is_resolved(end, self.density.epsilon) and all(self.are_apart(each, end) for each in self.found):
            self.found.append(end)

    def are_apart(self, first: End, second: End) -> bool:
        """Whether two ends are far apart, and the density falls between them."""
        move = (second.state.globals - first.state.globals)[0]
        density: Density
        if len(move) and all(move @ np.linalg.solve(each.metric, move) > modes.APART**2 for each in (first, second)):
            density = _OfGlobals(self.search, self.density, [first.state, second.state])
            gaussian = newton.Gaussian(first.state.globals[0], np.linalg.cholesky(first.metric), np.nan)
            return modes.dip(density, gaussian, second.state.globals[0]) > modes.DIP
        if not _are_moved(first.state, second.state):
            return False
        density = _OfLocals(self.search, self.density, first.state.globals)
        gaussian = newton.Gaussian(first.state.local[0], _deviations(first.state.root)[0], np.nan)
        return modes.dip(density, gaussian, second.state.local[0]) > modes.DIP

    def starts(self, end: End) -> list[State]:
        """States beyond a valley, seen from an end; those of the highest density."""
        found = [self.of_locals(end.state), self.of_globals(end)]
        return [state for states in found for state in states]

    def of_locals(self, state: State) -> list[State]:
        """States with other modes of the local variables, given the same global ones."""
        candidates = np.concatenate([self.moved(state), self.shifted(state)])
        globals_ = np.repeat(state.globals, len(candidates), axis=0)
        local, root = self.search.modes(globals_, candidates)
        values = self.density(self.search.join(globals_, local))
        found: list[State] = []
        for index in np.argsort(-np.where(np.isfinite(values), values, -np.inf)):
            other = State(globals_[:1], local[[index]], root[[index]], values[[index]], np.zeros([1, self.search.size]))
            if np.isfinite(values[index]) and all(_are_moved(each, other) for each in [state, *found]):
                found.append(other)
        return [self.search.state(each.globals, each.local) for each in found[:_MOST_CLIMBS]]

    def moved(self, state: State) -> np.ndarray:
        """Local variables [P, N] of which one is moved to where the density rises along it, away from its mode."""
        search, probes = self.search, self.search.pattern.probes
        deviations = _deviations(state.root)[0]
        found: list[tuple[float, int, float]] = []
        for sign in (1.0, -1.0):
            moves = sign * _DISTANCES[:, np.newaxis, np.newaxis] * probes * deviations
            local = (state.local + moves).reshape(-1, search.count)
            gradients = search.gradients(search.join(np.repeat(state.globals, len(local), axis=0), local))[1]
            gradients = gradients[:, search.pattern.order[search.size :]].reshape(moves.shape)
            # Each local variable is moved together with those of its color, none of which is near it.
            slopes = sign * deviations * gradients[:, search.pattern.color, np.arange(search.count)]
            steepest = np.nan_to_num(slopes, nan=-np.inf, posinf=-np.inf).argmax(axis=0)
            for place, row in enumerate(steepest):
                if _SLOPE < slopes[row, place] < np.inf:
                    found.append((slopes[row, place], place, sign * _DISTANCES[row] * deviations[place]))
        chosen = sorted(found, reverse=True)[:_CHOSEN]
        local = np.repeat(state.local, len(chosen), axis=0)
        for row, (_, place, move) in enumerate(chosen):
            local[row, place] += move
        return local

    def shifted(self, state: State) -> np.ndarray:
        """Local variables [P, N] of which all of one name are shifted together, or have other signs or labels."""
        search = self.search
        precision = search.curvature(state.globals, state.local)[2][0]
        levels = []
        for block in search.pattern.blocks:
            for column in places_of(block).T:
                ones = np.isin(search.pattern.order[search.size :], column).astype(float)
                levels.append(ones / np.sqrt(max(ones @ multiply(precision, ones), 1e-30)))
        steps = np.concatenate([valleys.DISTANCES, -valleys.DISTANCES])
        at = search.join(state.globals[0], state.local[0])
        others = np.array(valleys.relabelled(at, self.shapes))[:, search.pattern.order[search.size :]]
        shifts = [state.local + steps[:, np.newaxis] * level for level in levels[:_MOST_LEVELS]]
        return np.concatenate([*shifts, others])

    def of_globals(self, end: End) -> list[State]:
        """States at other values of the global variables, where their density is highest beyond a valley."""
        search, state = self.search, end.state
        if not search.size:
            return []
        density = _OfGlobals(search, self.density, [state])
        at = search.join(state.globals[0], state.local[0])
        rays = []
        for ray in valleys.toward(at, valleys.relabelled(at, self.shapes)):
            ordered = ray[:, search.pattern.order]
            rays.append((ordered[:, : search.size], ordered[:, search.size :]))
        for ray in valleys.outward(state.globals[0], valleys.axes(end.metric, np.random.default_rng(0))):
            rays.append((ray, density.guesses(ray)))
        points = max(_NUMBERS // (search.count * len(search.pattern.probes)), _FEWEST_POINTS)
        rays = rays[: max(min(points, _MOST_POINTS) // len(rays[0][0]), 1)]
        globals_, guesses = (np.concatenate(parts) for parts in zip(*rays, strict=True))
        values, local = density.integrated(globals_, guesses)
        height, first, found = density(state.globals)[0], 0, []
        for ray, _ in rays:
            of_ray = slice(first, first + len(ray))
            for _, place in valleys.rises(height, values[of_ray][np.newaxis]):
                found.append((values[first + place], first + place))
            first += len(ray)
        best = [index for _, index in sorted(found, reverse=True)[:_MOST_CLIMBS]]
        return [search.state(globals_[[index]], local[[index]]) for index in best]


class _OfGlobals(Density):
    """The log density of the global variables, in which the local ones are integrated out around their mode.

    Args:
        search: finds these modes.
        density: the density of all variables.
        states: where the modes of the local variables are known.
    """

    def __init__(self, search: Search, density: Density, states: Sequence[State]) -> None:
        self.search, self.density, self.states = search, density, states
        self.dim, self.dtype, self.epsilon = search.size, density.dtype, density.epsilon
        self.follow = [search.dependence(state)[1] for state in states]

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The values [P] at global variables [P, G]."""
        return self.integrated(z, self.guesses(z))[0]

    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values [P] and gradients [P, G]; the products with directions are not computed, and are 0."""
        state = self.search.state(z, self.guesses(z))
        return state.value, state.slope, np.zeros_like(directions)

    def integrated(self, globals_: np.ndarray, guesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values [P], NaN where they are rounding errors, and the modes of the local variables [P, N].

        Args:
            globals_: the global variables [P, G].
            guesses: local variables [P, N] near their modes.
        """
        local, root = self.search.modes(globals_, guesses)
        values = self.density(self.search.join(globals_, local)) - np.log(root[:, 0]).sum(axis=1)
        return np.where(_are_resolved(local, root, self.epsilon), values, np.nan), local

    def guesses(self, globals_: np.ndarray) -> np.ndarray:
        """Local variables [P, N] near their mode given global ones [P, G]: the best of some guesses."""
        tried = []
        for state, follow in zip(self.states, self.follow, strict=True):
            tried += [
                np.repeat(state.local, len(globals_), axis=0),
                state.local + (globals_ - state.globals) @ follow.T,
            ]
        values = np.stack([self.density(self.search.join(globals_, local)) for local in tried])
        best = np.where(np.isfinite(values), values, -np.inf).argmax(axis=0)
        return np.stack(tried)[best, np.arange(len(globals_))]


class _OfLocals(Density):
    """The log density of the local variables, given global ones [1, G]."""

    def __init__(self, search: Search, density: Density, globals_: np.ndarray) -> None:
        self.search, self.density, self.globals = search, density, globals_
        self.dim, self.dtype, self.epsilon = search.count, density.dtype, density.epsilon

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The values [P] at local variables [P, N]."""
        return self.density(self.search.join(np.repeat(self.globals, len(z), axis=0), z))

    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values [P] and gradients [P, N]; the products with directions are not computed, and are 0."""
        values, gradients = self.search.gradients(self.search.join(np.repeat(self.globals, len(z), axis=0), z))
        return values, gradients[:, self.search.pattern.order[self.search.size :]], np.zeros_like(directions)


def _deviations(root: np.ndarray) -> np.ndarray:
    """The standard deviations [P, N] of local variables given all others, by the roots [P, W + 1, N]."""
    total = np.zeros_like(root[:, 0])
    for k in range(root.shape[1]):
        total[:, k:] += root[:, k, : total.shape[1] - k] ** 2
    return 1.0 / np.sqrt(total)


def _are_resolved(local: np.ndarray, root: np.ndarray, epsilon: float) -> np.ndarray:
    """Whether numbers of a precision epsilon lie dense enough [P] for all local variables [P, N]."""
    return np.all(_deviations(root) > _SPACINGS * epsilon * np.abs(local), axis=1)


def _is_resolved(end: End, epsilon: float) -> bool:
    """Whether the precision of a density is enough for the Gaussian at an end."""
    deviations = np.sqrt(np.diag(end.metric))
    is_dense = np.all(deviations > _SPACINGS * epsilon * np.abs(end.state.globals[0]))
    return bool(is_dense and _are_resolved(end.state.local, end.state.root, epsilon)[0])


def _are_moved(first: State, second: State) -> bool:
    """Whether one of the local variables differs between two states."""
    deviations = np.maximum(_deviations(first.root), _deviations(second.root))
    return bool(np.max(np.abs(first.local - second.local) / deviations) > modes.APART)
