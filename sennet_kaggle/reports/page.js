// The page's parts: header, tables, controls, keys. What it shows stands in the page itself: facts as JSON, pictures
// and meshes as base64 text in script elements that no browser runs, decoded when they are asked for. Written by
// sennet_kaggle/reports/page.py, which joins page.js, slices.js, overlay.js, charts.js, tree.js and tools.js into one.
const FACTS = JSON.parse(byId("facts").textContent);
const RUNS = FACTS.runs;
const TWO = RUNS.length > 1;
const SEEN = { learned: "learned from", chosen: "epoch and threshold chosen on it" };
const WORST = 10;
let kidneyIndex = 0, z = 0, charts = [];

function start() {
  writeHeader();
  writeAbout();
  writeKidneys();
  buildControls();
  buildCurves();
  const [k, at] = placeOf(location.hash) ?? [0, null];
  byId("kidney").selectedIndex = k;
  selectKidney(k, at).then(() => {
    performance.mark("first-picture");
    if (kidney().noTree) drawTree();
    else whenSeen(byId("tree"), drawTree);
  });
}

function writeHeader() {
  const rows = FACTS.kidneys.flatMap((one) => one.slices);
  const labelled = rows.filter((row) => row.dice !== null).length;
  const names = FACTS.kidneys.map((one) => one.name).join(", ");
  const share = labelled && labelled < rows.length ? `, ${count(labelled)} of them labelled` : "";
  byId("summary").textContent =
    `${names} · ${count(rows.length)} ${plural(rows.length, "slice")}${labelled ? share : ", no labels"}`;
  RUNS.forEach((run, r) => {
    if (!run.scores) return;
    const { surface_dice, surface_dice_2d_1px, dice_pooled, dice_mean } = run.scores;
    const tiles = [
      ["Surface Dice", surface_dice, "the competition's metric", "in 3D, tolerance 0, mean over kidneys"],
      ["2D Surface Dice", surface_dice_2d_1px, "contours to 1 px", "mean over labelled slices of contours that are up to 1 px apart"],
      ["Pooled Dice", dice_pooled, "all pixels at once", "over the pixels of all labelled slices"],
      ["Mean Dice", dice_mean, "slice by slice", "mean over labelled slices"],
    ];
    const list = add(byId("scores"), "dl");
    if (TWO) add(list, "p", run.name).className = "run";
    for (const [name, value, note, title] of tiles) {
      const tile = add(list, "div");
      tile.title = title;
      add(tile, "dt", name);
      add(tile, "dd", value === null ? "–" : value.toFixed(4));
      add(tile, "dd", note).className = "note";
    }
    list.dataset.run = r;
  });
  byId("remarks").textContent = FACTS.remarks.join(" ");
}

function writeAbout() {
  for (const run of RUNS) {
    if (!run.about.length) continue;
    const list = add(byId("about"), "dl");
    if (TWO) add(list, "p", run.name).className = "run";
    for (const [name, value] of run.about) {
      add(list, "dt", name);
      add(list, "dd", value);
    }
  }
}

function writeKidneys() {
  const heads = ["Kidney", "Slices", "Labelled", "Surface Dice", "Pooled Dice", "Mean Dice"];
  const head = add(byId("kidneys"), "tr");
  heads.forEach((text) => add(head, "th", text));
  FACTS.kidneys.forEach(({ name, slices, labelled, surface, pooled, mean }, i) => {
    const row = add(byId("kidneys"), "tr");
    const scores = [surface, pooled, mean].map((value) => (value === null ? "–" : value.toFixed(4)));
    [name, count(slices.length), count(labelled), ...scores].forEach((text) => add(row, "td", text));
    row.addEventListener("click", () => {
      byId("kidney").selectedIndex = i;
      byId("kidney").dispatchEvent(new Event("change"));
    });
  });
}

