"""Separate processes that start fast: forks of one that has imported everything and computed nothing."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

EVERYTHING = """
import importlib, pkgutil
import keras, tensorflow
import tfvae

for module in pkgutil.walk_packages(tfvae.__path__, "tfvae."):
    if module.name != "tfvae.__main__":
        importlib.import_module(module.name)
keras.Sequential, keras.saving.load_model
"""
# The command line, as code for `Processes.start`.
COMMAND = """
import os, runpy, sys, traceback
try:
    runpy.run_module("tfvae", run_name="__main__")
    code = 0
except SystemExit as ended:
    code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush()
sys.stderr.flush()
# Its modules are not taken apart, which takes seconds.
os._exit(code)
"""
SERVER = """
import atexit, gc, json, os, sys, threading

gc.set_threshold(100_000, 20, 20)
exec(sys.argv[1])
# What is imported stays in memory that all processes share, because no collection of garbage writes to it.
gc.collect()
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    command, *rest = json.loads(line)
    if command == "wait":
        pid, blocking = rest
        ended, status = os.waitpid(pid, 0 if blocking else os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
        continue
    pid = os.fork()
    if not pid:
        code, arguments, output, folder, environment = rest
        os.environ.update(environment)
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{output}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        # The second is for code that replaces its process by a new one of the same command.
        sys.argv[1:], sys.orig_argv[1:] = arguments, ["-c", code, *arguments]
        exec(compile(code, "code", "exec"), {"__name__": "__main__"})
        # As at the end of any interpreter, except that its modules are not taken apart, which takes a second.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    print(pid, flush=True)
# The server itself need not take its modules apart either.
os._exit(0)
"""


class Process:
    """A process that `Processes` started."""

    def __init__(self, processes, pid, output):
        self._processes, self.pid, self._output = processes, pid, output
        self.returncode = None

    @property
    def stdout(self):
        return _text(f"{self._output}.out")

    @property
    def stderr(self):
        return _text(f"{self._output}.err")

    def poll(self):
        """Returns the exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._processes._ask("wait", self.pid, False)
        return self.returncode

    def wait(self, timeout=None):
        """Waits for the end, and returns the exit code."""
        if self.returncode is None and timeout is None:
            self.returncode = self._processes._ask("wait", self.pid, True)
        deadline = time.monotonic() + (timeout or 0)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.02)
        return self.returncode

    def kill(self):
        """Kills the process if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Processes:
    """Starts processes; their common parent starts with the first of them."""

    def __init__(self, folder, imports=EVERYTHING):
        self.folder, self._imports, self._server, self._started = folder, imports, None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait()
            self._server.stdout.close()

    def start(self, code, *arguments, folder=None, environment=None):
        """Starts code with arguments, in a folder, with environment variables in addition to those of this process."""
        self._started += 1
        output = str(self.folder / f"output-{self._started}")
        folder = str(folder or self.folder)
        for suffix in ("out", "err"):
            open(f"{output}.{suffix}", "x").close()
        pid = self._ask("start", textwrap.dedent(code), list(map(str, arguments)), output, folder, environment or {})
        return Process(self, pid, output)

    def run(self, code, *arguments, folder=None):
        """Runs code, which must exit with 0, and returns what it printed."""
        process = self.start(code, *arguments, folder=folder)
        assert process.wait() == 0, process.stderr[-4000:]
        return process.stdout

    def _ask(self, *request):
        if self._server is None:
            command, pipe = [sys.executable, "-c", SERVER, self._imports], subprocess.PIPE
            self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=self.folder)
            assert self._server.stdout.readline() == "ready\n"
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _text(path):
    with open(path) as file:
        return file.read()
