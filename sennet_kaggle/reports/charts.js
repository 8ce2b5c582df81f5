// Lines over slices, thresholds and epochs; they differ in colour and in dashes, so that neither is needed alone.
const DASHED = "6 3";
const CURVES = {
  dice_pooled: ["Dice, pooled", "--prediction"],
  dice_mean: ["Dice, mean", "--label", DASHED],
  dice_without_largest: ["Dice, without the largest", "--fifth", "8 3 2 3"],
  surface_dice: ["Surface Dice", "--missed"],
  surface_dice_2d_1px: ["Surface Dice in 2D at 1 px", "--other", "2 3"],
};

function drawSliceCharts() {
  const { slices, numbers, numbered, labelled } = kidney();
  const line = (key, other = false) => slices.map((row, i) => [numbers[i], (other ? row.other : row)[key]]);
  const xLabel = numbered ? "slice number" : "slice, counted from 1";
  const common = { xLabel, onPick: (i) => showSlice(i), gaps: true, seen: slices.map((row) => row.seen) };
  const names = TWO ? RUNS.map((run) => run.name) : [];
  charts = [];
  byId("dice-card").hidden = !labelled;
  if (labelled) {
    const series = [{ name: names[0] ?? "Dice", color: "--prediction", points: line("dice") }];
    if (TWO) series.push({ name: names[1], color: "--other", dash: DASHED, points: line("dice", true) });
    charts.push(lineChart(byId("dice-chart"), { series, yLabel: "Dice", yDomain: [0, 1], ...common }));
  }
  const series = [{ name: names[0] ?? "Prediction", color: "--prediction", points: line("pred") }];
  if (TWO) series.push({ name: names[1], color: "--other", dash: DASHED, points: line("pred", true) });
  if (labelled) series.unshift({ name: "Label", color: "--label", points: line("gt") });
  charts.push(lineChart(byId("pixel-chart"), { series, yLabel: "vessel pixels", fromZero: true, ...common }));
  charts.forEach((chart) => chart.mark(numbers[z]));
}

function buildCurves() {
  const { sweep, history } = FACTS;
  const host = byId("curves");
  const draw = [];
  const card = (title, half = "") => {
    const section = add(host, "section");
    section.className = `card ${half}`;
    add(section, "h2", title);
    const chart = add(section, "div");
    chart.className = "chart";
    return chart;
  };
  if (sweep && Object.keys(CURVES).some((key) => sweep[key]?.some((value) => value !== null))) {
    const chart = card("Score over the threshold");
    chart.id = "threshold-chart";
    const series = Object.entries(CURVES).filter(([key]) => sweep[key]?.some((value) => value !== null)).map(([key, [name, color, dash]]) =>
      ({ name, color, dash, points: sweep.threshold.map((x, i) => [x, sweep[key][i]]) }));
    draw.push(() => lineChart(chart, { series, xLabel: "probability threshold", xDomain: [0, 1], yLabel: "score", band: sweep.plateau }));
  }
  if (history) {
    const points = (key) => history.epoch.map((x, i) => [x, history[key][i]]).filter((p) => p[1] !== null);
    const curves = [["loss", "Training loss", "loss", "--label"], ["held_out_dice", "Held-out Dice", "Dice", "--prediction"]];
    for (const [key, title, yLabel, color] of curves) {
      if (!points(key).length) continue;
      const chart = card(title, "half");
      chart.id = `${key.replaceAll("_", "-")}-chart`;
      const yDomain = key === "loss" ? undefined : [0, 1];
      draw.push(() => lineChart(chart, { series: [{ name: title, color, points: points(key) }], xLabel: "epoch", yLabel, yDomain }));
    }
  }
  host.hidden = !draw.length;
  document.querySelector("main").classList.toggle("no-curves", !draw.length);
  whenResized([...host.querySelectorAll(".chart")], () => draw.forEach((one) => one()));
}

