// What the page knows, and the model.

const config = JSON.parse(document.getElementById("config").textContent);
const byId = (id) => document.getElementById(id);
const [low, high] = config.limits;
const isImage = config.kind === "image";
const isSeries = config.kind === "series";
const [height, width, channels] = isImage ? config.event_shape : [0, 0, 0];
const size = config.event_shape.reduce((a, b) => a * b, 1);
// The columns of a table, the channels of series, or the elements of a vector as columns of numbers.
const columns =
  config.columns ||
  Array.from({length: size}, (_, place) => {
    const parts = {places: [place], starts: [place], widths: [1]};
    return {name: `element ${place}`, kind: "number", spikes: [], decimals: null, ...parts};
  });
// More elements of a vector than these are only in its line.
const MOST_FIELDS = 30;

let model;
let Tensor;

// Calls of the model, one after the other: its memory is not safe for two at a time.
let last = Promise.resolve();
function run(signature, inputs) {
  const call = last.then(async () => {
    const tensors = {};
    for (const [name, {shape, values}] of Object.entries(inputs)) tensors[name] = new Tensor(values, shape);
    const found = await model.signatures[signature].run(tensors);
    const outputs = {};
    for (const [name, tensor] of Object.entries(found)) {
      outputs[name] = Array.from(tensor.toTypedArray());
      tensor.delete();
    }
    Object.values(tensors).forEach((tensor) => tensor.delete());
    return outputs;
  });
  last = call.catch(() => undefined);
  return call;
}

const decode = async (z) => (await run("decode", {z: {shape: [1, z.length], values: Float32Array.from(z)}})).mean;
const asInput = (values) => ({x: {shape: [1, ...config.event_shape], values: Float32Array.from(values)}});

// Random numbers that follow from a seed: mulberry32, and normal ones by Box and Muller.
function randomNumbers(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return {uniform, normal};
}
