"""The name `reconstruction_log_likelihood` of log p(x|z), which was `log_likelihood` up to version 0.2.0.

That name now stands for log p(x) alone, as in `VAE.log_likelihood`; in the old sense it works for one more release.
"""

import warnings
from collections.abc import Mapping
from typing import Any

OLD, NEW = "log_likelihood", "reconstruction_log_likelihood"


def metric(name: str) -> str:
    """The present name of a metric, which may have the prefix "val_"."""
    return name.replace(OLD, NEW) if name in (OLD, f"val_{OLD}") else name


def warn(received: str) -> None:
    """Warns the user, who called the function that calls this one, that the name was changed.

    Args:
        received: what the user wrote, such as `monitor="log_likelihood"`.
    """
    warnings.warn(
        f"log p(x|z) must be called `{NEW}`; `{OLD}`, which is log p(x), will not stand for it after this release. "
        f"Received: {received}",
        FutureWarning,
        stacklevel=3,
    )


class Scores(dict[str, Any]):
    """The terms of the bound by name, which still answer to the earlier name, with a warning."""

    @classmethod
    def of_export(cls, outputs: Mapping[str, Any]) -> "Scores":
        """The outputs of an exported signature by their present names, which an export of version 0.2 does not have.

        Args:
            outputs: the outputs. Only beside `elbo` and `kl` is the earlier name replaced: elsewhere it is one that a
                user chose, for example of a latent variable.
        """
        is_earlier = {"elbo", OLD, "kl"} <= set(outputs)
        return cls({metric(name) if is_earlier else name: value for name, value in outputs.items()})

    def __missing__(self, name: str) -> Any:
        """The value of the earlier name; a KeyError for any other."""
        if name != OLD or NEW not in self:
            raise KeyError(name)
        warn(f'["{OLD}"]')
        return self[NEW]
