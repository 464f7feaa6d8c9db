"""LiteRT.js in headless Chromium: opens a page, and receives what it posts.

Needs Chromium and the npm package @litertjs/core:

    apt-get install chromium
    npm install --prefix FOLDER @litertjs/core
    export LITERTJS_MODULES=FOLDER/node_modules
"""

import http.server
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

Nested = dict[str, dict[str, np.ndarray]]
MODULES = "LITERTJS_MODULES"
ACCELERATORS = ("wasm", "webgpu")
_TIMEOUT = 120
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    *("--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# SwiftShader computes what a GPU would, on the CPU. JSPI lets the GPU's delegate wait for it.
_WEBGPU_FLAGS = [
    *("--enable-unsafe-webgpu", "--enable-features=Vulkan,WebAssemblyJSPI", "--use-webgpu-adapter=swiftshader"),
    *("--enable-webgpu-developer-features", "--ignore-gpu-blocklist"),
]
_TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
_PAGE = """
<!doctype html>
<script type="importmap">
  {"imports": {
    "@litertjs/core": "/node_modules/@litertjs/core/dist/index.js",
    "@litertjs/wasm-utils": "/node_modules/@litertjs/wasm-utils/dist/index.js"}}
</script>
<script type="module">
  import {loadAndCompile, loadLiteRt, Tensor} from "@litertjs/core";

  const said = [];
  for (const kind of ["log", "warn", "error", "info"]) console[kind] = (...words) => said.push(words.join(" "));

  async function answers() {
    const {accelerator, questions} = await (await fetch("/questions.json")).json();
    await loadLiteRt("/node_modules/@litertjs/core/wasm/", {jspi: accelerator === "webgpu"});
    const model = await loadAndCompile("/model.tflite", {accelerator});
    const answers = [];
    for (const {signature, inputs} of questions) {
      const tensors = {};
      for (const [name, {shape, values}] of Object.entries(inputs))
        tensors[name] = new Tensor(new Float32Array(values), shape);
      const outputs = {};
      for (const [name, tensor] of Object.entries(await model.signatures[signature].run(tensors))) {
        const onCpu = accelerator === "webgpu" ? await tensor.moveTo("wasm") : tensor;
        // As text, because JSON has no NaN.
        outputs[name] = Array.from(onCpu.toTypedArray(), String);
      }
      answers.push(outputs);
    }
    return answers;
  }

  let posted;
  try { posted = {answers: await answers(), said}; } catch (error) { posted = {error: `${error.stack}`, said}; }
  await fetch("/posted", {method: "POST", body: JSON.stringify(posted)});
</script>
"""


class BrowserError(Exception):
    """The page could not be opened, or what it ran failed; the message says why."""


def check_installed() -> None:
    """Raises BrowserError, which says what to install, unless Chromium and LiteRT.js are there."""
    _browser()
    _modules()


def ask(file: Path, inputs: Nested, accelerator: str) -> tuple[Nested, str]:
    """Calls signatures of a .tflite file by LiteRT.js.

    Args:
        file: a file for a batch of 1.
        inputs: for each signature, its inputs by name, each [N, ...]. They are passed row by row.
        accelerator: "wasm", which is the CPU, or "webgpu".

    Returns:
        The outputs by signature and name, each flattened to [N, size]; and what LiteRT.js wrote to the console.

    Raises:
        BrowserError: something is not installed, or LiteRT.js failed.
    """
    rows = [
        (signature, {name: array[row : row + 1] for name, array in arrays.items()})
        for signature, arrays in inputs.items()
        for row in range(len(next(iter(arrays.values()))))
    ]
    questions = [
        {
            "signature": signature,
            "inputs": {name: {"shape": row.shape, "values": _as_texts(row)} for name, row in arrays.items()},
        }
        for signature, arrays in rows
    ]
    asked = json.dumps({"accelerator": accelerator, "questions": questions}).encode()
    posted = run(_PAGE, {"/model.tflite": file.read_bytes(), "/questions.json": asked}, accelerator)
    said = "\n".join(posted["said"])
    if "error" in posted:
        raise BrowserError(f"LiteRT.js must run {file.name}. Received: {posted['error']}\n{said}")
    outputs: dict[str, dict[str, list[np.ndarray]]] = {}
    for (signature, _), answer in zip(rows, posted["answers"], strict=True):
        for name, values in answer.items():
            outputs.setdefault(signature, {}).setdefault(name, []).append(np.array(values, np.float32))
    return {
        signature: {name: np.stack(rows) for name, rows in named.items()} for signature, named in outputs.items()
    }, said


def _as_texts(row: np.ndarray) -> list[str]:
    """The numbers of an array as JavaScript writes them, as texts, because JSON has no NaN and no infinity."""
    return [str(value).replace("inf", "Infinity") for value in row.ravel()]


def run(page: str, files: dict[str, bytes], accelerator: str) -> Any:
    """Opens a page, and returns what it posts to /posted as JSON.

    Args:
        page: the HTML, which finds the npm packages under /node_modules/.
        files: what else the page can fetch, by path.
        accelerator: "wasm" or "webgpu"; decides how the browser is started.

    Raises:
        BrowserError: something is not installed, or nothing is posted in time.
    """
    browser, modules = _browser(), _modules()
    posted: queue.Queue[Any] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            content = {"/": page.encode(), **files}.get(path)
            if content is None and path.startswith("/node_modules/@litertjs/") and ".." not in path:
                wanted = modules / path.removeprefix("/node_modules/")
                content = wanted.read_bytes() if wanted.is_file() else None
            self.send_response(404 if content is None else 200)
            kind = "text/html" if path == "/" else _TYPES.get(Path(path).suffix, "application/octet-stream")
            self.send_header("Content-Type", kind)
            # The threads of LiteRT.js share memory, which browsers allow pages with these headers alone.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = [*_FLAGS, *(_WEBGPU_FLAGS if accelerator == "webgpu" else ["--disable-gpu"])]
        process = subprocess.Popen(
            [browser, *flags, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return posted.get(timeout=_TIMEOUT)
        except queue.Empty:
            raise BrowserError(f"{browser} must post an answer within {_TIMEOUT} seconds. Received: none") from None
        finally:
            process.kill()
            process.wait()
            server.shutdown()


def _browser() -> str:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise BrowserError(
            "Chromium must be installed, for example by `apt-get install chromium`. Received: none in PATH"
        )
    return found


def _modules() -> Path:
    folder = os.environ.get(MODULES)
    if not folder or not (Path(folder) / "@litertjs" / "core").is_dir():
        raise BrowserError(
            f"{MODULES} must be the folder node_modules in which `npm install @litertjs/core` put LiteRT.js. Received: "
            f"{MODULES}={folder!r}"
        )
    return Path(folder)
