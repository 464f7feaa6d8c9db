"""Processes of their own, for tests that kill them."""

import subprocess
import sys
import textwrap
import time

SERVER = """
import os, resource, sys
import keras, numpy, tensorflow
import tfvae.export.client, tfvae.export.device, tfvae.export.serving, tfvae.models.vae
from tfvae import data, elbo, likelihoods, networks, objectives, posteriors, priors
from tfvae.training import batch

keras.Sequential, keras.saving.load_model
for line in sys.stdin:
    command, *rest = eval(line)
    if command == "wait":
        print(os.waitstatus_to_exitcode(os.waitpid(*rest, 0)[1]), flush=True)
        continue
    pid = os.fork()
    if not pid:
        code, output, *sys.argv[1:] = rest
        for descriptor in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        exec(compile(code, "code", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    print(pid, flush=True)
"""


class Processes:
    """Starts processes fast: forks of one that has imported all and computed nothing."""

    def __init__(self, folder):
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait()

    def start(self, code, *arguments):
        output = self.folder / f"output-{time.monotonic_ns()}"
        pid = self._ask("start", textwrap.dedent(code), str(output), *map(str, arguments))
        return pid, output

    def wait(self, pid):
        return self._ask("wait", pid)

    def run(self, code, *arguments):
        pid, output = self.start(code, *arguments)
        code = self.wait(pid)
        assert code == 0, output.read_text()[-4000:]
        return output.read_text()

    def _ask(self, *request):
        self.server.stdin.write(repr(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())
