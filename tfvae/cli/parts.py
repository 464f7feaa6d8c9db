"""The parts of a model that `tfvae train` chooses by name: which there are, and the check of a choice.

A table, because importing the parts takes seconds, and an error or a help text should not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tfvae import checks

# For each flag, the parts and the arguments that each takes.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "posterior": {
        "CouplingFlow": ("num_couplings", "hidden", "mixed"),
        "Deterministic": (),
        "DiagonalNormal": (),
        "FullCovarianceNormal": (),
        "InverseAutoregressiveFlow": ("num_flows", "hidden"),
        "Laplace": (),
        "LowRankNormal": ("rank",),
        "PowerSpherical": (),
        "RelaxedOneHotCategorical": ("num_categories", "temperature"),
        "SplineFlow": ("num_couplings", "bins", "hidden"),
        "SylvesterFlow": ("num_flows",),
        "VonMisesFisher": (),
    },
    "prior": {
        "Flow": ("num_couplings", "hidden"),
        "HypersphericalUniform": (),
        "Normal": (),
        "NormalMixture": ("num_components",),
        "RelaxedOneHotCategorical": ("num_categories", "temperature", "probabilities"),
        "SecondStage": ("second_dim", "hidden"),
        "SplineFlow": ("num_couplings", "bins", "hidden"),
        "StandardNormal": (),
        "VampPrior": ("num_components", "bounds"),
    },
    "likelihood": {
        "Bernoulli": (),
        "Categorical": ("num_classes",),
        "Columns": ("columns", "names"),
        "ContinuousBernoulli": (),
        "DiscretizedLogistic": (),
        "DiscretizedLogisticMixture": ("num_components",),
        "Laplace": ("scale",),
        "Missing": ("likelihood", "fill"),
        "NegativeBinomial": (),
        "Normal": ("scale",),
        "Poisson": (),
        "StudentT": ("df", "scale"),
        "ZeroInflatedNegativeBinomial": (),
    },
    "objective": {
        "Adversarial": ("critic", "weight", "optimizer", "penalty", "num_samples"),
        "BetaTCVAE": ("num_examples", "beta", "num_samples"),
        "CIWAE": ("num_samples", "share"),
        "Capacity": ("capacity", "num_samples", "gamma"),
        "DIPVAE": ("off_diagonal", "diagonal", "covariance", "num_samples"),
        "ELBO": ("beta", "num_samples", "analytic_kl", "sticking_the_landing"),
        "FactorVAE": ("critic", "gamma", "optimizer", "num_samples"),
        "FreeBits": ("nats", "num_samples", "per_dimension"),
        "IWAE": ("num_samples", "doubly_reparameterized"),
        "MIWAE": ("num_samples", "groups", "doubly_reparameterized"),
        "MMD": ("mmd_weight", "kl_weight", "kernel", "num_samples"),
        "PIWAE": ("num_samples", "groups", "doubly_reparameterized"),
        "RAE": ("beta", "num_samples"),
        "Renyi": ("num_samples", "alpha"),
    },
}
ROOMS = {"posterior": "posteriors", "prior": "priors", "likelihood": "likelihoods", "objective": "objectives"}
# What all parts take that are Keras layers; the latent dimension is that of the model.
LAYER_ARGUMENTS = ("latent_dim", "activity_regularizer", "trainable", "dtype", "autocast", "name")
# They are set on the parser, so that --print_config shows them and --likelihood.scale alone can change one.
DEFAULTS: dict[str, dict[str, Any]] = {
    "posterior": {"class_path": "tfvae.posteriors.DiagonalNormal"},
    "prior": {"class_path": "tfvae.priors.StandardNormal"},
    "likelihood": {"class_path": "tfvae.likelihoods.Normal", "init_args": {"scale": "learned"}},
    "objective": {"class_path": "tfvae.objectives.ELBO"},
}
# The keys of a choice that are not arguments of the part.
_OWN_KEYS = {"class_path", "init_args"}


def split(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Splits the words of a command line into those that choose no part, and the choices.

    Returns:
        The other words; and for each choice, such as `--likelihood.scale 3`, the name of the flag, the argument of the
        part, which is empty if the part itself is named, and the value.
        Each `--config` is both among the other words and, under the name config, in its place among the choices.
    """
    others, choices = [], []
    rest = iter(words)
    for word in rest:
        flag, separator, value = word.partition("=")
        slot, _, argument = flag.removeprefix("--").partition(".")
        if flag.startswith("--") and slot in PARTS:
            value = value if separator else next(rest, "")
            choices.append((slot, argument.removeprefix("init_args."), value))
            continue
        others.append(word)
        if flag == "--config":
            choices.append(("config", "", ""))
    return others, choices


