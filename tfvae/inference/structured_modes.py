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

# At how many points the local variables are integrated out: as many as have this many numbers in all, within bounds, of
# which the lower one leaves four rays.
_NUMBERS, _FEWEST_POINTS, _MOST_POINTS = 2**18, 44, 400
# The most climbs from starts beyond a valley, and from how many local variables, each moved alone, these are chosen.
_MOST_CLIMBS, _CHOSEN = 4, 32
# The most latent variables of which all local ones are shifted together.
_MOST_LEVELS = 8
# A local variable has another mode where the density rises, along it, by this slope in nats per standard deviation.
_SLOPE = 0.3
# How far local variables are moved, in standard deviations: as far as along a ray, in smaller steps.
_DISTANCES = 3.0 * 1.3 ** np.arange(17)
# A standard deviation must be at least this many times the spacing of floating-point numbers there.
_SPACINGS = 16.0
# How far out a density of global variables is followed, in standard deviations, and how far it must fall at each of the
# last steps, in nats. With a finite integral it falls by the logarithm of the ratio of their distances at least, 0.35.
_FAR, _FALL, _LAST = 4.0 * 2.0 ** (0.5 * np.arange(25)), 0.15, 2
# From how many modes others are sought, the best ones first, and the most climbs of each kind from all but the first.
_SEARCHES, _LATER_CLIMBS = 4, 2
# By how many nats the evidence of an end may be too low, because the curvature that a climb leaves behind is rough; and
# by how many nats one of two ends that are not apart is surely the better one.
_ERROR, _BETTER = 5.0, 2.0
# An end is a saddle if the curvature in one direction is below this, relative to its size there.
_SADDLE = -0.1
# Draws of each of several modes, from which their shares of the mass are found.
_DRAWS = 1024


