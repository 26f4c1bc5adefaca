
"use strict";
(() => {
// What is shown. tokens [n]; content [n]: not special; pairStart: where the second text starts, n
// of a single one; unshown: how many tokens were left out. weights [layers, heads, n, n] and rest
// [layers, heads, n], what goes to the tokens left out, are 65535 √p in two bytes. statistics: values
// [layers · heads] each. start: the token, layer and head to begin with, from 0.
const data = JSON.parse(document.getElementById("data").textContent);
const n = data.tokens.length;
const most = 65535;  // a root of weight 1
const weights = roots(data.weights), rest = roots(data.rest);
const strongest = 5;  // weights that are named in words
const faint = 0.1;    // lines of other tokens are drawn from this weight on
const small = Math.min(n, 32);  // points of a small map
const night = matchMedia("(prefers-color-scheme: dark)");

// Light to dark, from white to the blue end of cividis; in the dark cividis itself, so that in both
// a weight is a matter of lightness, which every eye and a grey print can tell.
const ramps = {
  light: [[255, 255, 255], [214, 224, 236], [150, 175, 208], [74, 108, 160], [0, 34, 78]],
  dark: [[24, 27, 33], [35, 62, 108], [98, 104, 112], [176, 164, 112], [254, 232, 56]],
};

const state = {
  layer: data.start.layer, head: data.start.head, token: data.start.token,
  over: null,  // the token under the pointer: {token, direction}; on a map its partner, too: other
  onPaper: false,  // while it is printed
};

const at = (id) => document.getElementById(id);
const weight = (i, j) => (weights[((state.layer * data.heads + state.head) * n + i) * n + j] / most) ** 2;
const toRest = (i) => (rest[(state.layer * data.heads + state.head) * n + i] / most) ** 2;
const direction = () => state.over ? state.over.direction : at("direction").value;
const chosen = () => state.over ? state.over.token : state.token;
const between = (token, other, way) => way === "from" ? weight(token, other) : weight(other, token);

function roots(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Uint16Array.from({ length: bytes.length / 2 }, (_, k) => bytes[2 * k] + 256 * bytes[2 * k + 1]);
}

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function percent(share) {
  const parts = 100 * share;
  if (parts >= 9.95) return `${parts.toFixed(0)} %`;
  return parts >= 0.05 ? `${parts.toFixed(1)} %` : parts ? "<0.1 %" : "0 %";
}

// A statistic with this many digits behind the point, fewer if it is large.
function number(value, digits = 3) {
  if (value === null) return "–";
  const least = 10 ** -digits;
  if (value > 0 && value < least / 2) return `<${least}`;
  return value.toFixed(Math.max(0, digits - Math.floor(Math.log10(Math.max(Math.abs(value), 1)))));
}

// The colour of a weight, by its square root, so that small ones can be told apart.
function colour(share) {
  const ramp = night.matches && !state.onPaper ? ramps.dark : ramps.light;
  const place = Math.min(Math.sqrt(share), 1) * (ramp.length - 1);
  const below = Math.min(Math.floor(place), ramp.length - 2), part = place - below;
  return ramp[below].map((low, k) => Math.round(low + part * (ramp[below + 1][k] - low)));
}

function css(rgb) { return `rgb(${rgb.join(",")})`; }

function ink(rgb) {  // letters that can be read on a colour
  return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140 ? "#000" : "#fff";
}

// The header

function showHeader() {
  at("subject").textContent = data.texts.length > 1 ? "a pair of texts" : "one text";
  for (const text of data.texts) at("texts").append(make("blockquote", { dir: "auto" }, text));
  for (const [name, value] of [...data.answer, ["model", data.model]]) {
    if (name === "scores" && data.classes.length) continue;
    at("answer").append(make("dt", {}, name), make("dd", { dir: "auto" }, value));
  }
  for (const [label, score] of data.classes) {
    const bar = make("i");
    bar.style.width = `${100 * Math.min(Math.max(score || 0, 0), 1)}%`;
    const row = make("div", { class: "class" }, make("span", { dir: "auto" }, label));
    row.append(make("div", { class: "bar", "aria-hidden": "true" }, bar), make("span", {}, number(score)));
    at("classes").append(row);
  }
  if (data.warning) { at("warning").hidden = false; at("warning").textContent = `Warning: ${data.warning}`; }
  const notes = [];
  if (data.pairStart < n) notes.push("Tokens of the second text have a double line below.");
  if (data.unshown) {
    notes.push(`The first ${n} of ${n + data.unshown} tokens are shown; the statistics and the prediction are of all.`);
  }
  at("notes").hidden = !notes.length;
  at("notes").textContent = notes.join(" ");
}

// All heads

function makeGrid() {
  const grid = at("grid");
  grid.style.gridTemplateColumns = `1.4em repeat(${data.heads}, minmax(22px, 1fr))`;
  grid.append(make("span", {}, ""));
  for (let h = 0; h < data.heads; h++) grid.append(make("span", { "aria-hidden": "true" }, String(h + 1)));
  for (let l = 0; l < data.layers; l++) {
    grid.append(make("span", { "aria-hidden": "true" }, String(l + 1)));
    for (let h = 0; h < data.heads; h++) {
      const button = make("button", { type: "button", "data-layer": l, "data-head": h });
      button.append(make("canvas", { width: small, height: small }), make("small"));
      button.addEventListener("click", () => chooseHead(l, h));
      grid.append(button);
    }
  }
  walk(grid, () => data.heads);
}

// Each point of a small map is the largest of the weights that fall on it.
function paintGrid() {
  const colours = Array.from({ length: 256 }, (_, k) => colour((k / 255) ** 2));
  const to = Array.from({ length: n }, (_, i) => Math.floor(i * small / n));
  for (const button of at("grid").querySelectorAll("button")) {
    let k = (button.dataset.layer * data.heads + Number(button.dataset.head)) * n * n;
    const largest = new Uint16Array(small * small), image = new ImageData(small, small);
    for (const y of to) {
      for (const x of to) largest[y * small + x] = Math.max(largest[y * small + x], weights[k++]);
    }
    largest.forEach((root, point) => image.data.set([...colours[Math.round(255 * root / most)], 255], 4 * point));
    button.firstChild.getContext("2d").putImageData(image, 0, 0);
  }
}

function numberGrid() {
  const statistic = data.statistics[at("number").value];
  for (const button of at("grid").querySelectorAll("button")) {
    const layer = Number(button.dataset.layer), head = Number(button.dataset.head);
    const value = statistic.values[layer * data.heads + head];
    const known = `, ${statistic.name.replaceAll("_", " ")} ${number(value)}`;
    button.lastChild.textContent = value === null ? "–" : value.toFixed(value < 9.95 ? 1 + (value < 0.995) : 0);
    button.setAttribute("aria-label", `Layer ${layer + 1}, head ${head + 1}${known}`);
    const pressed = layer === state.layer && head === state.head;
    button.setAttribute("aria-pressed", pressed);
    button.tabIndex = pressed ? 0 : -1;
  }
}

function chooseHead(layer, head) {
  state.layer = layer;
  state.head = head;
  at("layer").value = layer;
  at("head").value = head;
  showHead();
}

// Arrow keys move the focus among the buttons of a group, which is one stop of the Tab key.
function walk(group, width) {
  group.addEventListener("keydown", (event) => {
    const buttons = [...group.querySelectorAll("button")], here = buttons.indexOf(document.activeElement);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width(), ArrowDown: width() };
    const to = event.key === "Home" ? 0 : event.key === "End" ? buttons.length - 1 : here + steps[event.key];
    if (here < 0 || !(to >= 0 && to < buttons.length)) return;
    event.preventDefault();
    buttons[to].focus();
  });
}

// One head

function makeTokens() {
  data.tokens.forEach((token, i) => {
    const kinds = [data.content[i] ? "" : "special", i >= data.pairStart ? "second" : ""];
    const button = make("button", { type: "button", class: kinds.join(" ").trim(), dir: "auto" });
    button.append(make("span", {}, token || " "), make("small"));
    button.addEventListener("focus", () => chooseToken(i));
    button.addEventListener("click", () => chooseToken(i));
    pointAt(button, () => ({ token: i, direction: at("direction").value }));
    at("tokens").append(button);
  });
  if (data.unshown) {
    at("tokens").append(make("span", { class: "rest" }, `${data.unshown} more`, make("small")));
  }
  walk(at("tokens"), () => 1);
}

function pointAt(element, where) {
  element.addEventListener("pointerenter", () => { state.over = where(); showToken(); });
  element.addEventListener("pointerleave", () => { state.over = null; showToken(); });
}

function chooseToken(token) {
  state.token = token;
  state.over = null;
  showToken();
}

function shade(element, share) {
  const rgb = colour(share);
  element.style.background = css(rgb);
  element.style.color = ink(rgb);
  element.lastChild.textContent = share >= 0.005 ? percent(share) : "";
}

function showToken() {
  const token = chosen(), way = direction(), all = [];
  [...at("tokens").children].forEach((element, i) => {
    const isRest = i === n;
    const share = isRest ? (way === "from" ? toRest(token) : 0) : between(token, i, way);
    shade(element, share);
    if (isRest) return;
    all.push([share, i]);
    element.classList.toggle("chosen", i === token);
    element.tabIndex = i === state.token ? 0 : -1;
    element.setAttribute("aria-pressed", i === state.token);
    element.setAttribute("aria-label", `${data.tokens[i]}, token ${i + 1}, ${percent(share)}`);
  });
  all.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  const quoted = (i) => `“${data.tokens[i]}” (token ${i + 1})`;
  const again = (i) => data.tokens.indexOf(data.tokens[i]) !== data.tokens.lastIndexOf(data.tokens[i]);
  const named = all.slice(0, strongest)
    .map(([share, i]) => `“${data.tokens[i]}${again(i) ? `@${i + 1}` : ""}” ${percent(share)}`);
  if (way === "from" && data.unshown) named.push(`tokens that are not shown ${percent(toRest(token))}`);
  const verb = way === "from" ? "attends to" : "is attended to by";
  const other = state.over?.other;
  at("said").textContent = `${quoted(token)} ${verb}` + (other === undefined
    ? `: ${named.join(", ")}` : ` ${quoted(other)}: ${percent(between(token, other, way))}`);
  markFigure(token, way);
}

function showHead() {
  at("one-title").textContent = `Layer ${state.layer + 1}, head ${state.head + 1}`;
  numberGrid();
  at("figure").replaceChildren(at("drawing").value === "map" ? makeMap() : makeLines());
  showToken();
  showStatistics();
}

function shorten(token, most) {
  const letters = [...token];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : token;
}

// Two columns of tokens, from left to right

const line = { height: 20 };

function makeLines() {
  line.width = Math.min(440, at("figure").parentElement.clientWidth);
  line.left = 0.37 * line.width;
  line.right = 0.63 * line.width;
  const svg = make("svg", { width: line.width, height: n * line.height, role: "img", class: "lines" });
  svg.setAttribute("aria-label", "Lines from each token on the left to the tokens that it attends to");
  const others = make("g", { "stroke-width": 1 });
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      if (weight(i, j) >= faint) others.append(makeLine(i, j, 0.3 * weight(i, j)));
    }
  }
  svg.append(others, make("g", { class: "mine" }));
  data.tokens.forEach((token, i) => {
    for (const [way, x, anchor] of [["from", line.left - 6, "end"], ["to", line.right + 6, "start"]]) {
      const text = make("text", { x, y: (i + 0.5) * line.height, "text-anchor": anchor, class: way });
      text.append(shorten(token, Math.floor(line.width / 25)), make("title", {}, token));
      pointAt(text, () => ({ token: i, direction: way }));
      text.addEventListener("click", () => { at("direction").value = way; chooseToken(i); });
      svg.append(text);
    }
  });
  return svg;
}

