// The slice browser: a picture of one slice for each run, zoomed and moved together, with the errors outlined or filled.
const KIND_STEP = 60;
const KINDS = [ // in the order of pictures.py: 1 found, 2 missed, 3 false alarm, 4 prediction
  { name: "Found", color: "--found", count: (s) => s.both },
  { name: "Missed", color: "--missed", count: (s) => s.gt - s.both },
  { name: "False alarms", color: "--false-alarm", count: (s) => s.pred - s.both },
  { name: "Prediction", color: "--prediction", count: (s) => s.pred },
].map((kind) => ({ ...kind, shown: true }));
const CACHED = 16; // decoded slices kept
const MOST_ZOOM = 40;
const MOST_EDGES = 400000; // beyond them outlines would take longer than a blink
const cache = new Map();
const STAGES = ["", "-2"].slice(0, RUNS.length).map((end, r) => ({
  stage: byId(`stage${end}`), layers: byId(`stage${end}`).firstElementChild, picture: byId(`picture${end}`),
  overlay: byId(`overlay${end}`), outline: byId(`outline${end}`), caption: byId(`caption${end}`), run: r,
}));
let overlayShown = true, filled = false;
let view = { zoom: 1, x: null, y: null }; // the slice's pixel in the middle, and how many times the whole fits
const pointers = new Map();
let moved = null, toFit = false, onOrgan = false;

function forgetPictures() { cache.clear(); }

function fitWhenDrawn() { toFit = true; }

async function showSlice(wanted, keepHash = false) {
  const k = kidneyIndex;
  z = Math.min(Math.max(wanted, 0), kidney().slices.length - 1);
  const now = z, row = kidney().slices[z];
  writeSlice(row);
  if (!keepHash && location.hash) history.replaceState(null, "", `#${encodeURIComponent(row.id)}`);
  charts.forEach((chart) => chart.mark(kidney().numbers[now]));
  const pictures = await decode(k, now);
  if (k !== kidneyIndex || now !== z) return; // the slider went on meanwhile
  for (const one of STAGES) {
    [one.picture.width, one.picture.height] = [pictures.image.width, pictures.image.height];
    one.picture.getContext("2d").drawImage(pictures.image, 0, 0);
    one.kinds = pictures.kinds[one.run];
  }
  if (toFit || (onOrgan && kidney().boxes.length > 1)) fitOrgan();
  else place();
  toFit = false;
  paintOverlay();
  STAGES.forEach((one) => { one.stage.dataset.drawn = row.id; });
  [now + 1, now - 1].filter((near) => kidney().slices[near]).forEach((near) => decode(k, near));
}

function writeSlice(row) {
  byId("slice-id").textContent = row.id;
  STAGES.forEach((one) => { one.stage.style.aspectRatio = `${row.size[1]} / ${row.size[0]}`; });
  byId("slice-seen").hidden = !row.seen;
  byId("slice-seen").textContent = row.seen ? SEEN[row.seen] : "";
  byId("slice-dice").hidden = TWO && row.dice !== null; // each picture's caption has its own
  byId("slice-dice").textContent = row.dice === null ? "no label" : `Dice ${row.dice.toFixed(4)}`;
  byId("slider").value = z;
  byId("position").textContent = `${count(z + 1)} of ${count(kidney().slices.length)}`;
  byId("previous").disabled = z === 0;
  byId("next").disabled = z === kidney().slices.length - 1;
  const predicted = TWO ? "" : `, prediction ${count(row.pred)} px`;
  const pixels = row.gt === null ? "" : `label ${count(row.gt)} px${predicted} · `;
  byId("picture-note").textContent = `${pixels}slice of ${row.size[1]} × ${row.size[0]} px`;
  if (TWO) STAGES.forEach(({ caption, run }) => { caption.textContent = describe(RUNS[run].name, run ? row.other : row, row.gt); });
  writeKinds(row);
}

function describe(name, masks, gt) {
  if (gt === null) return `${name}: ${count(masks.pred)} px`;
  const errors = `${count(gt - masks.both)} px missed, ${count(masks.pred - masks.both)} false`;
  return `${name}: Dice ${masks.dice.toFixed(4)}, ${errors}`;
}

