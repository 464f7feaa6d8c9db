"""Publishing when things go wrong: kills, two exports at once, full and read-only disks."""

import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.exports import Scaled
from tfvae import export

CONTENT = {
    "saved_model.pb",
    "fingerprint.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets.extra/metadata.json",
    "assets.extra/tf_serving_warmup_requests",
}
DOCUMENTS = {"README.md", "requests", "models.config"}
ROOT = Path(__file__).parents[2]
X = np.ones([1, 2], np.float32)


@pytest.fixture(scope="module")
def model():
    return Scaled()


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    """A folder with version 1, which tests must not change."""
    folder = tmp_path_factory.mktemp("published") / "model"
    export.saved_model(model, folder)
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy of `published` that a test may change."""
    return Path(shutil.copytree(published, tmp_path / "model"))


def listing(folder):
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def numbered(folder):
    """The versions that TF Serving sees: every entry of the folder whose name is a number, file or folder."""
    return sorted(int(name) for name in os.listdir(folder) if re.fullmatch("[0-9]+", name))


def contents(folder):
    """Every file of the versions, with its bytes and modification time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("[!.]*/**/*") if path.is_file()}


def check_version(version):
    """Loads a version as a server does, and checks its content and an answer."""
    assert {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()} == CONTENT
    assert json.loads((version / "assets.extra/metadata.json").read_text())["scaled"] == 2
    assert len(list(tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests")))) == 2
    loaded = tf.saved_model.load(str(version))
    np.testing.assert_array_equal(loaded.signatures["serving_default"](x=tf.constant(X))["y"], Scaled().predict(X))


# Separate processes


EXPORT = """
    import sys

    sys.path.insert(0, sys.argv[1])
    from tests.helpers.exports import Scaled
    from tfvae import export

    model = Scaled()
    for _ in range(int(sys.argv[3])):
        print("begins", flush=True)
        export.saved_model(model, sys.argv[2], keep=20)
"""


@pytest.mark.slow
def test_two_exports_at_once_publish_two_versions(processes, tmp_path):
    folder = tmp_path / "model"
    started = [processes.start(EXPORT, ROOT, folder, 1) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0], [process.stderr for process in started]
    assert listing(folder) == {"1", "2", *DOCUMENTS}
    for version in ("1", "2"):
        check_version(folder / version)


# The default test, below, kills at exact moments.
@pytest.mark.slow
@pytest.mark.parametrize("kills", [8, 100])
def test_a_reader_never_fails_whenever_an_export_is_killed(processes, model, folder, kills):
    names = ("README.md", "requests/serving_default.json", "models.config")
    documents = {name: (folder / name).read_bytes() for name in names}
    rng = random.Random(kills)
    seen = [1]
    left_behind = 0

    def poll():
        newest = numbered(folder)[-1]
        assert {name: (folder / name).read_bytes() for name in names} == documents
        if newest != seen[-1]:
            check_version(folder / str(newest))
            seen.append(newest)

    def poll_while(condition, seconds):
        """Polls while the condition holds and the time is not over, and returns how long that took."""
        start = time.monotonic()
        while condition() and time.monotonic() < start + seconds:
            poll()
            time.sleep(0.001)
        return time.monotonic() - start

    # The first load in a process takes long, during which exports would go unobserved.
    check_version(folder / "1")
    # Roughly how long the first and the second export of a process take; the first is measured below.
    seconds = [0.5, 0.2]
    for kill in range(kills):
        process = processes.start(EXPORT, ROOT, folder, 1000)
        poll_while(lambda process=process: "begins" not in process.stdout, 60)
        if kill % 2:
            published = len(seen)
            seconds[0] = poll_while(lambda published=published: len(seen) == published, 60)
        poll_while(lambda: True, rng.uniform(0, seconds[kill % 2]))
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr
        poll()
        temporaries = [name for name in os.listdir(folder) if name.startswith(".tmp-")]
        assert len(temporaries) <= 1
        left_behind += len(temporaries)
    # Some kills fell inside exports, and exports succeeded between them.
    assert left_behind >= kills / 8
    assert len(seen) > kills / 2
    last = int(export.saved_model(model, folder, keep=4).name)
    poll()
    # A busy reader may have missed a version, so `seen` can have gaps; the listing at the end must have none.
    assert seen == sorted(set(seen))
    assert seen[-1] == last
    assert listing(folder) == {*map(str, range(last - 3, last + 1)), *DOCUMENTS}


SNAPSHOTS = """
    import os, shutil, sys

    sys.path.insert(0, sys.argv[1])
    from tests.helpers.exports import Scaled
    from tfvae import export

    model, folder, snapshots = Scaled(), sys.argv[2], []
    EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock"}
    busy = []

    def hook(event, arguments):
        if event in EVENTS and not busy:
            busy.append(event)
            shutil.copytree(folder, f"{sys.argv[3]}/{len(snapshots)}", copy_function=shutil.copyfile)
            snapshots.append(event)
            busy.clear()

    sys.addaudithook(hook)
    export.saved_model(model, folder, keep=1)
    busy.append("done")
    print(len(snapshots))
"""


@pytest.mark.slow
def test_a_kill_before_any_step_leaves_what_serves_and_what_the_next_export_mends(processes, model, folder, tmp_path):
    # A killed process leaves what is on disk at that moment, so copies of the folder simulate kills at exact moments.
    (tmp_path / "moments").mkdir()
    (folder / ".tmp-killed/model").mkdir(parents=True)
    (folder / ".tmp-killed/model/saved_model.pb").write_bytes(b"half")
    count = int(processes.run(SNAPSHOTS, ROOT, folder, tmp_path / "moments"))
    moments = {}
    for index in range(count):
        moment = tmp_path / "moments" / str(index)
        moments[tuple(sorted(str(path.relative_to(moment)) for path in moment.rglob("*")))] = moment
    listings = {}
    for moment in moments.values():
        listings[tuple(numbered(moment)), len(list(moment.glob(".tmp-*")))] = moment
    # Before and after the stale temporary folder is removed, with both versions, and with the new one alone.
    assert {((1,), 1), ((1,), 0), ((1, 2), 1), ((2,), 1)} <= set(listings)
    for moment in moments.values():
        check_version(moment / str(numbered(moment)[-1]))
    for (versions, _), moment in listings.items():
        assert export.saved_model(model, moment, keep=1).name == str(versions[-1] + 1)
        assert listing(moment) == {str(versions[-1] + 1), *DOCUMENTS}


# The disk

FULL_DISK = """
    import resource, sys, tensorflow as tf

    sys.path.insert(0, sys.argv[1])
    from tests.helpers.exports import Scaled
    from tfvae import export
    from tfvae.export import serving

    model = Scaled()
    owner, name = {
        "weights": (tf.saved_model, "save"),
        "graph": (tf.saved_model, "save"),
        "warm-up": (serving.warmup, "write"),
        "metadata": (serving, "write_json"),
        "documents": (serving.documents, "files"),
    }[sys.argv[3]]
    function = getattr(owner, name)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def with_full_disk(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000 if sys.argv[3] == "graph" else 100, unlimited[1]))
        return function(*arguments, **options)

    setattr(owner, name, with_full_disk)
    try:
        export.saved_model(model, sys.argv[2])
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        print("raised", isinstance(error, OSError), type(error), error)
"""


@pytest.mark.parametrize(
    "stage",
    [
        "weights",
        "documents",
        *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("graph", "warm-up", "metadata")),
    ],
)
def test_a_full_disk_is_an_os_error_that_names_the_folder(processes, folder, stage):
    before = contents(folder)
    printed = processes.run(FULL_DISK, ROOT, folder, stage)
    assert "raised True" in printed, printed
    assert str(folder) in printed
    assert contents(folder) == before
    assert listing(folder) == {"1", *DOCUMENTS}


def test_a_read_only_folder_is_an_os_error_that_names_it(processes, published):
    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(published, Path(place) / "model"))
        os.chmod(place, 0o755)
        folder.chmod(0o555)
        before = contents(folder)
        printed = processes.run(
            """
            import os, sys

            sys.path.insert(0, sys.argv[1])
            from tests.helpers.exports import Scaled
            from tfvae import export

            model = Scaled()
            # Root writes everywhere.
            if os.getuid() == 0:
                os.setuid(65534)
            try:
                export.saved_model(model, sys.argv[2])
            except BaseException as error:
                print("raised", isinstance(error, OSError), type(error), error)
            """,
            ROOT,
            folder,
        )
        assert "raised True" in printed, printed
        assert str(folder) in printed
        assert contents(folder) == before
        assert listing(folder) == {"1", *DOCUMENTS}
        folder.chmod(0o755)
