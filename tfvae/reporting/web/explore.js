// The page that explores a model: z by sliders and on a map, and samples.

// Generate

const z = new Float64Array(config.latent_dim);
const sliders = [];
let wanted = 0;

async function show() {
  const request = ++wanted;
  sliders.forEach(({dimension, input, output}) => {
    const value = inUnits(z[dimension], dimension);
    input.value = value;
    output.value = value.toFixed(2);
    input.setAttribute("aria-valuetext", `${value.toFixed(2)} standard deviations`);
  });
  paintMap();
  const mean = await decode(z);
  // Only the latest z is painted, whatever the order in which the answers come.
  if (request === wanted) {
    showDecoded(mean);
    byId("generated").dataset.values = JSON.stringify(mean);
  }
}

function showDecoded(mean) {
  if (config.kind !== "table") {
    paint(byId("generated"), mean);
    return;
  }
  const found = textsOf(columns, mean);
  const body = makeTable(byId("generated-row"), ["Column", "Value"], "The row that z is decoded to");
  columns.forEach(({name}, index) => showValue(addLine(body, name, [""]).cells[1], found[index]));
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
    [input.min, input.max, input.step, input.id] = [-reach[dimension], reach[dimension], 0.05, `z${dimension}`];
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
// How far the map and the sliders go, in units of z: as far as nearly all examples.
const [LEAST_REACH, MOST_REACH] = [3.5, 10];
const inUnits = (value, dimension) => (value - config.z_mean[dimension]) / config.z_sd[dimension];
const reach = Array.from(z, (_, dimension) => {
  const far = config.points.map((point) => Math.abs(inUnits(point[dimension], dimension))).sort((a, b) => a - b);
  const nearlyAll = far[Math.floor(0.98 * (far.length - 1))];
  return Math.min(Math.max(LEAST_REACH, Math.ceil(nearlyAll * 1.05 * 2) / 2), MOST_REACH);
});

// What is farther is at the edge.
const toMap = (value, dimension, extent) =>
  (extent * (within(inUnits(value, dimension), -reach[dimension], reach[dimension]) + reach[dimension])) /
  (2 * reach[dimension]);
const fromMap = (place, dimension, extent) =>
  config.z_mean[dimension] + config.z_sd[dimension] * reach[dimension] * ((2 * place) / extent - 1);

function paintMap() {
  const context = map.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.clearRect(0, 0, map.width, map.height);
  paintGrid(context, style.getPropertyValue("--weak"));
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

// Lines at whole units of z, with their numbers.
function paintGrid(context, color) {
  context.fillStyle = context.strokeStyle = color;
  context.lineWidth = 1;
  context.font = "15px system-ui, sans-serif";
  for (const axis of ["across", "up"]) {
    const dimension = mapped[axis];
    const most = Math.floor(reach[dimension]);
    const step = most > 5 ? 5 : most > 3 ? 2 : 1;
    for (let unit = -Math.floor(most / step) * step; unit <= most; unit += step) {
      const place = (map.width * (unit + reach[dimension])) / (2 * reach[dimension]);
      context.globalAlpha = 0.25;
      context.beginPath();
      context.moveTo(...(axis === "across" ? [place, 0] : [0, map.height - place]));
      context.lineTo(...(axis === "across" ? [place, map.height] : [map.width, map.height - place]));
      context.stroke();
      context.globalAlpha = 1;
      if (axis === "across") context.fillText(unit, place + 3, map.height - 5);
      else if (unit > -most) context.fillText(unit, 3, map.height - place - 4);
    }
  }
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
    mark.className = "mark";
    mark.style.borderColor = COLORS[place % COLORS.length];
    if (place < COLORS.length) mark.style.background = COLORS[place % COLORS.length];
    const entry = document.createElement("span");
    entry.append(mark, name);
    byId("legend").append(entry);
  });
}

// Samples

const NUM_SAMPLES = 16;

async function showSamples(seed) {
  const random = randomNumbers(seed);
  const means = [];
  for (let count = 0; count < NUM_SAMPLES; count++) means.push(await decode(drawZ(random)));
  const area = byId("samples");
  if (config.kind === "table") {
    const numbers = means.map((_, index) => String(index + 1));
    const body = makeTable(area, ["Column", ...numbers], "Rows for z of the prior");
    const found = means.map((mean) => textsOf(columns, mean));
    columns.forEach(({name}, index) => addLine(body, name, found.map((texts) => texts[index].text)));
    return;
  }
  const canvases = (isImage ? means : [means]).map((mean, index) => {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", isImage ? `Sample ${index + 1}` : `${NUM_SAMPLES} samples as lines${ofChannels}`);
    if (isImage) {
      canvas.className = "small";
      paint(canvas, mean);
    } else {
      paintLines(canvas, mean);
    }
    return canvas;
  });
  area.replaceChildren(...canvases);
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
  const isTable = config.kind === "table";
  byId("generated").hidden = byId("reconstruction-figure").hidden = isTable;
  byId("generated-row").hidden = !isTable;
  byId("example-figure").hidden = !isImage;
  if (isSeries) {
    byId("generated").setAttribute("aria-label", `What z is decoded to${ofChannels}`);
    byId("reconstruction").setAttribute("aria-label", `The example and its reconstruction${ofChannels}`);
  }
  // Tables are wide.
  for (const name of ["examine", "samples-section"]) byId(name).classList.toggle("across", !isImage);
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
  await makeExamine();
  await showSamples(1);
  byId("status").textContent = "The model is ready. It runs on this machine; nothing is sent anywhere.";
}

start().catch((error) => {
  byId("status").textContent = `The model cannot run here: ${error.message || error}`;
});
