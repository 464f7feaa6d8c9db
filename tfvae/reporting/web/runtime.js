// Loads LiteRT.js: each file is bytes, from the page itself, from beside it, or from a CDN with its hash.
window.tfvaeRuntime = async () => {
  const sources = JSON.parse(document.getElementById("runtime").textContent);
  const bytesOf = async ({url, integrity, base64}) => {
    if (!base64) {
      const answer = await fetch(url, integrity ? {integrity, mode: "cors"} : {});
      if (!answer.ok) throw new Error(`${url} cannot be fetched: ${answer.status}`);
      return new Uint8Array(await answer.arrayBuffer());
    }
    const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const names = Object.keys(sources);
  const found = await Promise.all(names.map((name) => bytesOf(sources[name])));
  const bytes = Object.fromEntries(names.map((name, index) => [name, found[index]]));
  const script = (content) => URL.createObjectURL(new Blob([content], {type: "text/javascript"}));
  const core = new TextDecoder().decode(bytes.core);
  const imported = await import(script(core.replaceAll('"@litertjs/wasm-utils"', JSON.stringify(script(bytes.utils)))));
  window.Module = {wasmBinary: bytes.wasm};
  // LiteRT.js looks at the end of the address alone.
  return {...imported, runtimePath: `${script(bytes.glue)}#litert.js`, modelBytes: bytes.model};
};