// Draws lines into `host`. Points are [x, y], y null where the line breaks; all series have the same x. With `gaps`
// a line also breaks between points that are more than 1 apart in x: nothing is known of what lies between them.
function lineChart(host, { series, xLabel, yLabel, xDomain, yDomain, fromZero, band, onPick, gaps, seen }) {
  host.replaceChildren();
  host.classList.toggle("picks", Boolean(onPick));
  const anySeen = seen?.some(Boolean);
  const legend = series.length > 1 || anySeen ? drawLegend(host, series, band, anySeen) : null;
  const legendHeight = legend ? legend.offsetHeight + 4 : 0;
  const width = host.clientWidth, height = Math.max(host.clientHeight, 160);
  const svg = draw(host, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} over ${xLabel}` });
  const all = series.flatMap((one) => one.points.filter((p) => p[1] !== null));
  xDomain ??= extent(all.map((p) => p[0]));
  if (fromZero) yDomain = [0, Math.max(extent(all.map((p) => p[1]))[1], 1)];
  const yTicks = ticks(...(yDomain ?? looseExtent(all.map((p) => p[1]))), 5);
  const left = Math.max(70, 32 + 6.5 * Math.max(...yTicks.map((tick) => short(tick).length)));
  const box = { left, right: width - 10, top: 10 + legendHeight, bottom: height - 42 };
  const margin = onPick ? 8 : 0; // the first and the last slice's points lie clear of the axis
  const x = scale(xDomain, [box.left + margin, box.right - margin]);
  const y = scale([yTicks[0], yTicks[yTicks.length - 1]], [box.bottom, box.top]);
  if (band) {
    draw(svg, "rect", { x: x(band[0]), y: box.top, width: Math.max(x(band[1]) - x(band[0]), 1), height: box.bottom - box.top, fill: color("--prediction"), opacity: 0.1 });
  }
  for (const tick of yTicks) {
    draw(svg, "line", { x1: box.left, x2: box.right, y1: y(tick), y2: y(tick), stroke: color("--grid") });
    draw(svg, "text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, short(tick));
  }
  const whole = all.every((p) => Number.isInteger(p[0]));
  for (const tick of ticks(...xDomain, Math.max(Math.floor(width / 75), 2), whole).filter((t) => t >= xDomain[0] && t <= xDomain[1])) {
    draw(svg, "line", { x1: x(tick), x2: x(tick), y1: box.bottom, y2: box.bottom + 4, stroke: color("--quiet") });
    draw(svg, "text", { x: x(tick), y: box.bottom + 16, "text-anchor": "middle" }, whole ? String(tick) : short(tick));
  }
  draw(svg, "line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: color("--quiet") });
  draw(svg, "text", { class: "axis-title", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel);
  const middle = (box.top + box.bottom) / 2;
  draw(svg, "text", { class: "axis-title", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, yLabel);
  seen?.forEach((kind, i) => {
    if (kind) draw(svg, "rect", { class: "seen-mark", x: x(series[0].points[i][0]) - 1.5, y: box.bottom - 7, width: 3, height: 7, fill: color("--ink") });
  });
  const marker = draw(svg, "line", { class: "marker", y1: box.top, y2: box.bottom, stroke: color("--ink"), "stroke-width": 1.5, visibility: "hidden" });
  for (const one of series) drawSeries(svg, one, x, y, gaps); // over the marker
  listen(host, svg, series, box, x, xLabel, onPick);
  return {
    mark(at) {
      marker.setAttribute("visibility", "visible");
      marker.setAttribute("x1", x(at));
      marker.setAttribute("x2", x(at));
    },
  };
}

function drawSeries(svg, one, x, y, gaps) {
  let path = "", before = null;
  const alone = new Set(one.points.filter((p) => p[1] !== null));
  for (const point of one.points) {
    const [at, value] = point;
    if (value === null) { before = null; continue; }
    const joined = before && !(gaps && at - before[0] > 1);
    path += `${joined ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    if (joined) { alone.delete(point); alone.delete(before); }
    before = point;
  }
  draw(svg, "path", { d: path, fill: "none", stroke: color(one.color), "stroke-width": 1.8, "stroke-linejoin": "round", "stroke-dasharray": one.dash ?? "none" });
  const present = one.points.filter((p) => p[1] !== null);
  for (const [at, value] of present.length > 60 ? alone : present) draw(svg, "circle", { cx: x(at), cy: y(value), r: 2.6, fill: color(one.color) });
}

function drawLegend(host, series, band, anySeen) {
  const legend = add(host, "div");
  legend.className = "legend";
  const entries = series.length > 1 ? series.map((one) => [one.name, { stroke: color(one.color), "stroke-width": 3, "stroke-dasharray": one.dash ?? "none" }]) : [];
  if (band) entries.push([`plateau ${short(band[0])} to ${short(band[1])}`, { stroke: color("--prediction"), "stroke-width": 10, opacity: 0.2 }]);
  if (anySeen) entries.push(["seen in training", { stroke: color("--ink"), "stroke-width": 9, x1: 12, x2: 15 }]);
  for (const [name, how] of entries) {
    const entry = add(legend, "span");
    const key = draw(entry, "svg", { width: 27, height: 10 });
    draw(key, "line", { x1: 0, x2: 27, y1: 5, y2: 5, ...how });
    entry.append(name);
  }
  return legend;
}

function listen(host, svg, series, box, x, xLabel, onPick) {
  const xs = series[0].points.map((p) => p[0]);
  const nearest = (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    let best = 0;
    xs.forEach((value, i) => { if (Math.abs(x(value) - at) < Math.abs(x(xs[best]) - at)) best = i; });
    return best;
  };
  const tip = add(host, "div");
  tip.className = "tip";
  tip.hidden = true;
  svg.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    const values = series.map((one) => [one.name, one.points.find((p) => p[0] === xs[i])?.[1]]);
    tip.textContent = [`${xLabel.split(",")[0]} ${short(xs[i], 6)}`,
      ...values.map(([name, value]) => `${name} ${value == null ? "–" : short(value, 4)}`)].join(" · ");
    tip.hidden = false;
    tip.style.top = `${box.top + 4}px`;
    tip.style.left = `${Math.min(Math.max(x(xs[i]) - tip.offsetWidth / 2, 0), host.clientWidth - tip.offsetWidth)}px`;
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  if (onPick) svg.addEventListener("click", (event) => onPick(nearest(event)));
}
