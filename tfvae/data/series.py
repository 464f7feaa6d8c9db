"""What the channels and steps of time series are: series become windows for a model, and its outputs steps again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks
from tfvae.data import time_steps, timelines
from tfvae.data.time_steps import Step, shown_step
from tfvae.data.timelines import Timelines
from tfvae.detection.step_decision import MOST_AROUND, StepDecision, deviation


class Steps(NamedTuple):
    """The steps of several series, one series after the other.

    Attributes:
        names: the name of the series of each step `[S]`.
        times: its time `[S]`: a number or a date, or without times its number in the series.
        values: the values `[S, C]`, float64, in raw units; NaN where there is none.
        is_utc: whether the times are of UTC, because they were given with a time zone.
    """

    names: np.ndarray
    times: np.ndarray
    values: np.ndarray
    is_utc: bool


class Cut(NamedTuple):
    """Windows of series, and the steps that they are of.

    Attributes:
        x: windows `[N, T, C]`, float32, in the model's units; NaN where a value is missing or a sequence has ended.
        starts: for each window the name of its series and the time of its first step.
        first: the place of the first step of each window among `steps` `[N]`.
        counts: how many steps of the series are in each window `[N]`: T, or fewer where a sequence ends before it.
        steps: the steps of all series.
    """

    x: np.ndarray
    starts: list[tuple[Any, Any]]
    first: np.ndarray
    counts: np.ndarray
    steps: Steps


class Series:
    """What the channels and steps of time series are, how they become windows x [N, T, C], and outputs steps again.

    `tfvae.data.windows(...).series` is it, learned from the steps before the split. A model that is given it,
    `tfvae.VAE(..., series=series)`, keeps it in its file and its exports, which then take raw windows.

    x = (raw - offset) / scale

    Args:
        channels: the names of the C channels.
        offset: the mean of each channel [C].
        scale: the standard deviation of each channel [C].
        length: T, the number of steps of a window.
        is_whole: whether a window is a whole sequence, which may be shorter than T.
        time: the column with the time of each row, or None.
        by: the column that says which series a row belongs to, or None.
        step: the time from one step to the next: a number, a `numpy.timedelta64`, a text such as "10min", or the pair
            of a number and "ns" or "M" (months) that `get_config` makes of it; None for rows without times.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        channels: Sequence[str],
        offset: Any,
        scale: Any,
        length: int,
        is_whole: bool = False,
        time: str | None = None,
        by: str | None = None,
        step: Any = None,
    ) -> None:
        if isinstance(channels, str) or not isinstance(channels, Iterable):
            raise ValueError(f"`channels` must be a list of names. Received: channels={checks.shown(channels)}")
        self.channels = tuple(map(str, channels))
        if len(set(self.channels)) < len(self.channels):
            raise ValueError(f"`channels` must be different names. Received: {checks.shown_names(self.channels)}")
        given = (checks.to_numpy(each, name) for each, name in ((offset, "offset"), (scale, "scale")))
        self.offset, self.scale = (each.astype(np.float32) for each in given)
        shape = (len(self.channels),)
        if not shape[0] or self.offset.shape != shape or self.scale.shape != shape:
            raise ValueError(
                "`offset` and `scale` must have a number for each of the channels, of which there is at least one. "
                f"Received: {self.offset.size} and {self.scale.size} for {len(self.channels)} channels"
            )
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(
                f"`offset` must be finite and `scale` above 0. Received: {self.offset.tolist()}, {self.scale.tolist()}"
            )
        self.length = checks.positive_integer("length", length)
        self.is_whole = checks.boolean("is_whole", is_whole)
        self.time, self.by = time, by
        self.step: Step | None = time_steps.checked(step)

    @classmethod
    def of(
        cls, before: Timelines, length: int, is_whole: bool, time: str | None = None, by: str | None = None
    ) -> "Series":
        """Learns the units of the channels from series of the training part.

        Args:
            before: the series before the split.
            length: T, the length of a window or of the longest sequence.
            is_whole: whether a window is a whole sequence.
            time: the column of times.
            by: the column of series.

        Raises:
            ValueError: a channel has no value.
        """
        values = np.concatenate([each.values for each in before.series])
        has_none = np.isnan(values).all(axis=0) if len(values) else np.ones(len(before.channels), bool)
        if has_none.any():
            empty = [name for name, flag in zip(before.channels, has_none, strict=True) if flag]
            raise ValueError(
                "`series` must have a value of each channel before the split. Received: none of "
                f"{checks.shown_names(empty)}"
            )
        varies = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            offset, scale = np.nanmean(values, axis=0), np.where(varies, np.nanstd(values, axis=0), 1.0)
        limits = np.finfo(np.float32)
        fits = (np.abs(offset) <= limits.max) & (scale <= limits.max) & (scale >= limits.tiny)
        if not fits.all():
            wrong = int(np.argmin(fits))
            raise ValueError(
                f"`series` must have channels whose means and standard deviations fit in float32, {limits.tiny:.2g} to "
                f"{limits.max:.2g}: change the unit of others. Received: the channel {before.channels[wrong]!r}, from "
                f"{np.nanmin(values[:, wrong]):g} to {np.nanmax(values[:, wrong]):g}"
            )
        return cls(
            before.channels,
            offset,
            scale,
            length,
            is_whole,
            time,
            by,
            before.step,
        )

    def windows(self, series: Any, stride: int = 1) -> Cut:
        """Cuts series into windows in the units of the model.

        Where the stride is at most the length of a window, all steps are in a window, except for those of a series that
        is shorter than one. A larger stride leaves out the steps between two windows.

        Args:
            series: as for `tfvae.data.windows`, with the same channels, and the same columns of times and series. Data
                frames may have further columns.
            stride: the number of steps from the start of a window to that of the next.

        Raises:
            ValueError: the series are not of these channels, or none is as long as a window.
        """
        stride, read = checks.positive_integer("stride", stride), self.read(series)
        self.check_length(read)
        return self.cut(read, stride)

    def read(self, series: Any) -> Timelines:
        """Reads series as `windows` does, without cutting them."""
        many = series.values() if isinstance(series, Mapping) else [series] if timelines.are_one(series) else series
        # Arrays have no times, whatever the series of the training had.
        has_times = any(map(timelines.has_index, many))
        kind = None
        if has_times and self.step is not None:
            kind = "dates" if isinstance(self.step, np.timedelta64) else "numbers"
        return timelines.read(
            series,
            time=self.time if has_times else None,
            by=self.by if checks.is_frame(series) else None,
            step=self.step if has_times else None,
            channels=self.channels,
            kind=kind,
        )

    def check_length(self, read: Timelines, part: str = "") -> None:
        """Raises ValueError unless a window is as long as a sequence, or no longer than a series.

        Args:
            read: the series.
            part: "before" or "after", for those of one side of the split.
        """
        longest = read.longest
        if self.is_whole and longest > self.length:
            raise ValueError(
                f"`series` must have sequences of at most {self.length} steps, as the longest of the training has. "
                f"Received: one of {longest}"
            )
        if not self.is_whole and longest < self.length:
            where = f" {part} the split" if part else ""
            raise ValueError(
                f"`length` must be at most the number of steps{where} of at least one series. Received: length="
                f"{self.length}, where the longest has {longest} steps{where}"
            )

    def cut(self, read: Timelines, stride: int, *, to_the_end: bool = True) -> Cut:
        """Cuts series that were read.

        Args:
            read: the series.
            stride: see `windows`.
            to_the_end: whether the last window of a series ends at its last step, whatever the stride is.
        """
        x, starts, first, counts, before = [], [], [], [], 0
        for each in read.series:
            for start in self._starts(len(each.values), stride, to_the_end):
                window = each.values[start : start + self.length]
                if not np.isnan(window).all():
                    x.append(self._padded(window))
                    starts.append((each.name, each.times[start]))
                    first.append(before + start)
                    counts.append(len(window))
            before += len(each.values)
        steps = Steps(
            np.concatenate([np.full(len(each.values), each.name, object) for each in read.series]),
            np.concatenate([each.times for each in read.series]),
            np.concatenate([each.values for each in read.series]),
            read.is_utc,
        )
        windows = np.array(x, np.float32).reshape([len(x), self.length, len(self.channels)])
        if np.isinf(windows).any():
            row, _, place = (int(each[0]) for each in np.nonzero(np.isinf(windows)))
            raise ValueError(
                "`series` must hold values that fit in float32 in the units of the model. Received: one that does not, "
                f"in the channel {self.channels[place]!r} of series {starts[row][0]!r}"
            )
        return Cut(windows, starts, np.array(first, int), np.array(counts, int), steps)

    def _starts(self, length: int, stride: int, to_the_end: bool) -> list[int]:
        if self.is_whole:
            return [0] if length else []
        starts = list(range(0, length - self.length + 1, stride))
        if to_the_end and starts and starts[-1] + self.length < length:
            starts.append(length - self.length)
        return starts

    def _padded(self, window: np.ndarray) -> np.ndarray:
        # What does not fit in float32 becomes infinite, and is refused for all windows at once.
        with np.errstate(over="ignore"):
            x = ((window - self.offset) / self.scale).astype(np.float32)
        missing = np.full([self.length - len(x), x.shape[1]], np.nan, np.float32)
        return np.concatenate([x, missing]) if len(missing) else x

    def raw(self, x: Any) -> np.ndarray:
        """Converts x [..., C] to raw units."""
        return np.asarray(x, np.float64) * self.scale + self.offset

    @staticmethod
    def by_step(values: Any, cut: Cut) -> np.ndarray:
        """Merges what windows say of steps: the mean over those windows that hold a step.

        Args:
            values: for each step of each window [N, T, ...], such as the `contributions` of `detect`, or
                reconstructions.
            cut: the windows, from `windows`.

        Returns:
            The means [S, ...] for all steps of `cut.steps`, float64; NaN for steps that no window holds.
        """
        values = np.asarray(values, np.float64)
        if values.shape[:2] != cut.x.shape[:2]:
            raise ValueError(
                f"`values` must have the shape {[*cut.x.shape[:2], '...']}, as the windows have. Received: shape "
                f"{list(values.shape)}"
            )
        total = np.zeros([len(cut.steps.times), *values.shape[2:]])
        number = np.zeros(len(total))
        for place in range(values.shape[1]):
            held = cut.counts > place
            # Of windows that differ in their first step, so that none is counted twice.
            total[cut.first[held] + place] += values[held, place]
            number[cut.first[held] + place] += 1
        with np.errstate(invalid="ignore"):
            return total / number.reshape(-1, *[1] * (total.ndim - 1))

    @staticmethod
    def judged(outputs: Mapping[str, Any], cut: Cut, own_scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Merges what a model detects in windows into what it says of steps.

        contributions_t = mean over the windows that hold step t of what its channels add to their scores,
        around_t = mean of the scores of these windows, in which no step counts for more than 5 own_scale

        Args:
            outputs: what `model.detect(cut.x)` or an exported model returned.
            cut: the windows, from `windows`.
            own_scale: that of a `StepDecision`; None means the standard deviation of these steps.

        Returns:
            contributions [S, C] and around [S], in nats above those of typical data, NaN for a step without any value.
        """
        has_no_value = np.isnan(cut.steps.values).all(axis=1)
        contributions = Series.by_step(outputs["contributions"], cut)
        contributions[has_no_value] = np.nan
        most = MOST_AROUND * (deviation(contributions.sum(axis=1)) if own_scale is None else own_scale)
        excess = np.maximum(np.asarray(outputs["contributions"]).sum(axis=2) - most, 0).sum(axis=1)
        scores = np.asarray(outputs["score"]) - excess
        around = Series.by_step(np.broadcast_to(scores[:, np.newaxis], cut.x.shape[:2]), cut)
        around[has_no_value] = np.nan
        return contributions, around

    def detected(self, outputs: Mapping[str, Any], cut: Cut, decision: StepDecision) -> dict[str, np.ndarray]:
        """Merges what a model detects in windows into scores and decisions of steps.

        A step is judged on two scales, by what it adds to the scores of the windows that hold it, and by these scores:
        see `tfvae.detection.StepDecision`.

        Args:
            outputs: what `model.detect(cut.x)` or an exported model returned.
            cut: the windows, from `windows`.
            decision: `model.decision.of_steps`, which `model.calibrate_steps` finds.

        Returns:
            `score` [S], in standard deviations of held-out steps, and `is_anomaly`, bool [S]; what it is made of,
            `contributions` [S, C], the reasons, and `around` [S], in nats: see `judged`. NaN and False for a step
            without any value. And `window_score` [S] and `window_is_anomaly`, bool [S], of the window that ends with a
            step: NaN and False where none does.
        """
        contributions, around = self.judged(outputs, cut, decision.own_scale)
        score = decision.score(contributions.sum(axis=1), around)
        window_score, window_is_anomaly = np.full(len(contributions), np.nan), np.zeros(len(contributions), bool)
        last = cut.first + cut.counts - 1
        window_score[last] = outputs["score"]
        window_is_anomaly[last] = np.asarray(outputs["is_anomaly"]) > 0.5
        return {
            "score": score,
            "is_anomaly": score > decision.threshold.value,
            "contributions": contributions,
            "around": around,
            "window_score": window_score,
            "window_is_anomaly": window_is_anomaly,
        }

    def frame(self, steps: Steps, **columns: Any) -> Any:
        """A `pandas.DataFrame` of steps, with their series and times as the data have them, and further columns.

        Args:
            steps: the steps.
            columns: what to add, by name [S].
        """
        import pandas as pd

        several = self.by is not None or len(set(steps.names.tolist())) > 1
        times = pd.Series(steps.times)
        made = {} if not several else {self.by or "series": pd.Series(steps.names).infer_objects()}
        made[self.time or "time"] = times.dt.tz_localize("UTC") if steps.is_utc else times
        return pd.DataFrame({**made, **columns})

    def frame_of_windows(self, raw: np.ndarray) -> Any:
        """A `pandas.DataFrame` of windows [N, T, C] in raw units: a row for each step of each, with its number."""
        import pandas as pd

        count, length, channels = raw.shape
        numbers = {"sample": np.repeat(np.arange(count), length), "step": np.tile(np.arange(length), count)}
        values = dict(zip(self.channels, raw.reshape(-1, channels).T, strict=True))
        return pd.DataFrame({**{name: each for name, each in numbers.items() if name not in values}, **values})

    def __str__(self) -> str:
        what = f"whole sequences of at most {self.length} steps" if self.is_whole else f"windows of {self.length} steps"
        step = "" if self.step is None else f" of {shown_step(self.step)}"
        by = "" if self.by is None else f", by {self.by}"
        width = max(map(len, (*self.channels, "channel")))
        lines = [f"{what}{step}{by}", f"{'channel':<{width}}  {'mean':>12}  {'deviation':>12}"]
        for name, offset, scale in zip(self.channels, self.offset, self.scale, strict=True):
            lines.append(f"{name:<{width}}  {offset:>12.6g}  {scale:>12.6g}")
        return "\n".join(lines)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        step: Any = self.step
        if isinstance(step, np.timedelta64):
            step = [int(step.astype(np.int64)), np.datetime_data(step)[0]]
        return {
            "channels": list(self.channels),
            "offset": self.offset.tolist(),
            "scale": self.scale.tolist(),
            "length": self.length,
            "is_whole": self.is_whole,
            "time": self.time,
            "by": self.by,
            "step": step,
        }
