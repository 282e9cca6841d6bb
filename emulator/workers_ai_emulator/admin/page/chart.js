// Draws line charts of the server's load. A sample is an object with a `time` in seconds and with
// numbers measured at this time, such as `tokens_per_second`.

import { element } from "./dom.js";

const LEAST_SPAN_S = 60;
const WIDTH = 300;
const HEIGHT = 100;
const SVG = "http://www.w3.org/2000/svg";

// Draws a chart of the samples and puts it into the element `place`. `lines` maps keys of a sample
// to the CSS classes of their lines. Later lines are drawn over earlier lines.
export function drawChart(place, samples, lines, { isFilled = false } = {}) {
  const end = samples.at(-1).time;
  const span = Math.max(LEAST_SPAN_S, end - samples[0].time);
  const top = roundUp(highest(samples, Object.keys(lines)));
  const svg = createGrid();
  for (const [name, className] of Object.entries(lines)) {
    const points = samples.map((sample) => [
      (WIDTH * (1 - (end - sample.time) / span)).toFixed(1),
      (HEIGHT * (1 - sample[name] / top)).toFixed(1),
    ]);
    addLine(svg, points, className, isFilled);
  }
  place.replaceChildren(svg, element("span", "most", String(top)), element("span", "start", agoText(span)), element("span", "end", "now"));
}

// Returns the highest value that the samples have under the keys in `names`. Returns 0 if there are
// no samples.
export function highest(samples, names) {
  return Math.max(0, ...samples.flatMap((sample) => names.map((name) => sample[name])));
}

function createGrid() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const y of [0, HEIGHT / 2, HEIGHT]) add(svg, "line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y });
  return svg;
}

function addLine(svg, points, className, isFilled) {
  const line = points.map(([x, y]) => `${x} ${y}`).join("L");
  if (isFilled) add(svg, "path", { class: "area", d: `M${points[0][0]} ${HEIGHT}L${line}L${WIDTH} ${HEIGHT}Z` });
  add(svg, "path", { class: className, d: `M${line}` });
}

function add(svg, name, attributes) {
  const created = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  svg.append(created);
}

function agoText(span) {
  return span < 100 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`;
}

// Rounds a value up to 4, 8, 10, 20, 40, 80, 100 and so on, for the upper end of a chart's axis.
function roundUp(value) {
  let step = 1;
  while (step * 8 < value) step *= 10;
  return [1, 2, 4, 8].map((n) => n * step).find((n) => n >= Math.max(value, 4)) ?? step * 10;
}