function makeLine(i, j, opacity) {
  return make("line", {
    x1: line.left, y1: (i + 0.5) * line.height, x2: line.right, y2: (j + 0.5) * line.height,
    "stroke-opacity": opacity.toFixed(3),
  });
}

function markFigure(token, way) {
  const figure = at("figure").firstChild;
  if (figure.tagName === "CANVAS") return paintMap(figure, token, way);
  const mine = [];
  for (let k = 0; k < n; k++) {
    const share = between(token, k, way);
    if (share < 0.002) continue;
    const drawn = way === "from" ? makeLine(token, k, Math.sqrt(share)) : makeLine(k, token, Math.sqrt(share));
    drawn.setAttribute("stroke-width", 1 + 4 * share);
    mine.push(drawn);
  }
  figure.querySelector(".mine").replaceChildren(...mine);
  for (const side of ["from", "to"]) {
    figure.querySelectorAll(`text.${side}`).forEach((text, i) => {
      text.classList.toggle("chosen", side === way && i === token);
    });
  }
}

// A large map, with the tokens at its rows and columns

const labels = 110;
const cell = () => n <= 24 ? 22 : n <= 48 ? 16 : 12;

function makeMap() {
  const side = labels + n * cell(), ratio = devicePixelRatio || 1;
  const canvas = make("canvas", { width: side * ratio, height: side * ratio, role: "img" });
  canvas.style.width = canvas.style.height = `${side}px`;
  canvas.setAttribute("aria-label", "Map: each row is a token that attends, each column one that is attended to");
  const under = (event) => {  // the token of the row or column, and its partner
    const [column, row] = [event.offsetX, event.offsetY].map((x) => Math.floor((x - labels) / cell()));
    const [token, other] = at("direction").value === "from" ? [row, column] : [column, row];
    if (!(token >= 0 && token < n)) return null;
    const known = { token, direction: at("direction").value };
    return other >= 0 && other < n ? { ...known, other } : known;
  };
  canvas.addEventListener("pointermove", (event) => {
    const now = under(event);
    if (now?.token === state.over?.token && now?.other === state.over?.other) return;
    state.over = now;
    showToken();
  });
  canvas.addEventListener("pointerleave", () => { state.over = null; showToken(); });
  canvas.addEventListener("click", (event) => { if (under(event)) chooseToken(under(event).token); });
  return canvas;
}

