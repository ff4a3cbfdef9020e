"use strict";
// The table of questions: filters, order, and images that load when they come into view.
// Every text from the data enters the page as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const tools = document.getElementById("tools");
const table = document.querySelector(".questions");
const end = document.getElementById("end");
const large = document.getElementById("large");
const CHUNK = 30;
const SAYS_WIDTH = 210; // of the dialogue, in CSS pixels
const LOOK_WIDTH = 104; // least of an image in a row; where there is less, rows become cards
const OVER = { [data.points]: [], sam_points: [data.points] };
let shown = [];
let drawn = 0;
let opened = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function option(value, text) {
  return make("option", { value, textContent: text });
}

function box(name, value, text, checked) {
  const input = make("input", { type: "checkbox", name, value, checked, defaultChecked: checked });
  return make("label", {}, input, ` ${text}`);
}

const files = (model, file) =>
  [data.models[model], ...file.split("/")].map(encodeURIComponent).join("/");

function layerFile(answer, name) {
  if (!Array.isArray(answer.layers)) return answer.layers[name];
  return answer.layers.includes(name) ? `${answer.start}${name}.png` : undefined;
}

const counted = (count) => `${count} question${count === 1 ? "" : "s"}`;
const number = (value) => (value === undefined || value === null ? "" : value.toFixed(3));
const modelsShown = () => chosen("model").map(Number);

// --- what is chosen ---------------------------------------------------------------------------

function setUp() {
  const kinds = [...new Set(data.questions.map((question) => question.kind).filter(Boolean))].sort();
  tools.kind.append(option("", "any"), ...kinds.map((kind) => option(kind, kind)));
  document.getElementById("models").append(
    ...data.models.map((name, place) => box("model", String(place), name, true)));
  document.getElementById("models").hidden = data.models.length < 2;
  document.getElementById("columns").append(
    ...data.columns.map((column) => box("column", column.id, column.title, column.shown)));
  tools.sort.append(option("", "order of the data"));
  const scored = new Set(data.questions.flatMap((question) =>
    question.answers.flatMap((answer) => (answer ? Object.keys(answer.scores) : []))));
  const several = data.models.length > 1;
  const orders = (of, name, sign) => tools.sort.append(make("optgroup", { label: name },
    ...data.columns.filter((column) => scored.has(column.id)).map((column) =>
      option(`${column.id}:${of}`, column.title + (several ? sign + name : "")))));
  data.models.forEach((name, place) => orders(place, name, ", "));
  data.models.forEach((first, one) => data.models.slice(one + 1).forEach((second, after) =>
    orders(`${one}:${one + 1 + after}`, `${first} minus ${second}`, ": ")));
  document.getElementById("about").textContent =
    `${counted(data.questions.length)}${several ? `, ${data.models.length} models` : ""}. ` +
    "Best S-IoU: of a map with the truth, cut where that is highest. " +
    "Points: green say here, red say not here; grey is what a map does not see.";
}

function fromHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const name of ["search", "kind", "truth", "answered", "sort", "order"]) {
    tools[name].value = wanted.get(name) ?? "";
    if (tools[name].selectedIndex === -1) tools[name].selectedIndex = 0;
  }
  if (!wanted.has("order")) tools.order.value = "up";
  for (const name of ["model", "column"]) {
    tools.querySelectorAll(`[name=${name}]`).forEach((input) => {
      input.checked = wanted.has(name)
        ? wanted.get(name).split(",").includes(input.value) : input.defaultChecked;
    });
  }
}

