// Pictures, and line plots of vectors.

const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777"];

function paint(canvas, values, [from, to] = config.limits) {
  if (!isImage) {
    paintLines(canvas, [values], config.limits);
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

// Lines over the elements of vectors, with axes; the range holds at least `least`, and the legend names the lines.
function paintLines(canvas, series, least, legend = []) {
  canvas.classList.add("chart");
  [canvas.width, canvas.height] = [480, 300];
  const context = canvas.getContext("2d");
  const [left, right, top, bottom] = [74, 470, legend.length ? 34 : 12, 256];
  const all = [...least, ...series.flat()].filter(Number.isFinite);
  const [from, to] = [Math.min(...all), Math.max(...all)];
  const last = Math.max(series[0].length - 1, 1);
  const toAcross = (place) => left + ((right - left) * place) / last;
  const toDown = (value) => bottom - ((bottom - top) * (value - from)) / (to - from || 1);
  context.font = "16px system-ui, sans-serif";
  context.lineWidth = 1;
  context.strokeStyle = context.fillStyle = "#333333";
  context.strokeRect(left, top, right - left, bottom - top);
  context.textAlign = "right";
  for (const value of [from, (from + to) / 2, to]) {
    context.fillText(String(Number(value.toPrecision(3))), left - 6, toDown(value) + 5);
  }
  context.textAlign = "center";
  for (const place of new Set([0, Math.round(last / 2), last])) context.fillText(place, toAcross(place), bottom + 18);
  context.fillText("element", (left + right) / 2, bottom + 38);
  context.lineWidth = 2;
  series.forEach((values, index) => {
    context.strokeStyle = COLORS[index % COLORS.length];
    context.setLineDash(index % 2 ? [7, 4] : []);
    context.beginPath();
    values.forEach((value, place) => context.lineTo(toAcross(place), toDown(value)));
    context.stroke();
    if (index < legend.length) {
      const start = left + 200 * index;
      context.beginPath();
      context.moveTo(start, 16);
      context.lineTo(start + 30, 16);
      context.stroke();
      context.textAlign = "left";
      context.fillText(legend[index], start + 38, 21);
    }
  });
  context.setLineDash([]);
}