function paintMap(canvas, token, way) {
  const pen = canvas.getContext("2d"), size = cell(), style = getComputedStyle(document.body);
  pen.setTransform(canvas.width / (labels + n * size), 0, 0, canvas.width / (labels + n * size), 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      pen.fillStyle = css(colour(weight(i, j)));
      pen.fillRect(labels + j * size, labels + i * size, size, size);
    }
  }
  pen.textBaseline = "middle";
  data.tokens.forEach((label, i) => {
    for (const isRow of [true, false]) {
      const bold = i === token && isRow === (way === "from");
      pen.font = `${bold ? "bold " : ""}${Math.min(13, size - 1)}px ${style.fontFamily}`;
      pen.fillStyle = style.color;
      pen.textAlign = isRow ? "right" : "left";
      pen.save();
      const middle = labels + (i + 0.5) * size;
      pen.translate(isRow ? labels - 5 : middle, isRow ? middle : labels - 5);
      if (!isRow) pen.rotate(-Math.PI / 2);
      pen.fillText(shorten(label, 14), 0, 0, labels - 8);
      pen.restore();
    }
  });
  pen.strokeStyle = style.getPropertyValue("--mark");
  pen.lineWidth = 2;
  const start = labels + token * size, whole = n * size;
  if (way === "from") pen.strokeRect(labels, start, whole, size);
  else pen.strokeRect(start, labels, size, whole);
}