function toHash() {
  const wanted = new URLSearchParams();
  for (const name of ["search", "kind", "truth", "answered", "sort"]) {
    if (tools[name].value) wanted.set(name, tools[name].value);
  }
  if (tools.order.value !== "up") wanted.set("order", tools.order.value);
  for (const name of ["model", "column"]) {
    const inputs = [...tools.querySelectorAll(`[name=${name}]`)];
    if (inputs.some((input) => input.checked !== input.defaultChecked)) {
      wanted.set(name, chosen(name).join(","));
    }
  }
  const hash = String(wanted);
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

const chosen = (name) =>
  [...tools.querySelectorAll(`[name=${name}]:checked`)].map((input) => input.value);

const columnsShown = () => {
  const wanted = new Set(chosen("column"));
  return data.columns.filter((column) => wanted.has(column.id));
};

function fits(question, models) {
  const words = tools.search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const answers = models.map((place) => question.answers[place]).filter(Boolean);
  const text = [question.text, question.image, ...answers.map((answer) => answer.text)]
    .join("\n").toLowerCase();
  if (!answers.length || !words.every((word) => text.includes(word))) return false;
  if (tools.kind.value && question.kind !== tools.kind.value) return false;
  if (tools.truth.value && question.truth !== (tools.truth.value === "present")) return false;
  const said = tools.answered.value;
  if (said === "wrong") {
    return question.truth !== null && answers.some((answer) => answer.present !== question.truth);
  }
  return !said || answers.some((answer) => answer.present === (said === "present"));
}

// The value to sort by; undefined stands at the end in either order.
function sortValue(question) {
  const [name, first, second] = tools.sort.value.split(":");
  const of = (place) => question.answers[Number(place)]?.scores[name];
  if (second === undefined) return of(first);
  const difference = of(first) - of(second);
  return Number.isNaN(difference) ? undefined : difference;
}

function choose() {
  const models = modelsShown();
  shown = data.questions.filter((question) => fits(question, models));
  const sign = tools.order.value === "down" ? -1 : 1;
  if (tools.sort.value) {
    const values = new Map(shown.map((question) => [question, sortValue(question)]));
    shown.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (x - y);
    });
  } else if (sign < 0) {
    shown.reverse();
  }
}

// --- the table --------------------------------------------------------------------------------

function stack(question, place, column) {
  const answer = question.answers[place];
  const [height, width] = question.size;
  const around = make("span", { className: "stack" });
  around.style.aspectRatio = `${width} / ${height}`;
  const names = column.id === "image" ? [] : [column.id, ...(OVER[column.id] ?? [])];
  const sources = [answer.image, ...names.map((name) => layerFile(answer, name))];
  for (const file of sources.filter(Boolean)) {
    around.append(make("img", { loading: "lazy", decoding: "async", alt: "", src: files(place, file) }));
  }
  return around;
}

function caption(question, place, column) {
  const answer = question.answers[place];
  if (column.id === data.points && answer.points) {
    const [inside, positive, outside, negative] = answer.points;
    return `${inside}/${positive} inside, ${outside}/${negative} outside`;
  }
  const score = number(answer.scores[column.id]);
  return score && `${data.maps.includes(column.id) ? "best S-IoU" : "IoU"} ${score}`;
}

const has = (answer, column) =>
  column.id === "image" ? Boolean(answer.image) : layerFile(answer, column.id) !== undefined;

function lookCell(question, place, column) {
  const cell = make("td", { role: "cell", className: "look" });
  if (!has(question.answers[place], column)) {
    cell.classList.add("none");
    cell.append(make("span", { textContent: "–", title: `no ${column.title}` }));
    return cell;
  }
  const below = make("span", { className: "caption", textContent: caption(question, place, column) });
  below.dataset.title = column.title;
  const shot = make("button", { type: "button", className: "shot" }, stack(question, place, column));
  shot.setAttribute("aria-label", `${column.title}: ${question.text}`);
  shot.addEventListener("click", () => open(question, place, column));
  cell.append(shot, below);
  return cell;
}

function saysCell(question, place) {
  const answer = question.answers[place];
  const cell = make("td", { role: "cell", className: "says" });
  if (data.models.length > 1) cell.append(make("b", { textContent: data.models[place] }));
  cell.append(make("span", { className: "answer", textContent: answer.text || "(no words)" }));
  const right = question.truth === null || question.truth === answer.present;
  cell.append(make("span", {
    className: right ? "quiet" : "bad",
    textContent: (answer.present ? "answered: present" : "answered: absent") + (right ? "" : ", wrongly"),
  }));
  const iou = number(answer.scores.final);
  if (iou) cell.append(make("span", { className: "quiet", textContent: `IoU ${iou}` }));
  return cell;
}

function block(question, models, columns) {
  const truth = question.truth === null ? "" : `truth: ${question.truth ? "present" : "absent"}`;
  const about = [question.kind, truth, question.image.split("/").pop()].filter(Boolean).join(" · ");
  const asked = make("td", { role: "cell", ariaColSpan: columns.length + 1 },
    make("q", { textContent: question.text }),
    make("div", { className: "quiet", textContent: about, title: question.image }));
  const body = make("tbody", { role: "rowgroup" }, make("tr", { role: "row", className: "asked" }, asked));
  for (const place of models.filter((model) => question.answers[model])) {
    body.append(make("tr", { role: "row", className: "made" }, saysCell(question, place),
      ...columns.map((column) => lookCell(question, place, column))));
  }
  return body;
}

