"use strict";
// The report page. What it shows stands in the page itself: facts as JSON, pictures and meshes as base64 text in
// script elements that no browser runs, decoded when they are asked for. Written by sennet_kaggle/reports/page.py.
(() => {
  const FACTS = JSON.parse(byId("facts").textContent);
  const KIND_STEP = 60;
  const KINDS = [ // in the order of page.py: 1 hit, 2 miss, 3 false alarm, 4 prediction
    { name: "Hits", color: "--hit", count: (s) => s.both },
    { name: "Misses", color: "--miss", count: (s) => s.gt - s.both },
    { name: "False alarms", color: "--false-alarm", count: (s) => s.pred - s.both },
    { name: "Prediction", color: "--prediction", count: (s) => s.pred },
  ].map((kind) => ({ ...kind, shown: true }));
  const CURVES = {
    dice_pooled: ["Dice, pooled", "--prediction"],
    dice_mean: ["Dice, mean", "--label"],
    dice_without_largest: ["Dice, without the largest", "--fourth"],
    surface_dice: ["Surface Dice", "--third"],
    surface_dice_2d_1px: ["Surface Dice in 2D at 1 px", "--fifth"],
  };
  const MESHES = { prediction: ["Prediction", "--prediction"], label: ["Label", "--label"] };
  const CACHED = 16; // decoded slices kept
  let kidneyIndex = 0, z = 0, overlayShown = true, charts = [], viewer = null;
  const cache = new Map();

  // ---- the page's parts

  function start() {
    writeHeader();
    writeTable();
    buildControls();
    buildCurves();
    selectKidney(0).then(() => {
      performance.mark("first-picture");
      if (kidney().noTree) drawTree();
      else whenSeen(byId("tree"), drawTree);
    });
  }

  function writeHeader() {
    const kidneys = FACTS.kidneys;
    const rows = kidneys.flatMap((kidney) => kidney.slices);
    const labelled = rows.filter((row) => row.dice !== null);
    const names = kidneys.map((kidney) => kidney.name).join(", ");
    const share = labelled.length && labelled.length < rows.length ? `, ${count(labelled.length)} of them labelled` : "";
    byId("summary").textContent =
      `${names} · ${count(rows.length)} ${plural(rows.length, "slice")}${labelled.length ? share : ", no labels"}`;
    const total = (key) => labelled.reduce((sum, row) => sum + row[key], 0);
    const scores = labelled.length
      ? [["Pooled Dice", dice(total("gt"), total("pred"), total("both"))],
         ["Mean Dice", labelled.reduce((sum, row) => sum + row.dice, 0) / labelled.length]]
      : [];
    for (const [name, value] of scores) {
      const tile = add(byId("scores"), "div");
      add(tile, "dt", name);
      add(tile, "dd", value.toFixed(4));
    }
  }

  function writeTable() {
    const heads = ["Kidney", "Slices", "Labelled", "Pooled Dice", "Mean Dice"];
    const head = add(byId("kidneys"), "tr");
    heads.forEach((text) => add(head, "th", text));
    FACTS.kidneys.forEach(({ name, slices, labelled, pooled, mean }, i) => {
      const row = add(byId("kidneys"), "tr");
      const scores = [pooled, mean].map((value) => (value === null ? "–" : value.toFixed(4)));
      [name, count(slices.length), count(labelled), ...scores].forEach((text) => add(row, "td", text));
      row.addEventListener("click", () => {
        byId("kidney").selectedIndex = i;
        byId("kidney").dispatchEvent(new Event("change"));
      });
    });
  }

  function buildControls() {
    const select = byId("kidney");
    for (const { name } of FACTS.kidneys) add(select, "option", name);
    select.hidden = byId("kidneys").hidden = FACTS.kidneys.length < 2;
    select.addEventListener("change", () => selectKidney(select.selectedIndex).then(drawTree));
    byId("slider").addEventListener("input", (event) => showSlice(Number(event.target.value)));
    byId("previous").addEventListener("click", () => showSlice(z - 1));
    byId("next").addEventListener("click", () => showSlice(z + 1));
    buildKinds();
    document.addEventListener("keydown", pressKey);
    whenResized([byId("dice-chart"), byId("pixel-chart")], drawSliceCharts);
  }

  function pressKey(event) {
    if (event.target.matches("select, input[type=range]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = kidney().slices.length - 1;
    const target = { ArrowLeft: z - 1, ArrowRight: z + 1, Home: 0, End: last }[event.key];
    if (target !== undefined) {
      event.preventDefault();
      showSlice(target);
    } else if (event.key.toLowerCase() === "o") {
      byId("toggle-overlay").click();
    }
  }

  function selectKidney(index) {
    kidneyIndex = index;
    cache.clear();
    const last = kidney().slices.length - 1;
    byId("slider").max = last;
    [...byId("kidneys").rows].forEach((row, i) => row.classList.toggle("chosen", i === index + 1));
    z = Math.floor(last / 2); // the middle shows most
    drawSliceCharts();
    return showSlice(z);
  }

  // ---- the slice browser

  async function showSlice(wanted) {
    const k = kidneyIndex;
    z = Math.min(Math.max(wanted, 0), kidney().slices.length - 1);
    const now = z;
    writeSlice(kidney().slices[z]);
    charts.forEach((chart) => chart.mark(kidney().numbers[now]));
    const pictures = await decode(k, now);
    if (k !== kidneyIndex || now !== z) return; // the slider went on meanwhile
    const picture = byId("picture");
    [picture.width, picture.height] = [pictures.image.width, pictures.image.height];
    picture.getContext("2d").drawImage(pictures.image, 0, 0);
    picture.kinds = pictures.kinds;
    paintOverlay();
    byId("stage").dataset.drawn = kidney().slices[now].id;
    [now + 1, now - 1].filter((near) => kidney().slices[near]).forEach((near) => decode(k, near));
  }

  function writeSlice(row) {
    byId("slice-id").textContent = row.id;
    byId("stage").style.aspectRatio = `${row.size[1]} / ${row.size[0]}`;
    byId("slice-dice").textContent = row.dice === null ? "no label" : `Dice ${row.dice.toFixed(4)}`;
    byId("slider").value = z;
    byId("position").textContent = `${count(z + 1)} of ${count(kidney().slices.length)}`;
    byId("previous").disabled = z === 0;
    byId("next").disabled = z === kidney().slices.length - 1;
    const pixels = row.gt === null ? "" : `label ${count(row.gt)} px, prediction ${count(row.pred)} px · `;
    byId("picture-note").textContent = `${pixels}slice of ${row.size[1]} × ${row.size[0]} px`;
    writeKinds(row);
  }

  function buildKinds() {
    const host = byId("kinds");
    toggle(host, "toggle-overlay", "Overlay", null, (on) => { overlayShown = on; paintOverlay(); });
    KINDS.forEach((kind, i) => {
      kind.label = toggle(host, `toggle-${i + 1}`, "", kind.color, (on) => { kind.shown = on; paintOverlay(); });
    });
  }

  function writeKinds(row) {
    KINDS.forEach((kind, i) => {
      kind.label.hidden = (row.gt === null) !== (i === 3);
      if (!kind.label.hidden) kind.label.lastChild.textContent = `${kind.name} ${count(kind.count(row))} px`;
    });
  }

  function toggle(host, id, text, swatch, set) {
    const label = add(host, "label");
    const box = add(label, "input");
    Object.assign(box, { type: "checkbox", id, checked: true });
    box.addEventListener("change", () => set(box.checked));
    if (swatch) Object.assign(add(label, "i"), { className: "swatch" }).style.background = color(swatch);
    add(label, "span", text);
    return label;
  }

  function paintOverlay() {
    const kinds = byId("picture").kinds;
    const canvas = byId("overlay");
    if (!kinds) return;
    [canvas.width, canvas.height] = [kinds.width, kinds.height];
    if (!overlayShown) return;
    const colors = [[0, 0, 0, 0], ...KINDS.map((kind) => (kind.shown ? rgba(kind.color) : [0, 0, 0, 0]))];
    const words = new Uint32Array(new Uint8Array(colors.flat()).buffer);
    const painted = canvas.getContext("2d").createImageData(kinds.width, kinds.height);
    const pixels = new Uint32Array(painted.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = words[kinds.kind[i]];
    canvas.getContext("2d").putImageData(painted, 0, 0);
  }

  function decode(k, at) {
    const key = `${k}-${at}`;
    if (!cache.has(key)) cache.set(key, decodeNow(key));
    if (cache.size > CACHED) cache.delete(cache.keys().next().value);
    return cache.get(key);
  }

  async function decodeNow(key) {
    const [image, overlay] = await Promise.all(["image", "overlay"].map((name) =>
      createImageBitmap(new Blob([bytesOf(`${name}-${key}`)], { type: "image/webp" }))));
    const canvas = Object.assign(document.createElement("canvas"), { width: overlay.width, height: overlay.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(overlay, 0, 0);
    const grey = context.getImageData(0, 0, overlay.width, overlay.height).data;
    const kind = new Uint8Array(grey.length / 4);
    for (let i = 0; i < kind.length; i++) kind[i] = Math.round(grey[4 * i] / KIND_STEP);
    return { image, kinds: { width: overlay.width, height: overlay.height, kind } };
  }

  // ---- charts

  function drawSliceCharts() {
    const { slices, numbers, numbered, labelled } = kidney();
    const line = (key) => slices.map((row, i) => [numbers[i], row[key]]);
    const xLabel = numbered ? "slice number" : "slice, counted from 1";
    const onPick = (i) => showSlice(i);
    charts = [];
    byId("dice-card").hidden = !labelled;
    if (labelled) {
      const series = [{ name: "Dice", color: "--prediction", points: line("dice") }];
      charts.push(lineChart(byId("dice-chart"), { series, xLabel, yLabel: "Dice", yDomain: [0, 1], onPick }));
    }
    const series = [{ name: "Prediction", color: "--prediction", points: line("pred") }];
    if (labelled) series.unshift({ name: "Label", color: "--label", points: line("gt") });
    charts.push(lineChart(byId("pixel-chart"), { series, xLabel, yLabel: "vessel pixels", onPick }));
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
      const series = Object.entries(CURVES).filter(([key]) => sweep[key]?.some((value) => value !== null)).map(([key, [name, color]]) =>
        ({ name, color, points: sweep.threshold.map((x, i) => [x, sweep[key][i]]) }));
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

  // Draws lines into `host`. Points are [x, y], y null where the line breaks; all series have the same x.
  function lineChart(host, { series, xLabel, yLabel, xDomain, yDomain, band, onPick }) {
    host.replaceChildren();
    host.classList.toggle("picks", Boolean(onPick));
    const legend = series.length > 1 ? drawLegend(host, series, band) : null;
    const legendHeight = legend ? legend.offsetHeight + 4 : 0;
    const width = host.clientWidth, height = Math.max(host.clientHeight, 160);
    const svg = draw(host, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} over ${xLabel}` });
    const all = series.flatMap((one) => one.points.filter((p) => p[1] !== null));
    xDomain ??= extent(all.map((p) => p[0]));
    const yTicks = ticks(...(yDomain ?? looseExtent(all.map((p) => p[1]))), 5);
    const left = Math.max(70, 32 + 6.5 * Math.max(...yTicks.map((tick) => short(tick).length)));
    const box = { left, right: width - 10, top: 10 + legendHeight, bottom: height - 42 };
    const x = scale(xDomain, [box.left, box.right]);
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
    for (const one of series) drawSeries(svg, one, x, y);
    const marker = draw(svg, "line", { class: "marker", y1: box.top, y2: box.bottom, stroke: color("--ink"), "stroke-width": 1.5, visibility: "hidden" });
    listen(host, svg, series, box, x, xLabel, onPick);
    return {
      mark(at) {
        marker.setAttribute("visibility", "visible");
        marker.setAttribute("x1", x(at));
        marker.setAttribute("x2", x(at));
      },
    };
  }

  function drawSeries(svg, one, x, y) {
    let path = "", pen = "M";
    for (const [at, value] of one.points) {
      if (value === null) { pen = "M"; continue; }
      path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    }
    draw(svg, "path", { d: path, fill: "none", stroke: color(one.color), "stroke-width": 1.8, "stroke-linejoin": "round" });
    const present = one.points.filter((p) => p[1] !== null);
    if (present.length > 60) return;
    for (const [at, value] of present) draw(svg, "circle", { cx: x(at), cy: y(value), r: 2.6, fill: color(one.color) });
  }

  function drawLegend(host, series, band) {
    const legend = add(host, "div");
    legend.className = "legend";
    const entries = series.map((one) => [one.name, color(one.color), 1]);
    if (band) entries.push([`plateau ${short(band[0])} to ${short(band[1])}`, color("--prediction"), 0.25]);
    for (const [name, background, opacity] of entries) {
      const entry = add(legend, "span");
      Object.assign(add(entry, "i").style, { background, opacity });
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
    svg.addEventListener("mousemove", (event) => {
      const i = nearest(event);
      const values = series.map((one) => [one.name, one.points.find((p) => p[0] === xs[i])?.[1]]);
      tip.textContent = [`${xLabel.split(",")[0]} ${short(xs[i], 6)}`,
        ...values.map(([name, value]) => `${name} ${value == null ? "–" : short(value, 4)}`)].join(" · ");
      tip.hidden = false;
      tip.style.top = `${box.top + 4}px`;
      tip.style.left = `${Math.min(Math.max(x(xs[i]) - tip.offsetWidth / 2, 0), host.clientWidth - tip.offsetWidth)}px`;
    });
    svg.addEventListener("mouseleave", () => { tip.hidden = true; });
    if (onPick) svg.addEventListener("click", (event) => onPick(nearest(event)));
  }

  // ---- the vessel tree

  async function drawTree() {
    const host = byId("tree");
    const { meshes, noTree } = kidney();
    const k = kidneyIndex;
    byId("meshes").replaceChildren();
    byId("tree-note").textContent = "";
    if (noTree) return say(noTree);
    say("Drawing the tree …");
    const traces = await Promise.all(meshes.map((mesh) => meshTrace(k, mesh)));
    await (viewer ??= loadViewer());
    if (k !== kidneyIndex) return;
    say(null);
    try {
      await Plotly.newPlot(host, traces, treeLayout(meshes), { displayModeBar: false, responsive: true });
    } catch (error) {
      return say(`The 3D view needs WebGL, which this browser does not offer (${error.message}).`);
    }
    meshes.forEach((mesh, i) => {
      const [name, swatch] = MESHES[mesh.name];
      const text = `${name}, ${count(mesh.triangles)} triangles`;
      toggle(byId("meshes"), `toggle-${mesh.name}`, text, swatch, (on) => Plotly.restyle(host, { visible: on }, [i]));
    });
    byId("tree-note").textContent = "Drag to turn, wheel to zoom. A coarse view: thin vessels look thicker than they are.";
    host.dataset.drawn = kidney().name;
  }

  function say(text) {
    const host = byId("tree");
    if (window.Plotly && host.data) Plotly.purge(host);
    delete host.dataset.drawn;
    host.classList.toggle("message", text !== null);
    host.textContent = text ?? "";
  }

  async function meshTrace(k, mesh) {
    const fractions = new Uint16Array(await unpack(`vertices-${k}-${mesh.name}`));
    const steps = new Int32Array(await unpack(`faces-${k}-${mesh.name}`));
    const first = kidney().numbers[0];
    const axis = (i) => Float32Array.from(third(fractions, i), (f) =>
      mesh.low[i] + (f / 65535) * (mesh.high[i] - mesh.low[i]) + (i === 0 ? first : 0));
    const corner = (i) => { let sum = 0; return Int32Array.from(third(steps, i), (step) => (sum += step)); };
    return {
      type: "mesh3d", z: axis(0), y: axis(1), x: axis(2), i: corner(0), j: corner(2), k: corner(1),
      color: color(MESHES[mesh.name][1]), opacity: mesh.name === "label" ? 0.35 : 1, hoverinfo: "skip",
      lighting: { ambient: 0.68, diffuse: 0.6, specular: 0.1, roughness: 0.7, fresnel: 0.05 },
      lightposition: { x: -5e4, y: -1e5, z: 0 }, // from above and behind the viewer
    };
  }

  function treeLayout(meshes) {
    const first = kidney().numbers[0];
    const range = (i) => [Math.min(...meshes.map((m) => m.low[i])), Math.max(...meshes.map((m) => m.high[i]))];
    const axis = (title, [low, high]) => ({
      title: { text: title, font: { size: 12 } }, range: [low, high], tickfont: { size: 10 }, nticks: 6,
      gridcolor: color("--line"), zeroline: false, showspikes: false, backgroundcolor: color("--card"),
    });
    const [zs, ys, xs] = [range(0).map((v) => v + first), range(1), range(2)];
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: color("--card"), showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, color: color("--quiet") },
      scene: {
        aspectmode: "data", dragmode: "orbit", xaxis: axis("x (px)", xs), yaxis: axis("y (px)", ys.reverse()),
        zaxis: axis(kidney().numbered ? "slice number" : "slice", zs), camera: { eye: { x: 1.2, y: -1.5, z: 0.9 }, center: { x: 0, y: 0, z: -0.08 } },
      },
    };
  }

  // plotly.js is large: it is unpacked when its part of the page comes into view.
  async function loadViewer() {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack("viewer"));
    document.head.append(script);
  }

  // ---- small tools

  function kidney() { return FACTS.kidneys[kidneyIndex]; }
  function byId(id) { return document.getElementById(id); }
  function count(n) { return n.toLocaleString("en"); }
  function plural(n, word) { return n === 1 ? word : `${word}s`; }
  function dice(gt, pred, both) { return gt + pred ? (2 * both) / (gt + pred) : 1; }
  function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function third(array, i) { return array.subarray((i * array.length) / 3, ((i + 1) * array.length) / 3); }
  function scale([a, b], [c, d]) { return (v) => (a === b ? (c + d) / 2 : c + ((v - a) / (b - a)) * (d - c)); }
  function rgba(name) { return [1, 3, 5].map((at) => parseInt(color(name).slice(at, at + 2), 16)).concat(255); }

  function extent(values) {
    return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  }

  function looseExtent(values) {
    const [low, high] = extent(values);
    return low > 0 && low < 0.5 * high ? [0, high] : low === high ? [Math.min(low, 0), high || 1] : [low, high];
  }

  // Round numbers around low..high, about `wanted` of them.
  function ticks(low, high, wanted, whole = false) {
    if (low === high) return whole ? [low] : [low, low + 1];
    const raw = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].find((m) => m * power >= raw * 0.999) * power;
    if (whole) step = Math.max(step, 1);
    const found = [];
    for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  function short(value, digits = 3) {
    if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
    return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(digits)));
  }

  function add(host, tag, text = "") {
    const element = document.createElement(tag);
    element.textContent = text;
    host.append(element);
    return element;
  }

  function draw(host, tag, attributes, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text) element.textContent = text;
    host.append(element);
    return element;
  }

  function bytesOf(id) {
    const text = atob(byId(id).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  function unpack(id) {
    return new Response(new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  function whenSeen(element, callback) {
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      callback();
    }, { rootMargin: "200px" });
    observer.observe(element);
  }

  // Also calls back at once, when the layout is first known.
  function whenResized(elements, callback) {
    let size = "";
    const observer = new ResizeObserver(() => {
      const now = elements.map((element) => `${element.clientWidth}x${element.clientHeight}`).join();
      if (now !== size) callback();
      size = now;
    });
    elements.forEach((element) => observer.observe(element));
  }

  document.addEventListener("DOMContentLoaded", start);
})();
