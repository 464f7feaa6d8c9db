// The page that explores a model: z by sliders and on a map, examples with their scores, and samples.

const config = JSON.parse(document.getElementById("config").textContent);
const byId = (id) => document.getElementById(id);
const [low, high] = config.limits;
const isImage = config.kind === "image";
const [height, width, channels] = isImage ? config.event_shape : [0, 0, 0];
const size = config.event_shape.reduce((a, b) => a * b, 1);
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777"];

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

function paint(canvas, values, [from, to] = [low, high]) {
  if (!isImage) return paintLine(canvas, [values], from, to);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let place = 0; place < width * height; place++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = values[place * channels + (channels === 1 ? 0 : channel)];
      pixels.data[4 * place + channel] = 255 * Math.min(1, Math.max(0, (value - from) / (to - from)));
    }
    pixels.data[4 * place + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return undefined;
}

function paintLine(canvas, series, from, to) {
  canvas.classList.add("chart");
  canvas.width = 480;
  canvas.height = 300;
  const context = canvas.getContext("2d");
  context.lineWidth = 2;
  series.forEach((values, index) => {
    context.strokeStyle = COLORS[index];
    context.beginPath();
    values.forEach((value, place) => {
      const across = 10 + (460 * place) / Math.max(values.length - 1, 1);
      const down = 290 - (280 * (value - from)) / (to - from || 1);
      if (place) context.lineTo(across, down);
      else context.moveTo(across, down);
    });
    context.stroke();
  });
}

// Generate

const z = new Float64Array(config.latent_dim);
const sliders = [];
let wanted = 0;

async function show() {
  const request = ++wanted;
  sliders.forEach(({dimension, input, output}) => {
    const inUnits = (z[dimension] - config.z_mean[dimension]) / config.z_sd[dimension];
    input.value = inUnits;
    output.value = inUnits.toFixed(2);
    input.setAttribute("aria-valuetext", `${inUnits.toFixed(2)} standard deviations`);
  });
  paintMap();
  const mean = await decode(z);
  // Only the latest z is painted, whatever the order in which the answers come.
  if (request === wanted) {
    paint(byId("generated"), mean);
    byId("generated").dataset.values = JSON.stringify(mean);
  }
}

function remember(words) {
  history.replaceState(null, "", `#${words}`);
}

function rememberZ() {
  remember(`z=${Array.from(z, (value) => value.toFixed(4)).join(",")}`);
}

// A draw from the prior: from N(0, I), or, for other priors, one of some draws that are in the page.
function drawZ({uniform, normal}) {
  if (!config.prior_draws) return Array.from(z, normal);
  return config.prior_draws[Math.floor(uniform() * config.prior_draws.length)];
}

function sampleZ(seed) {
  z.set(drawZ(randomNumbers(seed)));
  byId("seed").value = seed;
  remember(`seed=${seed}`);
  return show();
}

function makeSliders() {
  config.order.forEach((dimension) => {
    const row = document.createElement("div");
    row.className = "slider";
    const label = document.createElement("label");
    const input = document.createElement("input");
    const output = document.createElement("output");
    input.type = "range";
    [input.min, input.max, input.step, input.id] = [-3, 3, 0.05, `z${dimension}`];
    label.htmlFor = output.htmlFor = input.id;
    const kl = config.kl[dimension];
    label.textContent = `z[${dimension}]${kl === null ? "" : `, ${kl.toFixed(2)} nats`}`;
    input.addEventListener("input", () => {
      z[dimension] = config.z_mean[dimension] + config.z_sd[dimension] * Number(input.value);
      rememberZ();
      show();
    });
    row.append(label, input, output);
    byId("sliders").append(row);
    sliders.push({dimension, input, output});
  });
}

// Map

const map = byId("map");
const mapped = {across: config.order[0], up: config.order[Math.min(1, config.order.length - 1)]};
const REACH = 3.5;

const toMap = (value, dimension, extent) =>
  (extent * ((value - config.z_mean[dimension]) / config.z_sd[dimension] + REACH)) / (2 * REACH);
const fromMap = (place, dimension, extent) =>
  config.z_mean[dimension] + config.z_sd[dimension] * ((2 * REACH * place) / extent - REACH);