def may_be_replaced(slot: str, choices: Sequence[tuple[str, str, str]]) -> bool:
    """Whether a `--config` comes after a choice for a flag: only who reads its file with the parts knows the outcome.

    Args:
        slot: the name of the flag.
        choices: the choices, from `split`.
    """
    flags = [flag for flag, _, _ in choices]
    return slot in flags and "config" in flags[flags.index(slot) :]


def read(value: Any) -> dict[str, Any]:
    """The choice that an entry of a YAML file makes: a name, or a class_path with init_args.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, str):
        return {"class_path": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("init_args", {}), Mapping):
        raise TypeError
    return dict(value)


def described(slot: str) -> str:
    """The parts for a flag, each with its arguments, and the default, for the help."""
    parts = (name + (f" ({', '.join(arguments)})" if arguments else "") for name, arguments in PARTS[slot].items())
    default = DEFAULTS[slot]["class_path"].rpartition(".")[2]
    with_arguments = "".join(f", {name} {value}" for name, value in DEFAULTS[slot].get("init_args", {}).items())
    return (
        f"one of {', '.join(parts)}, or a class of a module that --allow_import names; --{slot}.help NAME describes "
        f"its arguments (default: {default}{with_arguments})"
    )


def check(slot: str, choice: Mapping[str, Any], given: Sequence[tuple[str, str, str]], allowed: Sequence[str]) -> None:
    """Raises an error unless there is such a part, and it takes such arguments.

    Args:
        slot: the name of the flag.
        choice: what a file or the default chooses.
        given: the choices of the command line, from `split`, which come after it.
        allowed: the modules that the user allows to import; the arguments of their classes are not known here.

    Raises:
        ValueError: the part or an argument does not exist.
    """
    for flag, argument, value in given:
        if flag == slot:
            choice = {**choice, argument.partition(".")[0]: value} if argument else {"class_path": value}
    path = choice.get("class_path", DEFAULTS[slot]["class_path"])
    if not isinstance(path, str):
        raise ValueError(f"`--{slot}` must be the name of a part. Received: {path!r}")
    module, _, name = path.rpartition(".")
    if any(f"{module}.".startswith(f"{each}.") for each in allowed):
        return
    room = f"tfvae.{ROOMS[slot]}"
    if name not in PARTS[slot] or (module and not f"{module}.".startswith(f"{room}.")):
        raise ValueError(
            f"`--{slot}` must be one of {', '.join(PARTS[slot])}, or a class of a module that `--allow_import` names"
            f"{checks.did_you_mean(name, PARTS[slot])}. Received: {path}"
        )
    names = {*choice.get("init_args", {}), *choice.keys() - _OWN_KEYS}
    taken = PARTS[slot][name]
    for argument in sorted(names - {*taken, *LAYER_ARGUMENTS}):
        expected = f"must be among `--{slot}.{f'`, `--{slot}.'.join(taken)}`" if taken else "must not be given"
        raise ValueError(f"Arguments of the {slot} {name} {expected}. Received: --{slot}.{argument}")