def flat_globals(search: Search, density: Density, end: End) -> np.ndarray:
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
        for end in sorted(ends, key=lambda end: -end.evidence):
            self.add(end)
        searched: list[End] = []
        while len(searched) < _SEARCHES:
            fresh = [each for each in self.found if not any(each is other for other in searched)]
            if not fresh:
                break
            end = fresh[0]
            searched.append(end)
            # Later ones mostly lead back to what is known.
            most = _MOST_CLIMBS if len(searched) == 1 else _LATER_CLIMBS
            for state in self.starts(end, most):
                if not any(_is_near(state, each) for each in self.found):
                    self.add(self.search.end(state))
        gaussians = [self.search.gaussian(end.state, end.metric) for end in self.found]
        if len(gaussians) == 1:
            return [modes.Mode(gaussians[0], 1.0)]
        evidences = np.array([_evidence(self.density, gaussian) for gaussian in gaussians])
        shares = np.exp(evidences - np.logaddexp.reduce(evidences)).tolist()
        found = [modes.Mode(each, share) for each, share in zip(gaussians, shares, strict=True)]
        return sorted((mode for mode in found if mode.share >= modes.LOWEST_SHARE), key=lambda mode: -mode.share)

    def add(self, end: End) -> None:
        """Adds an end to those that were found, if it has a good part of the mass and is a mode of its own."""
        if not self.found:
            self.found.append(end)
            return
        least = max(each.evidence for each in self.found) + np.log(modes.LOWEST_SHARE) - _ERROR
        if len(self.found) == modes.MOST_MODES:
            least = max(least, min(each.evidence for each in self.found))
        if not end.evidence > least or not _is_resolved(end, self.density.epsilon):
            return
        near = [each for each in self.found if not self.are_apart(each, end)]
        # A climb may have stopped on its way to where this one ended.
        if all(_is_better(end, each) for each in near):
            least = end.evidence + np.log(modes.LOWEST_SHARE) - _ERROR
            kept = [each for each in self.found if each.evidence > least and not any(each is other for other in near)]
            self.found = sorted([end, *kept], key=lambda each: -each.evidence)[: modes.MOST_MODES]

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

    def starts(self, end: End, most: int) -> list[State]:
        """States beyond a valley, seen from an end, those of the highest density; and beside it, if it is a saddle."""
        found = [self.beside(end), self.of_locals(end.state, most), self.of_globals(end, most)]
        return [state for states in found for state in states]

    def beside(self, end: End) -> list[State]:
        """States on both sides of a saddle, such as the one of loadings and factors that are all 0; else none."""
        if not self.search.size:
            return []
        root = np.linalg.cholesky(end.metric)
        curvature, follow = self.search.dependence(end.state)
        values, directions = np.linalg.eigh(root.T @ curvature @ root)
        if not values[0] < _SADDLE:
            return []
        moves = np.outer([1.0, -1.0], root @ directions[:, 0])
        return [self.search.state(end.state.globals + move, end.state.local + follow @ move) for move in moves]

    def of_locals(self, state: State, most: int) -> list[State]:
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
        return [self.search.state(each.globals, each.local) for each in found[:most]]

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
        others = valleys.relabelled(at, self.shapes)
        others[:, search.pattern.order[: search.size]] = state.globals
        deviations = search.join(np.full(search.size, np.inf), _deviations(state.root)[0])
        images = valleys.images(self.density, at, deviations, others, modes.MOST_IMAGES, modes.APART)
        shifts = [state.local + steps[:, np.newaxis] * level for level in levels[:_MOST_LEVELS]]
        return np.concatenate([*shifts, *(image[np.newaxis, search.pattern.order[search.size :]] for image in images)])

    def of_globals(self, end: End, most: int) -> list[State]:
        """States at other values of the global variables, where their density is highest beyond a valley."""
        search, state = self.search, end.state
        if not search.size:
            return []
        density = _OfGlobals(search, self.density, [state])
        at = search.join(state.globals[0], state.local[0])
        points = max(_NUMBERS // (search.count * len(search.pattern.probes)), _FEWEST_POINTS)
        count = max(min(points, _MOST_POINTS) // len(valleys.DISTANCES), 1)
        # Local variables follow the global ones.
        deviations = search.join(np.sqrt(np.diag(end.metric)), np.full(search.count, np.inf))
        candidates, num_images = valleys.relabelled(at, self.shapes), min(modes.MOST_IMAGES, max(count // 3, 1))
        images = valleys.images(self.density, at, deviations, candidates, num_images, modes.APART)
        rays = []
        for ray in valleys.toward(at, images):
            ordered = ray[:, search.pattern.order]
            rays.append((ordered[:, : search.size], ordered[:, search.size :]))
        for ray in valleys.outward(state.globals[0], valleys.axes(end.metric, np.random.default_rng(0))):
            rays.append((ray, density.guesses(ray)))
        rays = rays[:count]
        globals_, guesses = (np.concatenate(parts) for parts in zip(*rays, strict=True))
        values, local = density.integrated(globals_, guesses)
        height, first, found = density(state.globals)[0], 0, []
        for ray, _ in rays:
            of_ray = slice(first, first + len(ray))
            for _, place in valleys.rises(height, values[of_ray][np.newaxis]):
                found.append((values[first + place], first + place))
            first += len(ray)
        best = [index for _, index in sorted(found, reverse=True)[:most]]
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


def _evidence(density: Density, gaussian: StructuredGaussian) -> float:
    """The logarithm of the mass near a Gaussian, in nats, up to a constant: the mean of importance weights."""
    noise = np.random.default_rng(0).standard_normal([_DRAWS, density.dim])
    values, v, start = density(gaussian.draws(noise)), noise[:, : gaussian.pattern.num_globals], gaussian.start
    # Of the derivatives of the draws with respect to the noise: see `StructuredGaussian.draws`.
    log_volume = np.log(gaussian.scale).sum() + np.log(np.diag(start["root"])).sum()
    features = np.concatenate([v, np.sqrt(1.0 + v**2) - 1.0], axis=1)
    log_volumes = log_volume - features @ start["log_precision_slope"].sum(axis=0)
    log_weights = np.where(np.isfinite(values), values, -np.inf) + 0.5 * np.sum(noise**2, axis=1) + log_volumes
    return float(np.logaddexp.reduce(log_weights))


def _is_near(state: State, end: End) -> bool:
    """Whether a climb from a state would only repeat one that ended there."""
    move = (state.globals - end.state.globals)[0]
    is_near = not len(move) or move @ np.linalg.solve(end.metric, move) < 1.0
    return bool(is_near and not _are_moved(state, end.state))


def _is_better(first: End, second: End) -> bool:
    return first.evidence > second.evidence + _BETTER and first.state.value[0] > second.state.value[0] + _BETTER


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