function paintMap() {
  const context = map.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.clearRect(0, 0, map.width, map.height);
  const classes = config.classes;
  config.points.forEach((point, index) => {
    const place = classes ? classes.indexOf(config.labels[index]) : -1;
    const color = place < 0 ? style.getPropertyValue("--point") : COLORS[place % COLORS.length];
    context.fillStyle = context.strokeStyle = color;
    context.globalAlpha = 0.7;
    context.lineWidth = 1.5;
    const across = toMap(point[mapped.across], mapped.across, map.width);
    const down = map.height - toMap(point[mapped.up], mapped.up, map.height);
    // In the second turn through the colours the squares are empty.
    if (place < COLORS.length) context.fillRect(across - 2.5, down - 2.5, 5, 5);
    else context.strokeRect(across - 2.5, down - 2.5, 5, 5);
  });
  context.globalAlpha = 1;
  context.strokeStyle = style.getPropertyValue("--text");
  context.lineWidth = 3;
  context.beginPath();
  const across = toMap(z[mapped.across], mapped.across, map.width);
  const down = map.height - toMap(z[mapped.up], mapped.up, map.height);
  context.arc(across, down, 8, 0, 2 * Math.PI);
  context.stroke();
}

function moveTo(event) {
  const box = map.getBoundingClientRect();
  z[mapped.across] = fromMap(event.clientX - box.left, mapped.across, box.width);
  z[mapped.up] = fromMap(box.bottom - event.clientY, mapped.up, box.height);
  rememberZ();
  show();
}

function makeMap() {
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    moveTo(event);
  });
  map.addEventListener("pointermove", (event) => event.buttons && moveTo(event));
  map.addEventListener("keydown", (event) => {
    const moves = {ArrowLeft: ["across", -1], ArrowRight: ["across", 1], ArrowDown: ["up", -1], ArrowUp: ["up", 1]};
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [axis, sign] = moves[event.key];
    z[mapped[axis]] += 0.1 * sign * config.z_sd[mapped[axis]];
    rememberZ();
    show();
  });
  for (const axis of ["across", "up"]) {
    config.order.forEach((dimension) => byId(axis).add(new Option(`z[${dimension}]`, dimension)));
    byId(axis).value = mapped[axis];
    byId(axis).addEventListener("change", () => {
      mapped[axis] = Number(byId(axis).value);
      paintMap();
    });
  }
  (config.classes || []).forEach((name, place) => {
    const mark = document.createElement("span");
    mark.textContent = place < COLORS.length ? "■ " : "□ ";
    mark.style.color = COLORS[place % COLORS.length];
    mark.setAttribute("aria-hidden", "true");
    byId("legend").append(mark, `${name}  `);
  });
}

// Examine

let x = Float64Array.from(config.examples[0]);

async function examine() {
  paint(byId("drawing"), x);
  const outputs = await run(config.detects ? "detect" : "serving_default", asInput(x));
  const {mean} = await run("reconstruct", asInput(x));
  if (isImage) paint(byId("reconstruction"), mean);
  else paintLine(byId("reconstruction"), [Array.from(x), mean], low, high);
  const verdict = byId("verdict");
  if (!config.detects) {
    verdict.textContent = `ELBO ${outputs.elbo[0].toFixed(2)} nats`;
    verdict.dataset.score = outputs.elbo[0];
    return;
  }
  const isAnomaly = outputs.is_anomaly[0] > 0.5;
  verdict.className = isAnomaly ? "alarm" : "";
  verdict.dataset.score = outputs.score[0];
  verdict.textContent =
    `${isAnomaly ? "Unusual" : "Typical"}: score ${outputs.score[0].toFixed(2)} nats, ` +
    `threshold ${config.threshold.toFixed(2)}`;
  paintReasons(outputs.contributions);
}

function paintReasons(contributions) {
  const largest = Math.max(...contributions.map(Math.abs), 1e-9);
  if (isImage) {
    const sums = [];
    for (let place = 0; place < width * height; place++) {
      const sum = contributions.slice(place * channels, (place + 1) * channels).reduce((a, b) => a + b, 0);
      for (let channel = 0; channel < channels; channel++) sums.push(sum);
    }
    paint(byId("reasons"), sums, [0, Math.max(...sums, 1e-9)]);
  } else {
    paintLine(byId("reasons"), [contributions], -largest, largest);
  }
  const order = contributions.map((_, place) => place).sort((a, b) => contributions[b] - contributions[a]);
  byId("reasons-list").replaceChildren(
    ...order.slice(0, 3).map((place) => {
      const item = document.createElement("li");
      item.textContent = `${nameOf(place)}: ${contributions[place] >= 0 ? "+" : ""}${contributions[place].toFixed(2)} nats`;
      return item;
    }),
  );
}

function nameOf(place) {
  if (!isImage) return `element ${place}`;
  const pixel = Math.floor(place / channels);
  return `row ${Math.floor(pixel / width)}, column ${pixel % width}`;
}

function setX(values) {
  x = Float64Array.from(values);
  return examine();
}

function makeExamine() {
  config.examples.forEach((_, index) => byId("example").add(new Option(config.example_names[index], index)));
  byId("example").addEventListener("change", () => setX(config.examples[byId("example").value]));
  byId("reasons-figure").hidden = !config.detects;
  if (isImage) makeDrawing();
  else makeFields();
}

