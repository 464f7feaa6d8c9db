"""What the flags accept, and that help and errors are there at once: without TensorFlow, in the words of a user."""

import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

import tfvae
from tfvae import data, likelihoods, objectives, posteriors, priors
from tfvae.cli import commands, flags, noise, parser, parts, paths
from tfvae.distribute import strategies

ROOT = Path(__file__).parents[2]
ROOMS = {"posterior": posteriors, "prior": priors, "likelihood": likelihoods, "objective": objectives}

# Arguments, and what the error must say.
ERRORS = [
    (
        [],
        "The command must be one of train, evaluate, generate, export, verify, predict, detect, explore, compare; see",
    ),
    (["trian"], "(did you mean train?). Received: trian"),
    (["train", "--data", "x.npy"], "`data` must be given without `--data`. Received: --data"),
    (["evaluate", "--run=runs/x"], "`run` must be given without `--run`"),
    (["train", "no_such_data"], "`data` must be one of the names digits"),
    (["train", "no_such_*.npy", "--name", "x"], "no_such_*.npy"),
    (["train", "--name", "a/b"], "--name"),
    (["train", "--name=-"], "`--name` must consist of letters"),
    (["train", "--config", "no.yaml"], "`--config` must be an existing file"),
    (["train", "--epoch", "3"], "did you mean --epochs?"),
    (["train", "--learning-rates", "3"], "did you mean --learning_rate?"),
    (["train", "--network", "deep"], "`--network` must be one of dense, convolutional, residual, temporal"),
    (["train", "--resume", "maybe"], "`--resume` must be true or false. Received: 'maybe'"),
    (["train", "--likelihood", "bernoulli"], "did you mean Bernoulli?"),
    (["train", "--likelihood=Bernouli", "--likelihood.scale=3"], "did you mean Bernoulli?"),
    (["train", "--posterior", "Bernoulli"], "`--posterior` must be one of CouplingFlow, Deterministic"),
    (["train", "--posterior"], "`--posterior` must be one of"),
    (["train", "--likelihood.scal", "3"], "`--likelihood.scale`. Received: --likelihood.scal"),
    (["train", "--likelihood", "Bernoulli", "--likelihood.scale", "3"], "must not be given"),
    (["train", "--likelihood", "os.system"], "Received: os.system"),
    (["train", "--likelihood", "tfvae.posteriors.Laplace"], "Received: tfvae.posteriors.Laplace"),
    (["train", "--binarize", "dynamic"], "needs `--likelihood Bernoulli`"),
    (["train", "--saved_models", "a b", "--name", "x", "--export", "nothing"], "--export"),
    (["evaluate", "nowhere"], "`run` must be"),
    (["evaluate", "--likelihood", "Normal"], "--likelihood"),
    (["generate", "nowhere", "--n", "4294967297"], "`--n` must be an integer from 1 to 1000000"),
    (["generate", "nowhere", "--n", "20000"], "at most 10000 for a picture"),
    (["export", "nowhere", "--output", "bad name"], "`--output` must end in a name"),
    (["export", "nowhere", "--format", "openvino"], "`--format` must be onnx, or null. Received: 'openvino'"),
    (["export", "nowhere", "--contamination", "1"], "`--contamination` must be a number between 0 and 1, or null"),
    (["export", "nowhere", "--threshold", "inf"], "`--threshold` must be a finite number, or null. Received: 'inf'"),
    (
        ["export", "nowhere", "--threshold", "9", "--false_alarm_rate", "0.1"],
        "`--contamination` must be given. Received: --threshold 9 --false_alarm_rate 0.1",
    ),
    (["verify", "nowhere"], "`--saved_model` or `--tflite` or `--onnx`"),
    (["verify", "nowhere", "--onnx", "nothing"], "`--onnx` must be"),
    (["predict"], "`--input` and `--output` must be given"),
    (["predict", "--input", "x.txt", "--output", "y.npz"], ".npy"),
    (["predict", "--model", ".", "--input", "x.npy", "--output", "y.npz"], "x.npy"),
    (["detect"], "`--input` and `--output` must be given"),
    (["detect", "--input", "x.txt", "--output", "y.csv"], "`--input` must be a .npy, .csv or .parquet file"),
    (["detect", "--model", "nowhere", "--input", "x.npy", "--output", "y.csv"], "`--model` must be an exported file"),
    (["detect", "--model", ".", "--input", "x.npy", "--output", "y.csv"], "`--input` must be an existing file"),
    (["detect", "--model", ".", "--input", ".npy", "--output", "y.npz"], "`--input` must be a .npy"),
]
# For each flag, values that would fail after the whole training, or never end.
TOO_LARGE = {
    "seed": ["2147483648", "1e3", "-1"],
    "num_samples": ["1e20", "0", "100000000000000000000"],
    "epochs": ["1e20", "0", "10000000000"],
    "steps_per_execution": ["10000000000"],
    "batch_size": ["10000000000", "2.5"],
    "latent_dim": ["10000000000", "two"],
    "devices": ["100000", "0"],
    "save_freq": ["-1", "never", "10000000000000"],
    "hidden": ["64,0", "10000000000", "64,x", "a", "1," * 200 + "1"],
    "filters": ["-3", "1.5"],
    "image_size": ["0", "1,2,3", "[]", "100000"],
    "learning_rate": ["0", "nan", "inf", "x"],
    "validation_fraction": ["-0.1", "1", "nan"],
    "worker_timeout": ["-1", "inf"],
}


