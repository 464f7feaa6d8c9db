"""How a step of a series is judged by the windows that hold it, and above which score it is an anomaly."""

import dataclasses
from typing import Any, Self

import numpy as np

from tfvae.detection.thresholds import Threshold, threshold

# The least standard deviation, in nats. What varies less, in a single window, is only rounded.
_LEAST = 1e-3
# In what is around others, a step counts for at most so many standard deviations. Otherwise one that is far off would
# make anomalies of all steps that share a window with it.
MOST_AROUND = 5.0


@dataclasses.dataclass(frozen=True)
class StepDecision:
    """How a step is judged on two scales, each in standard deviations of held-out steps.

    own_t = mean over the windows that hold step t of what its channels add to their scores,
    around_t = mean of the scores of these windows, in which no step counts for more than 5 own_scale,
    score_t = own_t / own_scale + around_t / around_scale

    One wrong step is seen in `own`; in `around`, small deviations of many steps add up. Both are in nats above those of
    typical data. `tfvae.data.Series.detected` computes them.

    Args:
        own_scale: the standard deviation of own_t, in nats.
        around_scale: the standard deviation of around_t, in nats.
        threshold: the threshold of the score, or all of its fields by name.
    """

    own_scale: float
    around_scale: float
    threshold: Threshold

    def __post_init__(self) -> None:
        if isinstance(self.threshold, dict):
            object.__setattr__(self, "threshold", Threshold(**self.threshold))

    @classmethod
    def learn(cls, own: np.ndarray, around: np.ndarray, **rate: float) -> Self:
        """Finds the scales and the threshold from steps that the model was not trained on.

        Args:
            own: own_t of each step [S], NaN for a step without any value.
            around: around_t likewise [S].
            rate: the rate of the threshold, by its name in `tfvae.detection.threshold`.

        Raises:
            ValueError: see `tfvae.detection.threshold`.
        """
        known = np.isfinite(own)
        own, around = own[known], around[known]
        own_scale, around_scale = deviation(own), deviation(around)
        return cls(own_scale, around_scale, threshold(_score(own, around, own_scale, around_scale), **rate))

    def score(self, own: np.ndarray, around: np.ndarray) -> np.ndarray:
        """The score of each step [S], in standard deviations.

        Args:
            own: own_t of each step [S].
            around: around_t likewise [S].
        """
        return _score(own, around, self.own_scale, self.around_scale)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def deviation(nats: np.ndarray) -> float:
    """The standard deviation of the nats of steps [S], of which NaN do not count."""
    nats = nats[np.isfinite(nats)]
    return max(float(nats.std()), _LEAST) if len(nats) else _LEAST


def _score(own: np.ndarray, around: np.ndarray, own_scale: float, around_scale: float) -> np.ndarray:
    return own / own_scale + around / around_scale