function makeDrawing() {
  const own = byId("own");
  own.innerHTML =
    '<p><label>Picture <input id="file" type="file" accept="image/*"></label>' +
    '<button id="clear" type="button">Clear</button></p>' +
    '<p class="weak">Choose or drop a picture, or draw on the example with a pointer.</p>';
  const drawing = byId("drawing");
  const dot = (event) => {
    const box = drawing.getBoundingClientRect();
    const [across, down] = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    const radius = Math.max(0.8, width / 24);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const near = 1 - Math.hypot(column + 0.5 - across, row + 0.5 - down) / (2 * radius);
        if (near <= 0) continue;
        for (let channel = 0; channel < channels; channel++) {
          const place = (row * width + column) * channels + channel;
          x[place] = Math.max(x[place], low + Math.min(1, 1.6 * near) * (high - low));
        }
      }
    }
    examine();
  };
  drawing.addEventListener("pointerdown", (event) => {
    drawing.setPointerCapture(event.pointerId);
    dot(event);
  });
  drawing.addEventListener("pointermove", (event) => event.buttons && dot(event));
  byId("clear").addEventListener("click", () => setX(new Float64Array(size).fill(low)));
  byId("file").addEventListener("change", (event) => takePicture(event.target.files[0]));
  const area = byId("examine");
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("dropping");
  });
  area.addEventListener("dragleave", () => area.classList.remove("dropping"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("dropping");
    if (event.dataTransfer.files.length) takePicture(event.dataTransfer.files[0]);
  });
}

async function takePicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {resizeWidth: width, resizeHeight: height, resizeQuality: "high"});
  } catch (error) {
    byId("verdict").textContent = `${file ? file.name : "The file"} is not a picture that the browser can read.`;
    return;
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const {data} = context.getImageData(0, 0, width, height);
  const values = new Float64Array(size);
  for (let place = 0; place < width * height; place++) {
    const [red, green, blue] = [data[4 * place], data[4 * place + 1], data[4 * place + 2]];
    const parts = channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue];
    parts.forEach((part, channel) => (values[place * channels + channel] = low + (part / 255) * (high - low)));
  }
  await setX(values);
}

function makeFields() {
  const fields = document.createElement("div");
  fields.className = "fields";
  const inputs = [];
  for (let place = 0; place < Math.min(size, 30); place++) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    [input.type, input.step, input.id] = ["number", "any", `x${place}`];
    label.htmlFor = input.id;
    label.textContent = nameOf(place);
    input.addEventListener("input", () => {
      if (input.value === "" || !Number.isFinite(input.valueAsNumber)) return;
      x[place] = input.valueAsNumber;
      examine();
    });
    inputs.push(input);
    fields.append(label, input);
  }
  const fill = () => inputs.forEach((input, place) => (input.value = Number(x[place].toPrecision(6))));
  byId("example").addEventListener("change", fill);
  byId("own").append(fields);
  fill();
}

// Samples

async function showSamples(seed) {
  const random = randomNumbers(seed);
  const area = byId("samples");
  area.replaceChildren();
  for (let count = 0; count < 16; count++) {
    const canvas = document.createElement("canvas");
    canvas.className = isImage ? "small" : "middle";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Sample ${count + 1}`);
    area.append(canvas);
    paint(canvas, await decode(drawZ(random)));
  }
}

// Start

window.addEventListener("hashchange", () => model && fromAddress());

// Shows the z, or the sample of the seed, that the address says.
function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const numbers = (given.get("z") || "").split(",").map(Number);
  if (given.get("z") && numbers.length === z.length && numbers.every(Number.isFinite)) {
    z.set(numbers);
    return show();
  }
  return sampleZ(Number(given.get("seed") || 0) >>> 0);
}

async function start() {
  const {loadAndCompile, loadLiteRt, Tensor: kind, runtimePath, modelBytes} = await window.tfvaeRuntime();
  Tensor = kind;
  await loadLiteRt(runtimePath);
  model = await loadAndCompile(modelBytes, {accelerator: "wasm"});
  makeSliders();
  makeMap();
  makeExamine();
  byId("sample").addEventListener("click", () => sampleZ(crypto.getRandomValues(new Uint32Array(1))[0]));
  byId("seed").addEventListener("change", () => sampleZ(Number(byId("seed").value) >>> 0));
  byId("centre").addEventListener("click", () => {
    z.set(config.z_mean);
    rememberZ();
    show();
  });
  byId("more").addEventListener("click", () => showSamples(crypto.getRandomValues(new Uint32Array(1))[0]));
  byId("parts").hidden = false;
  await fromAddress();
  await examine();
  await showSamples(1);
  byId("status").textContent = "The model is ready. It runs on this machine; nothing is sent anywhere.";
}

start().catch((error) => {
  byId("status").textContent = `The model cannot run here: ${error.message || error}`;
});
