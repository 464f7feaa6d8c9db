"""Bad inputs to the command line, made by generation; `tests/run_bad_inputs.py` runs them."""

import pathlib
from collections.abc import Callable, Iterator

from tests.helpers.bad_case import EITHER, FINE, QUICK, TRAIN, USAGE, WITHOUT_EXPORTS, Case
from tests.helpers.bad_tables import tables
from tests.helpers.damages import ARRAYS, DAMAGES, FLIPS, YAML, damaged, damaged_new, holding, in_place_of, without

NO_NUMBERS = ("0", "-1", "1.5", "nan", "abc", "", "[]", "{}", "1e400")
PARTS = ("Nope", "", "[]", "{}", "os.system", "tfvae.priors", "keras.layers.Dense", "1", "null", "ELBO.Normal", "*x")

# Arguments of callbacks that are wrong.
CALLBACKS = (
    "BackupAndRestore",
    "LambdaCallback --callbacks.on_epoch_end print",
    "LearningRateScheduler --callbacks.schedule print --schedule constant",
    "SwapEMAWeights",
    "CallbackList",
    "ReduceLROnPlateau",
    "EarlyStopping --callbacks.monitor nope",
    "EarlyStopping --callbacks.monitor 3",
    "EarlyStopping --callbacks.mode up",
    "EarlyStopping --callbacks.patience [",
    "EarlyStopping --callbacks.patience many",
    "EarlyStopping --callbacks.baseline x",
    "EarlyStopping --callbacks.restore_best_weights maybe",
    "EarlyStopping --callbacks.nonsense 1",
    "CSVLogger",
    "CSVLogger --callbacks.filename nowhere/y.csv",
    "CSVLogger --callbacks.filename runs",
    "CSVLogger --callbacks.filename x.npy/y.csv",
    "CSVLogger --callbacks.filename y.csv --callbacks.separator ab",
    "ModelCheckpoint",
    "ModelCheckpoint --callbacks.filepath a",
    "ModelCheckpoint --callbacks.filepath x.npy/a.keras",
    "ModelCheckpoint --callbacks.filepath a{nope}.keras",
    "ModelCheckpoint --callbacks.filepath a.keras --callbacks.save_freq 0",
    "TensorBoard --callbacks.log_dir x.npy",
    "TensorBoard --callbacks.update_freq x",
    "TensorBoard --callbacks.profile_batch x",
    "Pictures --callbacks.every 0",
    "Pictures --callbacks.folder x.npy",
    "Pictures --callbacks.x 3",
    "KLWarmUp --callbacks.steps x",
)