function buildBrowser() {
  byId("second").hidden = !TWO;
  byId("caption").hidden = !TWO;
  const host = byId("kinds");
  toggle(host, "toggle-overlay", "Overlay", null, (on) => { overlayShown = on; paintOverlay(); });
  toggle(host, "toggle-filled", "Filled", null, (on) => { filled = on; paintOverlay(); }, false);
  KINDS.forEach((kind, i) => {
    kind.label = toggle(host, `toggle-${i + 1}`, "", kind.color, (on) => { kind.shown = on; paintOverlay(); });
  });
  byId("zoom-in").addEventListener("click", () => zoomBy(1.5));
  byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  byId("whole").addEventListener("click", fitWhole);
  byId("organ").addEventListener("click", fitOrgan);
  byId("level").addEventListener("input", paintGreys);
  byId("window").addEventListener("input", paintGreys);
  byId("reset-greys").addEventListener("click", resetGreys);
  for (const { stage } of STAGES) {
    stage.addEventListener("pointerdown", press);
    stage.addEventListener("pointermove", drag);
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, release);
    stage.addEventListener("dblclick", () => (view.zoom > 1 ? fitWhole() : fitOrgan()));
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== stage) return; // else the page could not be scrolled
      event.preventDefault();
      zoomBy(1.0015 ** -event.deltaY, at(event));
    }, { passive: false });
  }
  whenResized(STAGES.map((one) => one.stage), () => { place(); paintOutlines(); });
}

function writeKinds(row) {
  KINDS.forEach((kind, i) => {
    kind.label.hidden = (row.gt === null) !== (i === 3);
    if (!kind.label.hidden) kind.label.lastChild.textContent = TWO ? kind.name : `${kind.name} ${count(kind.count(row))} px`;
  });
}

function toggle(host, id, text, swatch, set, on = true) {
  const label = add(host, "label");
  const box = add(label, "input");
  Object.assign(box, { type: "checkbox", id, checked: on });
  box.addEventListener("change", () => set(box.checked));
  if (swatch) Object.assign(add(label, "i"), { className: "swatch" }).style.background = color(swatch);
  add(label, "span", text);
  return label;
}

// ---- where the slice lies in its stage

// Of the whole slice that fits into a stage: screen pixels per pixel of the slice.
function fit(stage) {
  const [height, width] = kidney().slices[z].size;
  return Math.min(stage.clientWidth / width, stage.clientHeight / height);
}

// Where the slice's first pixel lies in a stage, and how large a pixel is.
function placement(stage) {
  const [height, width] = kidney().slices[z].size;
  const size = fit(stage) * view.zoom;
  const middle = (at, length, room) => {
    const half = room / size / 2;
    return half * 2 >= length ? length / 2 : Math.min(Math.max(at ?? length / 2, half), length - half);
  };
  const x = middle(view.x, width, stage.clientWidth), y = middle(view.y, height, stage.clientHeight);
  return { size, x, y, left: stage.clientWidth / 2 - x * size, top: stage.clientHeight / 2 - y * size };
}

function place() {
  const [height, width] = kidney().slices[z].size;
  for (const { stage, layers, picture } of STAGES) {
    const { size, left, top } = placement(stage);
    Object.assign(layers.style, {
      width: `${width}px`, height: `${height}px`, transform: `translate(${left}px, ${top}px) scale(${size})`,
    });
    layers.classList.toggle("pixels", size * width > 2.5 * picture.width);
    stage.classList.toggle("zoomed", view.zoom > 1.001);
  }
  byId("zoom").textContent = `${view.zoom.toFixed(view.zoom < 10 ? 1 : 0)}×`;
  byId("zoom-out").disabled = view.zoom <= 1.001;
  byId("zoom-in").disabled = view.zoom >= MOST_ZOOM;
}

