// Pictures, and line plots of vectors and of time series.

const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777"];

function paint(canvas, values, [from, to] = config.limits) {
  if (!isImage) {
    paintLines(canvas, [values]);
    return;
  }
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
}

// As many channels of a series are drawn at most.
const MOST_CHANNELS = 8;
const drawn = isSeries ? columns.slice(0, MOST_CHANNELS) : [];
const ofChannels = isSeries ? `: ${drawn.map(({name}) => name).join(", ")}` : "";

// Vectors as lines over their elements, or windows of series as lines over their steps, with a panel for each channel;
// the legend names the lines, and what adds much to the score is shaded.
function paintLines(canvas, examples, legend = [], contributions = null) {
  if (!isSeries) {
    paintPanels(canvas, [{lines: examples, least: config.limits}], "element", legend);
    return;
  }
  const ofChannel = (values, channel) => values.filter((_, place) => place % columns.length === channel);
  const panels = drawn.map(({name}, channel) => ({
    name,
    lines: examples.map((values) => ofChannel(values, channel)),
    least: config.limits[channel],
    shaded: contributions ? ofChannel(contributions, channel).map((nats) => nats > config.marked) : [],
  }));
  const count = drawn.length < columns.length ? ` (${drawn.length} of ${columns.length} channels)` : "";
  paintPanels(canvas, panels, `step${count}`, legend);
}

// Panels one below the other, each with axes; the range of a panel holds at least `least`.
function paintPanels(canvas, panels, across, legend = []) {
  canvas.classList.add("chart");
  const [left, right, head] = [74, 470, legend.length ? 34 : 12];
  const [space, extent] = panels.length > 1 || panels[0].name ? [26, 84] : [0, 244];
  [canvas.width, canvas.height] = [480, head + panels.length * (space + extent) + 44];
  const context = canvas.getContext("2d");
  context.font = "16px system-ui, sans-serif";
  legend.forEach((name, index) => {
    const start = left + 200 * index;
    startLine(context, index);
    context.moveTo(start, 16);
    context.lineTo(start + 30, 16);
    context.stroke();
    context.fillStyle = "#333333";
    context.textAlign = "left";
    context.fillText(name, start + 38, 21);
  });
  panels.forEach(({name = "", lines, least, shaded = []}, index) => {
    const top = head + index * (space + extent) + space;
    const bottom = top + extent;
    const all = [...least, ...lines.flat()].filter(Number.isFinite);
    const [from, to] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
    const last = Math.max(lines[0].length - 1, 1);
    const toAcross = (place) => left + ((right - left) * place) / last;
    const toDown = (value) => bottom - ((bottom - top) * (value - from)) / (to - from || 1);
    context.fillStyle = "#d0d0d0";
    shaded.forEach((isShaded, place) => {
      const [start, end] = [place - 0.5, place + 0.5].map((each) => toAcross(within(each, 0, last)));
      if (isShaded) context.fillRect(start, top, end - start, extent);
    });
    context.lineWidth = 1;
    context.setLineDash([]);
    context.strokeStyle = context.fillStyle = "#333333";
    context.strokeRect(left, top, right - left, extent);
    context.textAlign = "left";
    context.fillText(name, left, top - 7, right - left);
    context.textAlign = "right";
    for (const value of space ? [from, to] : [from, (from + to) / 2, to]) {
      context.fillText(String(Number(value.toPrecision(3))), left - 6, toDown(value) + 5);
    }
    if (index === panels.length - 1) {
      context.textAlign = "center";
      for (const place of new Set([0, Math.round(last / 2), last])) context.fillText(place, toAcross(place), bottom + 18);
      context.fillText(across, (left + right) / 2, bottom + 38);
    }
    lines.forEach((values, line) => paintLine(context, line, values, toAcross, toDown));
  });
}

function startLine(context, index) {
  context.lineWidth = 2;
  context.strokeStyle = context.fillStyle = COLORS[index % COLORS.length];
  context.setLineDash(index % 2 ? [7, 4] : []);
  context.beginPath();
}

// A line with gaps where values are missing, and then a dot for each value, because one between two gaps has no line.
function paintLine(context, index, values, toAcross, toDown) {
  startLine(context, index);
  const hasGaps = !values.every(Number.isFinite);
  values.forEach((value, place) => {
    if (!Number.isFinite(value)) return;
    const point = [toAcross(place), toDown(value)];
    if (Number.isFinite(values[place - 1])) context.lineTo(...point);
    else context.moveTo(...point);
    if (hasGaps) context.fillRect(point[0] - 2, point[1] - 2, 4, 4);
  });
  context.stroke();
}