def flag_values() -> Iterator[Case]:
    """Values of flags that are wrong, whatever the data are."""
    values = dict.fromkeys(("batch_size", "latent_dim", "epochs", "steps_per_execution", "num_samples"), NO_NUMBERS)
    values["save_freq"] = values["devices"] = NO_NUMBERS
    values |= {
        "worker_timeout": ("0", "-1", "nan", "abc", "", "[]"),
        "learning_rate": ("0", "-1", "nan", "abc", "", "[]"),
        "validation_fraction": ("-1", "0", "1", "2", "nan", "inf", "abc", ""),
        "seed": ("-1", "1.5", "abc", "", "4294967296", str(10**30), "[]"),
        "hidden": ("[0]", "[-1]", "[a]", "[1.5]", "{}", "[[1]]", "nan"),
        "filters": ("[a]", "[1.5]", "{}", "[[1]]"),
        "image_size": ("[1]", "[1,2,3]", "[a,b]", "{}", "[0,0]"),
        "binarize": ("maybe", "[]"),
        "network": ("transformer", "", "[]"),
        "activation": ("nonsense", "", "[]"),
        "strategy": ("nonsense", "", "tpu", "multi_worker"),
        "jit_compile": ("maybe", "2", "[]"),
        "resume": ("maybe", "2", "[]"),
        "name": ("a/b", "..", "a b", "-", "a\nb", "a\tb", "é", "n" * 300, "\udcff"),
        "posterior": PARTS,
        "prior": PARTS,
        "likelihood": PARTS,
        "objective": PARTS,
        "likelihood.scale": ("-1", "0", "nan", "inf", "abc", "[]"),
        "objective.beta": ("nan", "abc", "-1", "[]"),
        "objective.num_samples": NO_NUMBERS[:6],
        "likelihood.nonsense": ("1",),
        "nonsense": ("1",),
        "config": ("", "nowhere", "a: ["),
        "callbacks": ("Nope", "os.system", "a b", "{}", "[[]]", "[1]", "{class_path: 1}", "keras.layers.Dense", "["),
        "callbacks.patience": ("3",),
        "early_stopping": (*NO_NUMBERS[:-1], "true"),
        "schedule": ("linear", "", "[]"),
        "seeds": ("", "[]", "-1", "1.5", "a", "1,1", "0,,1", "nan", "{}"),
        "split_seed": ("-1", "1.5", "abc", "", "4294967296", "[]"),
        "label": ("", "a"),
        "report": ("maybe", "2", "[]"),
    }
    for flag, wrong in values.items():
        for value in wrong:
            # A second occurrence of a flag takes the place of the first.
            name = [] if flag == "name" else ["--name", "other"]
            yield Case("flag values", f"--{flag} {value[:30]!r}", [*TRAIN, *name, f"--{flag}={value}"])
    for words in CALLBACKS:
        arguments = [*TRAIN, "--name", "other", *f"--callbacks {words}".split()]
        yield Case("flag values", f"--callbacks {words}", arguments, before=WITHOUT_EXPORTS)
    for command, flag, wrong in (
        ("evaluate runs/x", "num_samples", NO_NUMBERS),
        ("generate runs/x", "n", NO_NUMBERS),
        ("generate runs/x", "output", ("x.gif", "x", "", "folder/")),
        ("export runs/x", "keep", NO_NUMBERS),
        ("export runs/x", "quantize", ("int4", "", "[]")),
        ("export runs/x", "format", ("pb", "[]")),
        ("export runs/x", "threshold", ("nan", "inf", "abc", "", "[]")),
        ("export runs/x", "false_alarm_rate", ("0", "1", "-1", "nan", "abc", "", "[]")),
        ("export runs/x", "contamination", ("0", "1", "-1", "nan", "abc", "", "[]")),
        ("predict --output y.npz", "input", ("", "x.csv", "nowhere.npy")),
        ("detect --output y.csv", "input", ("", "x.csv", "nowhere.npy")),
        ("detect --input x.npy", "output", ("", "y.npz", "nowhere/y.csv")),
    ):
        for value in wrong:
            yield Case("flag values", f"{command} --{flag} {value!r}", [*command.split(), f"--{flag}={value}"])


def values_too_large() -> Iterator[Case]:
    """Values that no machine can work with, or that fail only after the whole training."""
    for flag in ("batch_size", "latent_dim", "epochs", "steps_per_execution", "num_samples", "devices"):
        for value in (10**9, 2**63, 10**20):
            yield Case("values too large", f"--{flag} {value}", [*TRAIN, "--name", "other", f"--{flag}={value}"])
    for flag, value in (("seed", 2**31), ("hidden", "[1000000000]"), ("worker_timeout", "1e300")):
        # A long time to wait for workers does no harm where there are none.
        codes = EITHER if flag == "worker_timeout" else USAGE
        arguments = [*TRAIN, "--name", "other", f"--{flag}={value}"]
        yield Case("values too large", f"--{flag} {value}", arguments, codes=codes, before=WITHOUT_EXPORTS)
    arguments = [*TRAIN, "--name", "other", "--hidden=[100000,100000]"]
    yield Case("values too large", "--hidden [100000,100000]", arguments)
    for value in (2**31, 2**32 + 1, 2**63, 10**20):
        yield Case("values too large", f"generate --n {value}", ["generate", "runs/x", f"--n={value}"])
        yield Case("values too large", f"generate --seed {value}", ["generate", "runs/x", f"--seed={value}"])
        arguments = ["evaluate", "runs/x", f"--num_samples={value}"]
        yield Case("values too large", f"evaluate --num_samples {value}", arguments)


def config_files() -> Iterator[Case]:
    """Files for `--config`."""
    # An empty file changes nothing; the command then trains, or finds the folder occupied.
    makers = holding("c.yaml", {name: content for name, content in YAML.items() if name != "empty"})
    makers |= in_place_of("c.yaml")
    for what, make in makers.items():
        if what != "a link to /dev/null":
            yield Case("config files", what, ["train", "--config", "c.yaml"], make)
    for what in ("an alias bomb", "100000 brackets", "binary", "a list"):
        yield Case("config files", f"{what}, predict", ["predict", "--config", "c.yaml"], makers[what])


