// Rows of a table: texts become numbers and codes of the columns of x, and what the model decodes becomes texts again.
// A row is an object of texts by column, in which "" is missing, and the same rules hold as in tfvae.data.Table.

// The label of the code of all other categories.
const OTHER = "other";
const DAY = 86400000;
const HOUR = 3600000;
// What pandas reads as missing in a .csv file.
const MISSING = new Set(
  ("|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null").split("|"),
);
const MONTHS = [..."JanFebMarAprMayJunJulAugSepOctNovDec".matchAll(/.{3}/g)].map(([name]) => name);
const LONG_MONTHS = ("January February March April May June July August September October November December").split(" ");
const BITS = {true: 1, false: 0, 1: 1, 0: 0, "1.0": 1, "0.0": 0};

// The numbers and codes of a row, with NaN for what is missing.
function codesOf(columns, texts) {
  const absent = columns.filter(({name}) => !(name in texts)).map(({name}) => `"${name}"`);
  if (absent.length) throw new Error(`The row must have all columns. Received: a row without ${absent.join(", ")}`);
  const codes = [];
  for (const column of columns) {
    const text = String(texts[column.name]).trim();
    const isMissing = MISSING.has(text) || (column.blanks || []).includes(text);
    const own = isMissing ? column.places.map(() => NaN) : CODES[column.kind](column, text);
    column.places.forEach((place, index) => (codes[place] = own[index]));
  }
  return codes;
}

function wrong(column, expected, text) {
  return new Error(`Column "${column.name}" must hold ${expected}. Received: ${text}`);
}

function numberOf(column, text, expected) {
  const number = Number(text);
  if (!Number.isFinite(Math.fround(number))) throw wrong(column, expected, text);
  return number;
}

const CODES = {
  number(column, text) {
    const number = numberOf(column, text, "numbers that are finite in float32");
    if (!column.spikes.length) return [number];
    const code = column.spikes.indexOf(number) + 1;
    return [code ? NaN : number, code];
  },
  count(column, text) {
    const expected = "counts, whole numbers of at least 0";
    const number = numberOf(column, text, expected);
    if (number < 0 || number % 1) throw wrong(column, expected, text);
    return [number];
  },
  bool(column, text) {
    const bit = BITS[text.toLowerCase()];
    if (bit === undefined) throw wrong(column, "True, False, 1 or 0", text);
    return [bit];
  },
  category(column, text) {
    const same = column.takes_text ? (label) => label.trim() === text : (label) => Number(label) === Number(text);
    const code = column.labels.findIndex(same);
    // The last code is that of all other categories.
    return [code < 0 ? column.labels.length : code];
  },
  date(column, text) {
    const time = timeOf(column, text);
    if (time === null) throw wrong(column, `dates, such as ${dateText(column, dayZero(column))}`, text);
    const date = new Date(time);
    const codes = {month: date.getUTCMonth(), weekday: (date.getUTCDay() + 6) % 7, hour: date.getUTCHours()};
    return [(time - dayZero(column)) / DAY, ...column.cycles.map((name) => codes[name])];
  },
};

// For each column the text that a mean of p(x|z) stands for, and how probable it is, or null for numbers.
function textsOf(columns, mean) {
  return columns.map((column) => {
    const parts = column.starts.map((start, index) => Array.from(mean.slice(start, start + column.widths[index])));
    return TEXTS[column.kind](column, parts);
  });
}

const indexOfLargest = (values) => values.indexOf(Math.max(...values));
const within = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (value, decimals) =>
  String(decimals === null ? Number(value.toPrecision(5)) : Number(value.toFixed(decimals)) + 0);