function look(changed, toOrgan = false) {
  onOrgan = toOrgan;
  view = { ...view, ...changed };
  const { x, y } = placement(STAGES[0].stage);
  view = { ...view, x, y };
  place();
  paintOutlines();
}

// Keeps the point under `at`, {x, y} in the stage, where it is.
function zoomBy(factor, at = null) {
  const { stage } = STAGES[0];
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MOST_ZOOM);
  const now = placement(stage);
  const [dx, dy] = at ? [at.x - stage.clientWidth / 2, at.y - stage.clientHeight / 2] : [0, 0];
  const size = fit(stage) * zoom;
  look({ zoom, x: now.x + dx / now.size - dx / size, y: now.y + dy / now.size - dy / size });
}

function moveBy(right, down) {
  const { stage } = STAGES[0];
  const { size, x, y } = placement(stage);
  look({ x: x + (right * stage.clientWidth) / size / 6, y: y + (down * stage.clientHeight) / size / 6 });
}

function fitWhole() { look({ zoom: 1, x: null, y: null }); }

function fitOrgan() {
  const { stage } = STAGES[0];
  const [height, width] = kidney().slices[z].size;
  const { boxes } = kidney(); // one for all slices, or one for each
  const [top, bottom, left, right] = boxes[boxes.length > 1 ? z : 0].map((part, i) => part * (i < 2 ? height : width));
  const size = Math.min(stage.clientWidth / (right - left), stage.clientHeight / (bottom - top));
  look({ zoom: Math.max(size / fit(stage), 1), x: (left + right) / 2, y: (top + bottom) / 2 }, true);
}

function at(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function press(event) {
  event.currentTarget.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  moved = { x: 0, y: 0, touch: event.pointerType === "touch", pinched: pointers.size > 1 || moved?.pinched };
}

function drag(event) {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = at(event);
  pointers.set(event.pointerId, now);
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y);
    moved.pinched = true;
    zoomBy(apart(now) / Math.max(apart(before), 1), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    return;
  }
  moved.x += now.x - before.x;
  moved.y += now.y - before.y;
  if (view.zoom <= 1.001) return;
  const { size, x, y } = placement(event.currentTarget);
  look({ x: x - (now.x - before.x) / size, y: y - (now.y - before.y) / size });
}

function release(event) {
  if (!pointers.delete(event.pointerId) || pointers.size) return;
  const swiped = moved.touch && !moved.pinched && view.zoom <= 1.001 && Math.abs(moved.x) > 40;
  if (swiped && Math.abs(moved.x) > 2 * Math.abs(moved.y)) showSlice(z + (moved.x < 0 ? 1 : -1));
  moved = null;
}

// ---- grey values

function buildGreys() {
  const { grey } = kidney();
  const width = Math.max(grey[1] - grey[0], 1);
  Object.assign(byId("level"), { min: Math.floor(grey[0]), max: Math.ceil(grey[1]) });
  Object.assign(byId("window"), { min: Math.max(Math.round(width / 50), 1), max: Math.ceil(width * 1.2) });
  resetGreys();
}

function resetGreys() {
  const [low, high] = kidney().window;
  byId("level").value = Math.round((low + high) / 2);
  byId("window").value = Math.round(high - low);
  paintGreys();
}

function changeLevel(sign) {
  const { level, window } = { level: byId("level"), window: byId("window") };
  level.value = Number(level.value) + (sign * Number(window.value)) / 20;
  paintGreys();
}

// The picture's 0..1 stand for the grey values `grey`; two filters of style sheets make one window of them.
function paintGreys() {
  const [low, high] = kidney().grey;
  const level = Number(byId("level").value), width = Math.max(Number(byId("window").value), 1);
  const middle = Math.max((level - low) / Math.max(high - low, 1), 0.005), part = width / Math.max(high - low, 1);
  const filter = `brightness(${(0.5 / middle).toFixed(4)}) contrast(${((2 * middle) / part).toFixed(4)})`;
  STAGES.forEach(({ picture }) => { picture.style.filter = filter; });
  byId("greys").textContent = `${count(Math.round(level - width / 2))} to ${count(Math.round(level + width / 2))}`;
}