def data_files() -> Iterator[Case]:
    """Files of data, for a training."""
    for name in ("d.npy", "d.npz", "d.csv", "d.parquet"):
        arguments = ["train", name, *TRAIN[2:]]
        damages = dict(DAMAGES)
        if name != "d.csv":
            # Numbers of other digits are no damage that can be seen.
            damages |= {what: FLIPS[what] for what in ("flipped at 0%", "flipped at 100%") if name != "d.npy"}
        makers = damaged(name, damages) | in_place_of(name)
        for what, make in makers.items():
            # The first bytes of a .parquet file are looked at by no reader, and the table is right without them.
            # In a table that is cut, values of the last row are missing.
            is_right = (name, what) in (("d.parquet", "flipped at 0%"), ("d.csv", "cut to a half"))
            codes = EITHER if is_right else USAGE
            yield Case("data files", f"{name}: {what}", arguments, make, codes=codes, before=WITHOUT_EXPORTS)
    for what, make in holding("d.npy", ARRAYS).items():
        yield Case("data files", f"d.npy: {what}", ["train", "d.npy", *TRAIN[2:]], make)
    for name in ("d.tfrecord", "d.png", "d.txt", "d"):
        for what in ("empty", "random bytes", "text"):
            make = damaged_new(f"folder/{name}", {what: DAMAGES[what]})[what]
            yield Case("data files", f"folder/{name}: {what}", ["train", "folder", *TRAIN[2:]], make)
    for what, make in in_place_of("folder/d.png").items():
        yield Case("data files", f"folder/d.png: {what}", ["train", "folder", *TRAIN[2:]], make)
    for what, make in (damaged("x.npy", DAMAGES) | holding("x.npy", ARRAYS) | in_place_of("x.npy")).items():
        codes = EITHER if what in ("NaN", "infinity", "one row") else USAGE
        for command, output in (("predict", "y.npz"), ("detect", "y.csv")):
            arguments = [command, "--model", "saved_models/x", "--input", "x.npy", "--output", output]
            yield Case("data files", f"{command}: {what}", arguments, make, codes=codes)
    # What is right for a training of these columns may be wrong for a model of others.
    for what, make in (damaged("d.csv", DAMAGES) | in_place_of("d.csv")).items():
        arguments = ["detect", "--model", "saved_models/x", "--input", "d.csv", "--output", "y.csv"]
        yield Case("data files", f"detect, d.csv: {what}", arguments, make)


COMMANDS = {
    "evaluate": ["evaluate", "runs/x", "--num_samples", "4"],
    "generate": ["generate", "runs/x", "--n", "4", "--output", "s.npy"],
    "export": ["export", "runs/x", "--output", "new"],
    "verify": ["verify", "runs/x", "--saved_model", "saved_models/x"],
}


def run_folders() -> Iterator[Case]:
    """The files of a trained run."""
    removed = {f"without {name}": without(name) for name in ("config.json", "model.weights.h5")}
    models = damaged("runs/x/model.keras", DAMAGES | FLIPS | removed) | in_place_of("runs/x/model.keras")
    configs = damaged_new("runs/x/config.yaml", {what: (lambda _, c=content: c) for what, content in YAML.items()})
    configs |= in_place_of("runs/x/config.yaml")
    for command, arguments in COMMANDS.items():
        for what, make in models.items():
            if command in ("evaluate", "generate") or what in DAMAGES:
                # A byte that no reader looks at may be any.
                codes = EITHER if "flipped" in what else USAGE
                yield Case("run folders", f"{command}, model.keras: {what}", arguments, make, codes=codes)
        for what, make in configs.items():
            if command == "evaluate" or (command != "generate" and what in ("empty", "binary", "an alias bomb")):
                yield Case("run folders", f"{command}, config.yaml: {what}", arguments, make)


