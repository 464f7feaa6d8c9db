// Examples, one's own pictures and rows, and their reconstructions, scores and reasons.

// What can be chosen: examples of the page, rows of a file, and what the user made of them.
const choices = [];
// More rows of a file than these would make a list that nobody searches.
const MOST_ROWS = 1000;
const MOST_REASONS = 3;

let x;
// The row that x was read from, as texts by column; null for pictures.
let row = null;
let examined = 0;

async function examine() {
  const request = ++examined;
  const inputs = asInput(x);
  const outputs = await run(config.detects ? "detect" : "serving_default", inputs);
  const {mean} = await run("reconstruct", inputs);
  // Only the latest example is shown, whatever the order in which the answers come.
  if (request !== examined) return;
  if (isImage) {
    paint(byId("drawing"), x);
    paint(byId("reconstruction"), mean);
  } else {
    fillRow(mean, outputs.contributions);
  }
  if (config.kind !== "table" && !isImage) {
    paintLines(byId("reconstruction"), [Array.from(x), mean], ["example", "reconstruction"], outputs.contributions);
  }
  const verdict = byId("verdict");
  byId("examine").dataset.reconstruction = JSON.stringify(mean);
  verdict.className = "";
  if (!config.detects) {
    // A model without a bound has no ELBO.
    const [name, score] = outputs.elbo
      ? ["ELBO", outputs.elbo[0]]
      : ["Reconstruction log-likelihood", outputs.reconstruction_log_likelihood[0]];
    verdict.dataset.score = score;
    verdict.textContent = `${name} ${score.toFixed(2)} nats`;
    return;
  }
  const isAnomaly = outputs.is_anomaly[0] > 0.5;
  verdict.className = isAnomaly ? "alarm" : "";
  verdict.dataset.score = outputs.score[0];
  verdict.textContent =
    `${isAnomaly ? "Unusual" : "Typical"}: score ${outputs.score[0].toFixed(2)} nats, ` +
    `threshold ${config.threshold.toFixed(2)}`;
  showReasons(outputs.contributions);
}

// What cannot be examined is said in the place of the verdict, and nothing is left of what was examined before.
function refuse(message) {
  examined++;
  byId("verdict").className = "alarm";
  byId("verdict").textContent = message;
  delete byId("verdict").dataset.score;
  delete byId("examine").dataset.reconstruction;
  byId("reasons-list").replaceChildren();
  for (const name of ["reconstruction", "reasons"]) {
    byId(name).getContext("2d").clearRect(0, 0, byId(name).width, byId(name).height);
  }
  for (const cell of fields.flatMap(({cells}) => cells)) {
    cell.replaceChildren();
    delete cell.dataset.value;
  }
}

const nats = (value) => `${value >= 0 ? "+" : ""}${value.toFixed(2)} nats`;
const sumOf = (values, places) => places.reduce((sum, place) => sum + values[place], 0);

function showReasons(contributions) {
  let named;
  if (isImage) {
    const pixels = Array.from({length: width * height}, (_, pixel) => pixel);
    const sums = pixels.map((pixel) => {
      const places = Array.from({length: channels}, (_, channel) => pixel * channels + channel);
      return sumOf(contributions, places);
    });
    paint(byId("reasons"), sums.flatMap((sum) => Array(channels).fill(sum)), [0, Math.max(...sums, 1e-9)]);
    named = sums.map((sum, pixel) => [`row ${Math.floor(pixel / width)}, column ${pixel % width}`, sum]);
  } else if (isSeries) {
    const nameOf = (place) => {
      const [step, channel] = [Math.floor(place / columns.length), place % columns.length];
      return `${columns[channel].name} = ${Number(x[place].toPrecision(6))} at step ${step}`;
    };
    // What is missing adds nothing.
    named = contributions.flatMap((sum, place) => (Number.isNaN(x[place]) ? [] : [[nameOf(place), sum]]));
  } else {
    if (config.kind === "vector") paintPanels(byId("reasons"), [{lines: [contributions], least: [0]}], "element");
    named = columns.map(({name, places}) => [`${name} (${row[name] || "missing"})`, sumOf(contributions, places)]);
  }
  named.sort(([, first], [, second]) => second - first);
  byId("reasons-list").replaceChildren(
    ...named.slice(0, MOST_REASONS).map(([name, sum]) => {
      const item = document.createElement("li");
      item.textContent = `${name}: ${nats(sum)}`;
      return item;
    }),
  );
}

