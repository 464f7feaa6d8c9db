"""`tfvae train --seeds`: one run for each seed, and their comparison."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from jsonargparse import Namespace

from tfvae.cli import record, yaml_files
from tfvae.cli.compare_command import compare
from tfvae.cli.parser import USAGE_ERROR, exit_on_errors

# The seed of the split and of the order of the data, unless --split_seed says another.
_SPLIT_SEED = 0


def choices(chosen: Namespace) -> list[Namespace]:
    """The arguments of each run of a `tfvae train`: one, or one for each of its seeds.

    Args:
        chosen: the arguments of the command.

    Raises:
        ValueError: the folder for the runs of the seeds is itself a run, or the folder for one run has those of seeds;
            or there are several workers, which cannot meet again for the next seed.
    """
    name = chosen.name or Path(chosen.data).stem
    folder = Path(chosen.runs) / name
    if chosen.seeds is None:
        if any(folder.glob("seed-*/config.yaml")):
            raise ValueError(f"`--name` must not be that of the runs of several seeds. Received: {folder}")
        return [chosen]
    if chosen.strategy == "multi_worker" or (chosen.strategy == "auto" and "TF_CONFIG" in os.environ):
        raise ValueError(f"`--seeds` must not be given for several workers. Received: --seeds {chosen.seeds}")
    if (folder / "config.yaml").exists():
        raise ValueError(f"`--name` must be that of no run, to hold a run for each seed. Received: {folder}, a run")
    made = []
    for seed in chosen.seeds:
        one = chosen.clone()
        changes = {
            "name": f"seed-{seed}",
            "runs": str(folder),
            "saved_models": str(Path(chosen.saved_models) / name),
            "seed": seed,
            "seeds": None,
            "split_seed": _SPLIT_SEED if chosen.split_seed is None else chosen.split_seed,
            # A run that is complete is left, and one that was interrupted goes on.
            "resume": not chosen.overwrite,
        }
        for flag, value in changes.items():
            one[flag] = value
        made.append(one)
    return made


def train_each(runs: Sequence[Namespace], configs: Sequence[str], train: Callable[[int], None]) -> None:
    """Trains the runs of the seeds in turn, and compares them.

    Args:
        runs: what `choices` returned.
        configs: the text of the config.yaml of each.
        train: trains the run of an index, and raises FloatingPointError if it diverges.

    Raises:
        SystemExit: the training of a seed has diverged.
    """
    from tfvae.cli.run_training import check_same

    folders = [Path(one.runs) / one.name for one in runs]
    diverged = []
    for index, folder in enumerate(folders):
        print(f"{folder} ({index + 1} of {len(folders)})")
        if record.read(folder).get("diverged") and runs[index].resume:
            with exit_on_errors(USAGE_ERROR):
                check_same(yaml_files.read(folder / "config.yaml"), yaml.safe_load(configs[index]), folder)
            # The same training would diverge again.
            print(f"{folder} has diverged before; --overwrite trains it again")
            diverged.append(folder)
            continue
        try:
            train(index)
        except FloatingPointError as error:
            print(f"tfvae: {error}", file=sys.stderr)
            diverged.append(folder)
    compare([str(folder) for folder in folders], output=str(folders[0].parent / "compare.html"))
    if diverged:
        raise SystemExit(f"tfvae: the training of {', '.join(map(str, diverged))} diverged")