def interrupted_runs() -> Iterator[Case]:
    """The files of a training that is to be resumed."""
    arguments = [*TRAIN, "--name", "cut", "--resume"]

    def case(what: str, make: Callable[[pathlib.Path], None], codes: frozenset[int]) -> Case:
        return Case("interrupted runs", what, arguments, make, codes=codes, before=WITHOUT_EXPORTS)

    history = "runs/cut/history.csv"
    tables = {
        "of another table": b"name,age\nAnn,3\n",
        "with words": b"epoch,loss\n0,much\n",
        "cut in a row": b"epoch,elbo,kl,loss\n0,1,",
        "a long field": b"epoch,loss\n0," + b"9" * 200_000 + b"\n",
    }
    makers = damaged(history, DAMAGES) | holding(history, tables) | in_place_of(history)
    for what, make in makers.items():
        if what in ("a link to /dev/zero", "a link to /dev/null", "a pipe", "a folder"):
            yield case(f"history.csv: {what}", make, EITHER | {1})
        else:
            yield case(f"history.csv: {what}", make, FINE)
    configs = holding("runs/cut/config.yaml", YAML) | in_place_of("runs/cut/config.yaml")
    for what, make in configs.items():
        yield case(f"config.yaml: {what}", make, USAGE)

    def all_checkpoints(damage: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
        def make(folder: pathlib.Path) -> None:
            for path in (folder / "runs/cut/checkpoints").iterdir():
                path.write_bytes(damage(path.read_bytes()))

        return make

    def newest_checkpoint(damage: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
        def make(folder: pathlib.Path) -> None:
            path = max((folder / "runs/cut/checkpoints").iterdir())
            path.write_bytes(damage(path.read_bytes()))

        return make

    for what in ("empty", "cut to a half", "random bytes"):
        yield case(f"all checkpoints: {what}", all_checkpoints(DAMAGES[what]), USAGE)
        yield case(f"newest checkpoint: {what}", newest_checkpoint(DAMAGES[what]), FINE)
    name = f"runs/cut/checkpoints/000009-000000000-{'0' * 16}.weights.h5"
    for what, make in in_place_of(name).items():
        if what != "missing":
            # What is no file is no checkpoint; a device is opened, but found to be none.
            yield case(f"another checkpoint: {what}", make, FINE)
    for what in ("empty", "random bytes"):
        yield case(f"model.keras: {what}", damaged("runs/cut/model.keras", DAMAGES)[what], FINE)
        trained = Case("interrupted runs", f"more epochs, model.keras: {what}", [*TRAIN, "--resume", "--epochs", "3"])
        trained.make = damaged("runs/x/model.keras", DAMAGES)[what]
        yield trained


def exports() -> Iterator[Case]:
    """Exported models, for `predict` and `verify`."""
    saved, tflite = "saved_models/x/1", "saved_models/x/x.tflite"
    predict = ["predict", "--input", "x.npy", "--output", "y.npz", "--model"]
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        makers = damaged(f"{saved}/{name}", DAMAGES | FLIPS) | in_place_of(f"{saved}/{name}")
        for what, make in makers.items():
            codes = EITHER if "flipped" in what else USAGE
            # Some files of zeros are read as empty messages.
            yield Case("exports", f"{name}: {what}", [*predict, saved], make, codes=codes)
    descriptions = {
        "saved_models/x/1/assets.extra/metadata.json": saved,
        "saved_models/x/x.json": tflite,
    }
    documents = {
        "empty": b"",
        "a list": b"[1]",
        "a word": b'"word"',
        "cut": b'{"tfvae_version": "0.2',
        "binary": bytes(range(256)),
        "100000 brackets": b"[" * 100_000,
        "a threshold that is wrong": b'{"threshold": []}',
        "types that are wrong": b'{"tfvae_version": 3, "scaling": [], "expected_range": "no", "sha256": {}}',
    }
    for name, model in descriptions.items():
        for what, make in holding(name, documents).items():
            yield Case("exports", f"{name}: {what}", [*predict, model], make, codes=EITHER)
    for what, make in (damaged(tflite, DAMAGES) | in_place_of(tflite)).items():
        yield Case("exports", f"x.tflite: {what}", [*predict, tflite], make)
    for what in ("empty", "random bytes", "cut to a half"):
        yield Case(
            "exports",
            f"verify, x.tflite: {what}",
            ["verify", "runs/x", "--tflite", tflite],
            damaged(tflite, DAMAGES)[what],
        )


def odd_paths() -> Iterator[Case]:
    """Paths that are no files, in each place where a path is taken."""
    places = {
        "train": ["train", "{}", *TRAIN[2:], "--name", "other"],
        "evaluate": ["evaluate", "{}"],
        "evaluate --data": ["evaluate", "runs/x", "--data", "{}"],
        "generate": ["generate", "{}"],
        "export": ["export", "{}"],
        "verify --tflite": ["verify", "runs/x", "--tflite", "{}"],
        "verify --saved_model": ["verify", "runs/x", "--saved_model", "{}"],
        "predict --model": ["predict", "--model", "{}", "--input", "x.npy", "--output", "y.npz"],
        "predict --input": ["predict", "--model", "saved_models/x", "--input", "{}", "--output", "y.npz"],
        "predict --output": ["predict", "--model", "saved_models/x", "--input", "x.npy", "--output", "{}"],
        "detect --model": ["detect", "--model", "{}", "--input", "x.npy", "--output", "y.csv"],
        "detect --input": ["detect", "--model", "saved_models/x", "--input", "{}", "--output", "y.csv"],
        "detect --output": ["detect", "--model", "saved_models/x", "--input", "x.npy", "--output", "{}"],
        "generate --output": ["generate", "runs/x", "--n", "2", "--output", "{}"],
        "train --runs": [*TRAIN, "--runs", "{}"],
    }
    paths: dict[str, tuple[str, Callable[[pathlib.Path], None] | None]] = {
        "nothing": ("nowhere/p.npy", None),
        "no name": ("", None),
        "a name that is too long": ("n" * 300 + ".npy", None),
        "a name that is not UTF-8": ("nowhere/\udcff.npy", None),
    }
    paths |= {
        what: ("p.npy", make) for what, make in in_place_of("p.npy").items() if what not in ("missing", "a folder")
    }
    for place, arguments in places.items():
        for what, (path, make) in paths.items():
            codes = USAGE
            if place.endswith("--output"):
                # A link is replaced by the file, unless it leads to a device.
                codes = EITHER if what in ("a dangling link", "a link to itself", "no name") else USAGE
            if place == "train --runs" and what in ("nothing", "a name that is not UTF-8"):
                # The folder is made.
                codes = EITHER
            given = [path if argument == "{}" else argument for argument in arguments]
            before = WITHOUT_EXPORTS if place == "train --runs" else QUICK
            yield Case("odd paths", f"{place}: {what}", given, make, codes=codes, before=before)


def environment() -> Iterator[Case]:
    """Environment variables."""
    clusters = {
        "empty": "",
        "null": "null",
        "a list": "[]",
        "an empty object": "{}",
        "cut": '{"cluster": {"worker": ["a:1"',
        "100000 brackets": "[" * 100_000,
        "100000 braces": '{"a":' * 20_000,
        "no task": '{"cluster": {"worker": ["localhost:1"]}}',
        "a number for a cluster": '{"cluster": 1, "task": {"type": "worker", "index": 0}}',
        "no port": '{"cluster": {"worker": ["localhost"]}, "task": {"type": "worker", "index": 0}}',
        "a port too large": '{"cluster": {"worker": ["localhost:99999"]}, "task": {"type": "worker", "index": 0}}',
        "an index too large": '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 7}}',
        "an index of words": '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": "a"}}',
        "an address twice": '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
        "a number that is huge": "9" * 10_000,
    }
    for what, value in clusters.items():
        yield Case("environment", f"TF_CONFIG: {what}", [*TRAIN, "--name", "other"], environment={"TF_CONFIG": value})
    for name, value in (
        ("TF_CPP_MIN_LOG_LEVEL", "many"),
        ("COLUMNS", "none"),
        ("COLUMNS", "-5"),
        ("HOME", "/nowhere"),
        ("TMPDIR", "/nowhere"),
        ("PYTHONIOENCODING", "nonsense"),
        ("LC_ALL", "nonsense"),
        ("TF_NUM_INTRAOP_THREADS", "many"),
    ):
        yield Case("environment", f"{name}={value}", COMMANDS["evaluate"], environment={name: value}, codes=FINE)


GENERATORS = (
    flag_values,
    values_too_large,
    config_files,
    data_files,
    tables,
    run_folders,
    interrupted_runs,
    exports,
    odd_paths,
    environment,
)


def cases() -> list[Case]:
    """All cases."""
    return [case for generator in GENERATORS for case in generator()]