function setX(values) {
  x = Float64Array.from(values, (value) => value ?? NaN);
  return examine();
}

async function setRow(texts) {
  // What the form shows, even if it is refused: or the next change would bring back a value that is not shown.
  row = texts;
  try {
    const codes = codesOf(columns, texts);
    const gap = columns.find(({places}) => places.every((place) => Number.isNaN(codes[place])));
    if (gap && !config.takes_missing) throw new Error(`Column "${gap.name}" must have a value. Received: none`);
    await setX(codes);
  } catch (error) {
    refuse(error.message);
  }
}

// Chooses

function addChoice(name, values) {
  choices.push(values);
  byId("example").add(new Option(name, choices.length - 1));
}

async function choose(index) {
  byId("example").value = index;
  if (isImage || isSeries) {
    await setX(choices[index]);
    return;
  }
  fillFields(choices[index]);
  await setRow({...choices[index]});
}

// What the user made is no example: the list then says so, and each example can be chosen again.
function markOwn() {
  byId("own-choice").hidden = false;
  byId("example").value = "own";
}

async function makeExamine() {
  byId("reasons-figure").hidden = !config.detects || config.kind === "table" || isSeries;
  byId("about-shade").hidden = !config.detects || !isSeries;
  byId("about-shade").textContent = `What adds more than ${config.marked} nats to the score is shaded.`;
  byId("about-score").hidden = !config.detects;
  const own = document.createElement("option");
  [own.value, own.textContent, own.id, own.hidden] = ["own", "your own", "own-choice", true];
  byId("example").add(own);
  const toRow = (values) => Object.fromEntries(columns.map(({name}, index) => [name, String(values[index])]));
  config.examples.forEach((values, index) => addChoice(config.example_names[index], isImage || isSeries ? values : toRow(values)));
  byId("example").addEventListener("change", () => byId("example").value !== "own" && choose(byId("example").value));
  byId("of-pictures").hidden = !isImage;
  byId("of-rows").hidden = isImage;
  byId("row").hidden = isSeries;
  if (isImage) makeDrawing();
  else if (!isSeries) makeFields();
  byId("use").addEventListener("click", () => takeRows(byId("pasted").value));
  const area = byId("examine");
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("dropping");
  });
  area.addEventListener("dragleave", () => area.classList.remove("dropping"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("dropping");
    if (event.dataTransfer.files.length) takeFile(event.dataTransfer.files[0]);
    else if (!isImage) takeRows(event.dataTransfer.getData("text"));
  });
  byId("file").accept = isImage ? "image/*" : ".csv,text/csv";
  byId("file").addEventListener("change", (event) => event.target.files.length && takeFile(event.target.files[0]));
  await choose(0);
}

async function takeFile(file) {
  if (isImage) await takePicture(file);
  else await takeRows(await file.text(), file.name);
}

// Pictures

function makeDrawing() {
  const drawing = byId("drawing");
  const dot = (event) => {
    const box = drawing.getBoundingClientRect();
    const [across, down] = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    const radius = Math.max(0.8, width / 24);
    for (let place = 0; place < width * height; place++) {
      const [line, column] = [Math.floor(place / width), place % width];
      const near = 1 - Math.hypot(column + 0.5 - across, line + 0.5 - down) / (2 * radius);
      if (near <= 0) continue;
      const value = low + Math.min(1, 1.6 * near) * (high - low);
      for (let channel = 0; channel < channels; channel++) {
        x[place * channels + channel] = Math.max(x[place * channels + channel], value);
      }
    }
    markOwn();
    examine();
  };
  drawing.addEventListener("pointerdown", (event) => {
    drawing.setPointerCapture(event.pointerId);
    dot(event);
  });
  drawing.addEventListener("pointermove", (event) => event.buttons && dot(event));
  byId("clear").addEventListener("click", () => {
    markOwn();
    setX(new Float64Array(size).fill(low));
  });
}

async function takePicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {resizeWidth: width, resizeHeight: height, resizeQuality: "high"});
  } catch (error) {
    refuse(`${file.name} is not a picture that the browser can read.`);
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
  markOwn();
  await setX(values);
}

// Rows

const fields = [];