// Statistics

function showStatistics() {
  at("rows").replaceChildren(...data.statistics.map((statistic) => {
    const known = statistic.values.filter((value) => value !== null);
    const value = statistic.values[state.layer * data.heads + state.head];
    const low = Math.min(...known), high = Math.max(...known);
    const name = make("th", { scope: "row" }, ...breakable(statistic.name), make("small", {}, statistic.meaning));
    const range = make("td");
    if (known.length && value !== null) {
      const mark = make("i");
      mark.style.left = `${high > low ? 100 * (value - low) / (high - low) : 50}%`;
      range.append(make("div", { class: "range", "aria-hidden": "true" }, mark));
      range.append(make("div", { class: "ends" }, make("span", {}, number(low)), make("span", {}, number(high))));
    }
    return make("tr", {}, name, make("td", {}, number(value)), range);
  }));
}

function breakable(name) {  // a line may end after each underscore
  return name.split("_").flatMap((part, k) => k ? ["_", make("wbr"), part] : [part]);
}

function showLegend() {
  const stops = Array.from({ length: 21 }, (_, k) => css(colour((k / 20) ** 2)));
  const colours = make("div", { class: "colours" }), scale = make("div", { class: "scale" }, colours);
  colours.style.background = `linear-gradient(90deg, ${stops.join(",")})`;
  for (const share of [0, 0.05, 0.25, 0.5, 1]) {
    const mark = make("span", {}, `${100 * share} %`);
    mark.style.left = `${100 * Math.sqrt(share)}%`;
    scale.append(mark);
  }
  at("legend").replaceChildren(make("span", {}, "weight"), scale);
}

function fill(select, names, value) {
  names.forEach((name, k) => at(select).append(make("option", { value: k }, name)));
  at(select).value = value;
}

function repaint() {
  paintGrid();
  showLegend();
  showToken();
}

const upTo = (count) => Array.from({ length: count }, (_, k) => String(k + 1));
fill("layer", upTo(data.layers), state.layer);
fill("head", upTo(data.heads), state.head);
fill("number", data.statistics.map((statistic) => statistic.name), 0);
for (const id of ["layer", "head"]) {
  at(id).addEventListener("change", () => chooseHead(Number(at("layer").value), Number(at("head").value)));
}
at("number").addEventListener("change", numberGrid);
at("direction").addEventListener("change", () => chooseToken(state.token));
at("drawing").addEventListener("change", showHead);
night.addEventListener("change", repaint);
addEventListener("beforeprint", () => { state.onPaper = true; repaint(); });
addEventListener("afterprint", () => { state.onPaper = false; repaint(); });
showHeader();
makeGrid();
makeTokens();
showHead();
repaint();
})();