def error_of(capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        commands.main(arguments)
    assert raised.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_errors_and_predict_import_no_tensorflow(run_new_python, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 1)))
    model = ROOT / "saved_models/digits_example/digits_example.tflite"
    script = """
        import contextlib, io, json, sys
        from tfvae.cli import commands

        folder, model, errors = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
        helps = [["--help"], ["--version"], *([name, "--help"] for name in
                 ("train", "evaluate", "generate", "export", "verify", "predict", "detect"))]
        printed = []
        for arguments in [*errors, *helps]:
            out, error = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                try:
                    commands.main(arguments)
                except SystemExit as end:
                    code = end.code
            printed.append((code, out.getvalue(), error.getvalue()))
        commands.main(["predict", "--model", model, "--input", folder + "/x.npy", "--output", folder + "/y.npz"])
        heavy = {"tensorflow", "keras", "tensorflow_probability", "matplotlib", "pandas", "sklearn"} & set(sys.modules)
        print(json.dumps([printed, sorted(heavy)]))
    """
    errors = [arguments for arguments, _ in ERRORS]
    output = run_new_python(script, tmp_path, model, json.dumps(errors))
    printed, heavy = json.loads(output.splitlines()[-1])
    assert heavy == []
    for (code, _, error), (arguments, expected) in zip(printed, ERRORS, strict=False):
        assert code == 2, arguments
        assert len(error.splitlines()) == 1, error
        assert expected in error, arguments
    for code, out, error in printed[len(ERRORS) :]:
        assert (code, error) == (0, "")
        assert out
    assert len(np.load(tmp_path / "y.npz")["mean"]) == 2


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_value_that_would_fail_later_is_refused_before_anything_is_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for value in TOO_LARGE[name]:
        line = error_of(capsys, ["train", f"--{name}", value])
        assert re.match(rf"tfvae: error: `--{name}` must be .*\. Received: ", line)
    Path("config.yaml").write_text(f"{name}: {{}}")
    assert f"`--{name}` must be" in error_of(capsys, ["train", "--config", "config.yaml"])
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (flags.WIDTHS, "64,32", [64, 32]),
        (flags.WIDTHS, "[64, 32]", [64, 32]),
        (flags.WIDTHS, "64", [64]),
        (flags.WIDTHS, 64, [64]),
        (flags.WIDTHS, [64, 32], [64, 32]),
        (flags.WIDTHS, "[]", []),
        (flags.IMAGE_SIZE, "32", [32, 32]),
        (flags.IMAGE_SIZE, "32,48", [32, 48]),
        (flags.IMAGE_SIZE, (32, 48), [32, 48]),
        (flags.optional(flags.IMAGE_SIZE), None, None),
        (flags.optional(flags.IMAGE_SIZE), "null", None),
        (flags.SWITCH, "True", True),
        (flags.SWITCH, False, False),
        (flags.POSITIVE, "1e-3", 1e-3),
        (flags.POSITIVE, 2, 2.0),
        (flags.FRACTION, "0", 0.0),
        (flags.FRACTION, 0.5, 0.5),
        (flags.SEED, "2147483647", 2**31 - 1),
        (flags.either(flags.COUNT, flags.choice(["epoch"])), "epoch", "epoch"),
        (flags.MODULES, "a,b.c", ["a", "b.c"]),
        (flags.TEXT, "5", "5"),
    ],
)
def test_a_flag_reads(kind, value, expected):
    read = kind(value)
    assert (read, type(read)) == (expected, type(expected))