// The row as a form: for each column its value, its reconstruction, and what it adds to the score.
function makeFields() {
  // With a soft hyphen, for narrow screens.
  const head = ["Column", "Value", "Recon\u00adstruction", ...(config.detects ? ["Adds, nats"] : [])];
  const body = makeTable(byId("row"), head, "The row, its reconstruction, and what adds to its score");
  columns.slice(0, config.kind === "table" ? columns.length : MOST_FIELDS).forEach((column, index) => {
    const input = document.createElement(["category", "bool"].includes(column.kind) ? "select" : "input");
    input.id = `x${index}`;
    if (column.kind === "category" || column.kind === "bool") {
      const texts = column.kind === "bool" ? column.labels : [...column.labels, OTHER];
      [["missing", ""], ...texts.map((text) => [text, text])].forEach((parts) => input.add(new Option(...parts)));
    } else {
      input.type = "text";
      input.autocomplete = "off";
      if (column.kind === "date") input.placeholder = dateText(column, dayZero(column));
      else input.inputMode = "decimal";
    }
    input.addEventListener("input", () => {
      markOwn();
      setRow({...row, [column.name]: input.value});
    });
    const label = document.createElement("label");
    [label.htmlFor, label.textContent] = [input.id, column.name];
    const line = addLine(body, label, [input, ...head.slice(2).map(() => "")]);
    fields.push({column, input, cells: Array.from(line.cells).slice(2)});
  });
}

function fillFields(texts) {
  for (const {column, input} of fields) {
    const text = MISSING.has(texts[column.name]) ? "" : texts[column.name];
    const isKnown = input.tagName !== "SELECT" || Array.from(input.options).some(({value}) => value === text);
    if (isKnown) input.value = text;
    else if (column.kind === "bool") input.value = column.labels[BITS[text.toLowerCase()]] ?? "";
    else input.value = OTHER;
  }
}

function fillRow(mean, contributions) {
  const found = textsOf(columns, mean);
  fields.forEach(({column, cells: [reconstruction, adds]}, index) => {
    showValue(reconstruction, found[index]);
    if (adds) adds.textContent = sumOf(contributions, column.places).toFixed(2);
  });
}

// Takes the rows of a text of CSV, which can then be chosen; the first is shown.
async function takeRows(text, source = "pasted") {
  let found;
  try {
    found = rowsOfCsv(text, columns);
    codesOf(columns, found[0]);
    if (isSeries) found = windowsOf(found);
  } catch (error) {
    refuse(error.message);
    return;
  }
  const first = choices.length;
  found.slice(0, MOST_ROWS).forEach((texts, index) => addChoice(`${source}, ${isSeries ? "window" : "row"} ${index + 1}`, texts));
  await choose(first);
}

// Rows that are the steps of a series, as windows one after the other, of which the last may be in part missing.
function windowsOf(rows) {
  const steps = rows.map((texts) => codesOf(columns, texts));
  const windows = [];
  for (let start = 0; start < steps.length; start += config.event_shape[0]) {
    windows.push(Array.from({length: size}, (_, place) => {
      const step = steps[start + Math.floor(place / columns.length)];
      return step ? step[place % columns.length] : NaN;
    }));
  }
  if (!config.takes_missing && windows.flat().some(Number.isNaN)) {
    const expected = `whole windows of ${config.event_shape[0]} steps without missing values`;
    throw new Error(`The series must be ${expected}. Received: ${rows.length} steps, or one with a gap`);
  }
  return windows;
}

// Tables on the page

function makeTable(place, head, caption) {
  place.innerHTML = "<table><caption></caption><thead><tr></tr></thead><tbody></tbody></table>";
  place.querySelector("caption").textContent = caption;
  for (const name of head) {
    const cell = document.createElement("th");
    [cell.scope, cell.textContent] = ["col", name];
    place.querySelector("tr").append(cell);
  }
  return place.querySelector("tbody");
}

function addLine(body, name, cells) {
  const line = body.insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  head.append(name);
  line.append(head);
  cells.forEach((cell) => line.insertCell().append(cell));
  return line;
}

// A value, and how probable it is where it is one of several.
function showValue(cell, {text, probability}) {
  cell.replaceChildren(text);
  cell.dataset.value = text;
  if (probability === null) return;
  const share = document.createElement("span");
  [share.className, share.textContent] = ["weak", ` ${Math.round(100 * probability)}%`];
  cell.append(share);
}