function head(columns) {
  const sortable = new Set([...tools.sort.options].map((entry) => entry.value.split(":")[0]));
  document.getElementById("head").replaceChildren(
    make("th", { role: "columnheader", textContent: "dialogue" }),
    ...columns.map((column) => {
      const cell = make("th", { role: "columnheader" });
      if (!sortable.has(column.id)) {
        cell.textContent = column.title;
        return cell;
      }
      const place = modelsShown()[0] ?? 0;
      const current = tools.sort.value === `${column.id}:${place}`;
      const up = tools.order.value === "up";
      const arrow = make("span", { textContent: current ? (up ? "\u00a0↑" : "\u00a0↓") : "\u00a0↕" });
      arrow.setAttribute("aria-hidden", "true");
      if (current) cell.ariaSort = up ? "ascending" : "descending";
      const name = data.models.length > 1 ? `, ${data.models[place]}` : "";
      const button = make("button", { type: "button", title: `sort by ${column.title}${name}` },
        column.title, arrow);
      button.addEventListener("click", () => {
        tools.order.value = current && up ? "down" : "up";
        tools.sort.value = `${column.id}:${place}`;
        refresh();
      });
      cell.append(button);
      return cell;
    }));
}

function fit() {
  const looks = columnsShown().length;
  const needed = SAYS_WIDTH + LOOK_WIDTH * looks;
  table.style.setProperty("--says", `${SAYS_WIDTH}px`);
  table.style.setProperty("--looks", Math.max(1, looks));
  table.classList.toggle("cards", table.clientWidth < needed);
}

function more() {
  const models = modelsShown();
  const columns = columnsShown();
  const next = shown.slice(drawn, drawn + CHUNK);
  table.append(...next.map((question) => block(question, models, columns)));
  drawn += next.length;
}

function refresh() {
  toHash();
  choose();
  head(columnsShown());
  fit();
  table.querySelectorAll("tbody").forEach((body) => body.remove());
  drawn = 0;
  document.getElementById("count").textContent =
    `${shown.length} of ${counted(data.questions.length)}`;
  more();
}

// --- one image, large -----------------------------------------------------------------------

function open(question, place, column) {
  opened = { question, place, column };
  document.getElementById("large-title").textContent = question.text;
  document.getElementById("large-answer").textContent = question.answers[place].text;
  const name = data.models.length > 1 ? `${data.models[place]}: ` : "";
  document.getElementById("large-caption").textContent =
    [name + column.title, caption(question, place, column)].filter(Boolean).join(" · ");
  const image = stack(question, place, column);
  const [height, width] = question.size;
  image.style.width = `min(100%, ${(66 * width) / height}vh)`;
  document.getElementById("large-shot").replaceChildren(image);
  if (!large.open) large.showModal();
}

// The image beside it in the row.
function step(by) {
  const columns = columnsShown().filter((column) => has(opened.question.answers[opened.place], column));
  const place = columns.indexOf(opened.column) + by;
  open(opened.question, opened.place, columns[(place + columns.length) % columns.length]);
}

// The image in the same column of the next row that has one.
function stepRow(by) {
  const { question, place, column } = opened;
  const rows = shown.flatMap((one) => modelsShown().map((model) => [one, model]))
    .filter(([one, model]) => one.answers[model] && has(one.answers[model], column));
  const next = rows.findIndex(([one, model]) => one === question && model === place) + by;
  if (rows[next]) open(...rows[next], column);
}

document.getElementById("close").addEventListener("click", () => large.close());
document.getElementById("before").addEventListener("click", () => step(-1));
document.getElementById("after").addEventListener("click", () => step(1));
document.getElementById("above").addEventListener("click", () => stepRow(-1));
document.getElementById("below").addEventListener("click", () => stepRow(1));
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [step, -1], ArrowRight: [step, 1], ArrowUp: [stepRow, -1],
    ArrowDown: [stepRow, 1] };
  if (!(event.key in steps)) return;
  const [go, by] = steps[event.key];
  event.preventDefault();
  go(by);
});
tools.addEventListener("input", refresh);
tools.addEventListener("submit", (event) => event.preventDefault());
tools.addEventListener("reset", () => setTimeout(() => { tools.order.value = "up"; refresh(); }));
window.addEventListener("hashchange", () => { fromHash(); refresh(); });
const nearEnd = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || drawn >= shown.length) return;
  more();
  nearEnd.unobserve(end);
  nearEnd.observe(end);
}, { rootMargin: "800px" });
nearEnd.observe(end);
new ResizeObserver(fit).observe(table.parentElement);

setUp();
fromHash();
refresh();