@pytest.mark.parametrize("value", [True, 2.0, [1], {}, None, "", "1,2"])
def test_a_count_is_nothing_but_an_integer(value):
    with pytest.raises(flags.FlagError, match=r"must be an integer from 1 to 1000000\. Received: "):
        flags.COUNT(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "config.yaml"], "x.npy"),
        (["--config=config.yaml", "y.npy"], "y.npy"),
        ([], "digits"),
        (["y.npy"], "y.npy"),
    ],
)
def test_a_file_may_name_the_data(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("data: x.npy")
    with pytest.raises(SystemExit):
        commands.main(["train", *words, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"] == expected
    if expected != "digits":
        assert f"Received: {expected}" in error_of(capsys, ["train", *words])


def test_a_dash_in_the_name_of_a_flag_is_an_underscore(capsys):
    words = ["train", "--latent-dim", "3", "--likelihood.scale=a-b", "-x-y", "a-b"]
    underscored = ["train", "--latent_dim", "3", "--likelihood.scale=a-b", "-x-y", "a-b"]
    assert parser.with_underscores(words) == underscored
    with pytest.raises(SystemExit):
        commands.main(["train", "--latent-dim", "3", "--hidden", "64,32", "--image-size=32", "--print-config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["latent_dim"], config["hidden"], config["image_size"]) == (3, [64, 32], [32, 32])


def test_the_help_says_what_each_command_and_each_flag_is_for(capsys):
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    output = " ".join(capsys.readouterr().out.split())
    for command in (
        commands.train,
        commands.evaluate,
        commands.generate,
        commands.export,
        commands.predict,
        commands.detect,
    ):
        first = inspect.getdoc(command).splitlines()[0]
        assert f"{command.__name__} {first}" in output
    with pytest.raises(SystemExit):
        commands.main(["train", "--help"])
    output = capsys.readouterr().out
    assert "required" not in output
    groups = re.findall(r"^([a-z ]+):$", output, flags=re.MULTILINE)
    assert groups == ["options", *commands.train_command.GROUPS]
    names = set(inspect.signature(commands.train).parameters) - {"config_yaml", "command", "warnings_given", "run_lock"}
    assert {name for names in commands.train_command.GROUPS.values() for name in names} == names
    assert len(re.findall(r"default:", output)) >= len(names)


@pytest.mark.parametrize("slot", parts.PARTS)
def test_the_table_of_parts_is_that_of_the_rooms(slot):
    room = ROOMS[slot]
    assert room.__name__ == f"tfvae.{parts.ROOMS[slot]}"
    classes = {name: getattr(room, name) for name in room.__all__}
    expected = {}
    for name, part in classes.items():
        # The network of Perceptual has no name.
        if not inspect.isabstract(part) and name != "Perceptual":
            own = [base for base in part.__mro__ if base.__module__.startswith("tfvae.") and "__init__" in vars(base)]
            parameters = (parameter for base in own for parameter in inspect.signature(base).parameters.values())
            named = (each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL))
            expected[name] = set(named) - {*parts.LAYER_ARGUMENTS, "self"}
    assert {name: set(arguments) for name, arguments in parts.PARTS[slot].items()} == expected


def test_other_tables_are_those_of_the_library():
    assert paths.DATA_NAMES == data.NAMES
    strategy = inspect.signature(commands.train).parameters["strategy"].annotation
    assert get_args(strategy) == get_args(strategies.Name)


MINE = """
from pathlib import Path
from tfvae.likelihoods import Normal

Path(__file__).with_name("imported").touch()

class Mine(Normal):
    pass
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--likelihood", "Poisson", "--config", "student.yaml", "--likelihood.df", "3"],
        ["--likelihood", "StudentT", "--config", "bernoulli.yaml", "--likelihood", "Normal", "--likelihood.scale", "1"],
        ["--likelihood", "Normal", "--binarize", "threshold", "--config=bernoulli.yaml"],
    ],
)
def test_a_file_of_arguments_may_replace_a_part_that_was_named_before_it(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("student.yaml").write_text("likelihood: {class_path: StudentT, init_args: {df: 4}}")
    Path("bernoulli.yaml").write_text("likelihood: Bernoulli")
    # All arguments are found right but the last, which only the data show to be wrong.
    assert "Received: validation_fraction=0.0 of 1797" in error_of(capsys, ["train", *words, "--validation_fraction=0"])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mine_1", "{class_path: mine_1.Mine}"),
        ("mine_2", "mine_2.Mine"),
        ("mine_3", "{class_path: Missing, init_args: {likelihood: mine_3.Mine}}"),
    ],
)
def test_only_modules_that_are_allowed_are_imported(name, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path(f"{name}.py").write_text(MINE)
    Path("config.yaml").write_text(f"likelihood: {wanted}")
    line = error_of(capsys, ["train", "--config", "config.yaml"])
    assert "`--allow_import`" in line
    assert f"Received: {name}.Mine" in line
    assert not Path("imported").exists()
    with pytest.raises(SystemExit) as raised:
        commands.main(["train", "--config", "config.yaml", "--allow_import", name, "--print_config"])
    assert raised.value.code == 0
    assert f"{name}.Mine" in capsys.readouterr().out
    # What was allowed once is not allowed for good.
    assert f"Received: {name}.Mine" in error_of(capsys, ["train", "--config", "config.yaml", "--print_config"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--likelihood.scale", "abc"], "`scale` must be a number, or 'learned', 'per_channel', 'per_dimension'"),
        (["--objective.beta", "x"], "`beta` must be a number. Received: x"),
        (
            ["--prior", "VampPrior", "--prior.num_components", "1.5"],
            "`num_components` must be an integer. Received: 1.5",
        ),
        (["--likelihood", "Missing", "--likelihood.likelihood", "os.system"], "Received: os.system"),
        (["--allow_import", "no_such_module"], "`--allow_import` must name modules that can be imported"),
    ],
)
def test_an_argument_of_a_part_is_refused_in_the_words_of_a_user(arguments, expected, capsys):
    line = error_of(capsys, ["train", *arguments])
    assert expected in line
    assert "jsonargparse" not in line
    assert "typing" not in line


def test_noise_is_left_out_of_stderr_and_a_warning_is_not(capfd):
    noisy = [
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
        b"I0000 00:00:1795999304.033549   26257 port.cc:153] oneDNN custom operations are on.\n",
        b"E0000 00:00:1.2 7 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN ERROR (303)\n",
        b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
        b'loc(callsite(fused["TensorListReserve:", "gru_1/TensorArrayV2_1@f_1"] at "x")): error: requires a shape\n',
        b"error: Lowering tensor list ops is failed. Please consider using Select TF ops\n",
    ]
    real = [b"W0000 00:00:1 7 memory.cc:1] little memory\n", b"tfvae: warning: x\n"]
    with contextlib.suppress(KeyError), noise.hidden():
        for line in [*noisy, *real]:
            os.write(2, line)
        raise KeyError
    assert capfd.readouterr().err.encode() == b"".join(real)


def test_a_warning_is_one_line():
    assert noise.warning_line(UserWarning("a\nb"), UserWarning, "file.py", 3) == "tfvae: warning: a b\n"


@pytest.mark.parametrize("command", [["export", "link"], ["export", "--output", "link"]])
def test_a_link_to_itself_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("link")
    assert "must be" in error_of(capsys, command)


@pytest.mark.slow
def test_a_process_writes_nothing_to_stderr_but_warnings(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 1)))
    shipped = ROOT / "saved_models/digits_example"
    small = [
        "--epochs",
        "1",
        "--hidden",
        "8",
        "--latent_dim",
        "2",
        "--num_samples",
        "2",
        "--latency",
        "false",
        "--export",
        "tflite",
    ]
    for command in (
        ["predict", "--model", shipped, "--input", "x.npy", "--output", "y.npz"],
        ["predict", "--model", shipped / "digits_example.tflite", "--input", "x.npy", "--output", "y.npz"],
        ["train", "digits", *small],
        ["evaluate", "--num_samples", "2"],
        ["generate"],
        ["verify", "--tflite", "saved_models/digits/digits.tflite", "--latency", "false"],
    ):
        words = [sys.executable, "-m", "tfvae", *map(str, command)]
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        commands.main(["--version"])
    assert capsys.readouterr().out == f"tfvae {tfvae.__version__}\n"