const TEXTS = {
  number(column, [[number], codes]) {
    const code = codes ? indexOfLargest(codes) : 0;
    if (code) return {text: String(column.spikes[code - 1]), probability: codes[code]};
    // Elements of vectors have no range.
    const clipped = column.low === undefined ? number : within(number, column.low, column.high);
    return {text: rounded(clipped, column.decimals), probability: null};
  },
  count: (column, [[mean]]) => ({text: String(Math.max(Math.round(mean), column.low)), probability: null}),
  bool: (column, [[probability]]) => {
    const bit = probability >= 0.5 ? 1 : 0;
    return {text: column.labels[bit], probability: bit ? probability : 1 - probability};
  },
  category(column, [probabilities]) {
    const code = indexOfLargest(probabilities);
    const isOther = code === column.labels.length;
    // Where the data have no others, the most frequent category stands for them, as in Python.
    const text = isOther ? (column.has_rare ? OTHER : column.labels[0]) : column.labels[code];
    return {text, probability: probabilities[code]};
  },
  date(column, [[days], ...cycles]) {
    const codes = Object.fromEntries(column.cycles.map((name, index) => [name, indexOfLargest(cycles[index])]));
    return {text: dateText(column, timeNear(column, days, codes)), probability: null};
  },
};

// Dates: times are milliseconds of a clock without a zone

const dayZero = (column) => Date.parse(`${column.reference}Z`);

// The time of a text in the column's format or in that of ISO 8601; null if it is of neither.
function timeOf(column, text) {
  return (column.format && timeOfFormat(column.format, text)) ?? timeOfIso(column, text);
}

