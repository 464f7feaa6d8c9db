"""A run whose training is killed at any file-system operation is resumed exactly."""

import pytest

MOMENTS = """
import pathlib, re, shutil, sys
import keras, numpy as np, tfvae
from tfvae.cli import run_training

root = pathlib.Path(sys.argv[1])
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
pipelines = tfvae.data.load(x, batch_size=10)
model = tfvae.VAE(tfvae.networks.dense_encoder((4,), (8,)), tfvae.networks.dense_decoder(2, (4,), (8,)), 2)
model.compile(keras.optimizers.Adam(0.01))
model.optimizer.build(model.trainable_variables)
variables = [*model.weights, *model.optimizer.variables]
beginning = [variable.numpy() for variable in variables]


class Cut(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.progress == (1, 3):
            raise KeyboardInterrupt


def train(folder, resume, *callbacks):
    for variable, value in zip(variables, beginning, strict=True):
        variable.assign(value)
    model._progress.__init__()
    model.fit = lambda x, **keywords: tfvae.VAE.fit(
        model, x, **{**keywords, "callbacks": [*keywords["callbacks"], *callbacks], "verbose": 0}
    )
    run_training.start(folder, "epochs: 2", resume=resume, overwrite=not resume)
    run_training.fit(model, pipelines, folder, epochs=2, save_freq="epoch", chief=True)


def end(folder):
    model.load_weights(folder / "model.keras")
    return (folder / "history.csv").read_text(), [weight.tolist() for weight in model.get_weights()]


def listing():
    found = []
    for path in sorted(folder.rglob("*")):
        # Without digests and random numbers.
        found.append(re.sub("-[0-9a-f]{16}|-[0-9a-f]{8}", "", str(path.relative_to(folder))))
        if path.suffix == ".csv":
            found.append(len(path.read_text().splitlines()))
    return str(found)


def hook(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree") and not busy:
        busy.append(event)
        keep("")
        if event == "open" and str(arguments[0]).startswith(str(folder / "")) and "w" in (arguments[1] or ""):
            # What is written in place is empty at first.
            keep(pathlib.Path(arguments[0]).relative_to(folder))
        busy.clear()


def keep(emptied):
    now = listing() + str(emptied)
    if now not in moments and ".tmp-" not in str(emptied):
        moments[now] = root / f"moment {len(moments)}"
        shutil.copytree(folder, moments[now], copy_function=shutil.copyfile)
        if emptied:
            (moments[now] / emptied).write_bytes(b"")


train(root / "uncut", False)
expected = end(root / "uncut")
folder, moments, busy = root / "run", {}, []
try:
    train(folder, False, Cut())
except KeyboardInterrupt:
    pass
sys.addaudithook(hook)
train(folder, False)
busy.append("done")
newest = [max((path.name[:16] for path in moment.glob("checkpoints/0*")), default="") for moment in moments.values()]
anew = newest[newest.index("") :]
while not anew[-1]:
    del anew[-1]
assert anew == sorted(anew), anew
trained = 0
# From the end, where the run is trained.
for now, moment in [*moments.items()][:: -int(sys.argv[2])]:
    if run_training.is_trained(moment):
        trained += 1
        assert end(moment) == expected, now
    train(moment, resume=not run_training.is_trained(moment))
    assert sorted(path.name for path in moment.iterdir()) == ["config.yaml", "history.csv", "model.keras"], now
    assert end(moment) == expected, now
print(len(moments), trained)
"""


# Every moment takes a training; a sample of them has some of each kind.
@pytest.mark.parametrize("every", [pytest.param(8, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_step_of_the_file_system_leaves_what_can_be_resumed(every, run_python, tmp_path):
    # A killed process leaves what is on disk at that moment, so copies of the folder simulate kills at exact moments.
    moments, trained = map(int, run_python(MOMENTS, tmp_path, every).split()[-2:])
    assert moments > 20
    assert 0 < trained < moments / 2