// The slices with the lowest Dice among those with a vessel in their label; of the others how many have false alarms.
function writeWorst() {
  const labelled = kidney().slices.filter((row) => row.dice !== null);
  const rows = labelled.filter((row) => row.gt).sort((a, b) => a.dice - b.dice || wrong(b) - wrong(a));
  const empty = labelled.filter((row) => !row.gt && row.pred).sort((a, b) => b.pred - a.pred);
  byId("worst-card").hidden = !rows.length && !empty.length;
  byId("worst").replaceChildren();
  byId("worst").hidden = !rows.length;
  byId("worst-note").replaceChildren();
  if (empty.length) {
    const [have, slices] = [empty.length === 1 ? "has" : "have", plural(empty.length, "slice")];
    byId("worst-note").append(`${count(empty.length)} ${slices} without a vessel in the label ${have} false alarms; the most: `);
    link(byId("worst-note"), empty[0].id);
    byId("worst-note").append(`, ${count(empty[0].pred)} px.`);
  }
  const [first, second] = TWO ? RUNS.map((run) => `Dice, ${run.name}`) : ["Dice"];
  const heads = ["Slice", first, "Missed px", "False px", ...(TWO ? [second, "Difference"] : []), "Label px"];
  const head = add(byId("worst"), "tr");
  heads.forEach((text) => add(head, "th", text));
  for (const row of rows.slice(0, WORST)) {
    const line = add(byId("worst"), "tr");
    const cell = add(line, "td");
    link(cell, row.id);
    if (row.seen) Object.assign(add(cell, "span", SEEN[row.seen]), { className: "badge seen" });
    const others = TWO ? [row.other.dice.toFixed(4), signed(row.other.dice - row.dice)] : [];
    const cells = [row.dice.toFixed(4), count(row.gt - row.both), count(row.pred - row.both), ...others, count(row.gt)];
    cells.forEach((text) => add(line, "td", text));
  }
}

function wrong(row) { return row.gt + row.pred - 2 * row.both; }

function link(host, id) { add(host, "a", id).href = `#${encodeURIComponent(id)}`; }

function buildControls() {
  const select = byId("kidney");
  for (const { name } of FACTS.kidneys) add(select, "option", name);
  select.hidden = byId("kidneys").hidden = FACTS.kidneys.length < 2;
  select.addEventListener("change", () => selectKidney(select.selectedIndex).then(drawTree));
  byId("slider").addEventListener("input", (event) => showSlice(Number(event.target.value)));
  byId("previous").addEventListener("click", () => showSlice(z - 1));
  byId("next").addEventListener("click", () => showSlice(z + 1));
  document.querySelector("main").classList.toggle("two", TWO);
  buildBrowser();
  document.addEventListener("keydown", pressKey);
  window.addEventListener("hashchange", () => goTo(location.hash));
  whenResized([byId("dice-chart"), byId("pixel-chart")], drawSliceCharts);
}

function pressKey(event) {
  if (event.target.matches("select, input[type=range]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const last = kidney().slices.length - 1;
  const target = { ArrowLeft: z - 1, ArrowRight: z + 1, Home: 0, End: last }[event.key];
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const acts = {
    o: () => byId("toggle-overlay").click(), f: () => byId("toggle-filled").click(), c: fitOrgan, 0: fitWhole,
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), w: resetGreys,
    "[": () => changeLevel(-1), "]": () => changeLevel(1),
  };
  const act = event.shiftKey && event.key in moves ? () => moveBy(...moves[event.key])
    : target !== undefined ? () => showSlice(target) : acts[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
}

function selectKidney(index, at = null) {
  kidneyIndex = index;
  forgetPictures();
  const last = kidney().slices.length - 1;
  byId("slider").max = last;
  [...byId("kidneys").rows].forEach((row, i) => row.classList.toggle("chosen", i === index + 1));
  z = at ?? Math.floor(last / 2); // the middle shows most
  buildGreys();
  fitWhenDrawn();
  drawSliceCharts();
  writeWorst();
  return showSlice(z, at !== null);
}

// The kidney and slice that a link names.
function placeOf(hash) {
  const id = hash.length > 1 ? decodeURIComponent(hash.slice(1)) : null;
  for (const [k, one] of FACTS.kidneys.entries()) {
    const at = one.slices.findIndex((row) => row.id === id);
    if (at >= 0) return [k, at];
  }
  return null;
}

function goTo(hash) {
  const place = placeOf(hash);
  if (!place) return;
  const [k, at] = place;
  if (k !== kidneyIndex) {
    byId("kidney").selectedIndex = k;
    selectKidney(k, at).then(drawTree);
  } else {
    showSlice(at);
  }
  document.querySelector(".browser").scrollIntoView({ block: "nearest" });
}

document.addEventListener("DOMContentLoaded", start);