function timeOfIso(column, text) {
  const found = /^(\d{4})-(\d\d)(?:-(\d\d))?(?:[T ](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?$/.exec(text);
  // The clock of another zone would be another time.
  if (!found || (found[8] && column.has_zone)) return null;
  const [, year, month, day = "1", hour = "0", minute = "0", second = "0", fraction = "0"] = found;
  return timeOfParts(+year, +month, +day, +hour, +minute, +second + +fraction);
}

function timeOfFormat(format, text) {
  const patterns = {
    Y: "(?<Y>\\d{4})", m: "(?<m>\\d\\d?)", d: "(?<d>\\d\\d?)", H: "(?<H>\\d\\d?)", M: "(?<M>\\d\\d?)",
    S: "(?<S>\\d\\d?)", f: "(?<f>\\d+)", b: "(?<b>[A-Za-z]+)", B: "(?<b>[A-Za-z]+)",
  };
  const pattern = format
    .replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
    .replace(/%([A-Za-z])/g, (_, letter) => patterns[letter]);
  const found = new RegExp(`^${pattern}$`).exec(text);
  if (!found) return null;
  const {Y = "1900", m = "1", d = "1", H = "0", M = "0", S = "0", f = "0", b} = found.groups || {};
  const names = format.includes("%B") ? LONG_MONTHS : MONTHS;
  const month = b === undefined ? +m : names.findIndex((name) => name.toLowerCase() === b.toLowerCase()) + 1;
  return timeOfParts(+Y, month, +d, +H, +M, Number(`${S}.${f}`));
}

function timeOfParts(year, month, day, hour, minute, second) {
  const time = Date.UTC(year, month - 1, day, hour, minute, 0) + Math.round(1000 * second);
  const date = new Date(time);
  const isReal = date.getUTCMonth() === month - 1 && date.getUTCDate() === day && hour < 24 && minute < 60 && second < 60;
  return isReal ? time : null;
}

function dateText(column, time) {
  const date = new Date(time);
  const two = (number) => String(number).padStart(2, "0");
  const parts = {
    Y: String(date.getUTCFullYear()).padStart(4, "0"), m: two(date.getUTCMonth() + 1), d: two(date.getUTCDate()),
    H: two(date.getUTCHours()), M: two(date.getUTCMinutes()), S: two(date.getUTCSeconds()),
    f: String(date.getUTCMilliseconds() * 1000).padStart(6, "0"),
    b: MONTHS[date.getUTCMonth()], B: LONG_MONTHS[date.getUTCMonth()],
  };
  const format = column.format || (column.has_times ? "%Y-%m-%d %H:%M:%S" : "%Y-%m-%d");
  return format.replace(/%([A-Za-z])/g, (_, letter) => parts[letter]);
}

// The time closest to a number of days since the reference that has the codes of the cycles.
function timeNear(column, days, codes) {
  const zero = dayZero(column);
  const toTime = (day) => zero + Math.round(day * 86400) * 1000;
  const toDay = (time) => zero + Math.floor((time - zero) / DAY) * DAY;
  const [low, high] = [toTime(column.low), toTime(column.high)];
  const inRange = within(days, column.low, column.high);
  const near = column.has_times ? toTime(inRange) : zero + Math.round(inRange) * DAY;
  let time = near;
  if ("month" in codes) {
    time = inMonth(time, codes.month);
    if (time > high) time = yearLater(time, -1);
    if (time < low) time = yearLater(time, 1);
  }
  if ("weekday" in codes) {
    const weekday = (new Date(time).getUTCDay() + 6) % 7;
    time += (((((codes.weekday - weekday + 3) % 7) + 7) % 7) - 3) * DAY;
    if (toDay(time) > high) time -= 7 * DAY;
    if (time < toDay(low)) time += 7 * DAY;
  }
  if (!column.has_times) return within(time, low, high);
  if ("hour" in codes) time += (codes.hour - new Date(time).getUTCHours()) * HOUR;
  // A time that was rounded across the start of an hour, a day or a month is moved back over it, and no further.
  const most = 1000 + (high - low) * 1e-6;
  for (const other of [near, Math.ceil(near / HOUR) * HOUR, Math.floor(near / HOUR) * HOUR - 1000]) {
    const date = new Date(other);
    const own = {month: date.getUTCMonth(), weekday: (date.getUTCDay() + 6) % 7, hour: date.getUTCHours()};
    if (Math.abs(other - near) <= most && Object.keys(codes).every((name) => own[name] === codes[name])) time = other;
  }
  return within(time, low, high);
}

// The time in a month (0 is January) of the closest year, on the same day if it exists.
function inMonth(time, month) {
  const date = new Date(time);
  const steps = ((((month - date.getUTCMonth() + 6) % 12) + 12) % 12) - 6;
  return monthsLater(time, steps);
}

const yearLater = (time, years) => monthsLater(time, 12 * years);

function monthsLater(time, months) {
  const date = new Date(time);
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth() + months];
  const day = Math.min(date.getUTCDate(), new Date(Date.UTC(year, month + 1, 0)).getUTCDate());
  return Date.UTC(year, month, day) + (((time % DAY) + DAY) % DAY);
}

// CSV

// The rows of a text: with a header, objects of texts by column; without one, a single row in the order of the columns.
function rowsOfCsv(text, columns) {
  const [header, ...lines] = cellsOfCsv(text);
  if (!header) throw new Error("A row must be given. Received: an empty text");
  const names = columns.map(({name}) => name);
  if (!header.some((name) => names.includes(name.trim()))) {
    if (header.length !== names.length || lines.length) {
      const expected = `a first line with the names of the columns, or one line with ${names.length} values`;
      throw new Error(`The text must have ${expected}. Received: ${header.length} values`);
    }
    return [Object.fromEntries(names.map((name, index) => [name, header[index]]))];
  }
  if (!lines.length) throw new Error("A row must follow the names of the columns. Received: the names alone");
  return lines.map((line) => Object.fromEntries(header.map((name, index) => [name.trim(), line[index] ?? ""])));
}

// The cells of each line that is not blank; a cell in quotes may have commas, lines and doubled quotes.
function cellsOfCsv(text) {
  const lines = [[]];
  const pattern = /("(?:[^"]|"")*"|(?!")[^,\r\n]*)(,|\r?\n|\r|$)/gy;
  while (pattern.lastIndex < text.length) {
    const found = pattern.exec(text);
    if (!found) throw new Error("A quote in the text has no end");
    const [, cell, end] = found;
    lines.at(-1).push(cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell);
    if (end && end !== ",") lines.push([]);
  }
  if (text.endsWith(",")) lines.at(-1).push("");
  return lines.filter((line) => line.length > 1 || line.some((cell) => cell.trim()));
}
