// The overlay of a slice: errors filled pixel by pixel, or outlined; and the pictures, decoded when they are asked for.
function paintOverlay() {
  for (const { kinds, overlay } of STAGES) {
    if (!kinds) continue;
    [overlay.width, overlay.height] = [kinds.width, kinds.height];
    if (!overlayShown || !(filled || edgesOf(kinds).tooMany)) continue;
    const colors = [[0, 0, 0, 0], ...KINDS.map((kind) => (kind.shown ? rgba(kind.color) : [0, 0, 0, 0]))];
    const words = new Uint32Array(new Uint8Array(colors.flat()).buffer);
    const painted = overlay.getContext("2d").createImageData(kinds.width, kinds.height);
    const pixels = new Uint32Array(painted.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = words[kinds.kind[i]];
    overlay.getContext("2d").putImageData(painted, 0, 0);
  }
  paintOutlines();
}

// Lines of one width on the screen, whatever the zoom: the canvas is as large as the stage and is drawn anew.
function paintOutlines() {
  for (const { stage, outline, kinds } of STAGES) {
    const ratio = window.devicePixelRatio || 1;
    [outline.width, outline.height] = [stage.clientWidth * ratio, stage.clientHeight * ratio];
    if (!kinds || !overlayShown || filled || edgesOf(kinds).tooMany) continue;
    const { size, left, top } = placement(stage);
    const unit = (size * kidney().slices[z].size[1]) / kinds.width;
    const context = outline.getContext("2d");
    context.setTransform(ratio * unit, 0, 0, ratio * unit, ratio * left, ratio * top);
    context.lineCap = "square";
    for (const k of [1, 3, 4, 2]) { // what is missed comes last, over the others
      if (!KINDS[k - 1].shown) continue;
      context.strokeStyle = color(KINDS[k - 1].color);
      context.lineWidth = (k === 2 || k === 4 ? 2 : 1.5) / unit; // the darker colours wider
      context.setLineDash(k === 3 && unit > 3 ? [3 / unit, 2 / unit] : []);
      context.stroke(edgesOf(kinds).paths[k]);
    }
  }
}

// The edges between what is of a kind and what is not, as one path per kind in pixels of the overlay.
function edgesOf(kinds) {
  if (kinds.edges) return kinds.edges;
  const { width, height } = kinds;
  const kind = outlinedKinds(kinds);
  const paths = Array.from({ length: 5 }, () => new Path2D());
  let edges = 0;
  for (const i of kinds.marked) {
    const own = kind[i], path = paths[own];
    if (!own) continue;
    const x = i % width, y = (i - x) / width;
    const sides = [
      [y === 0 || kind[i - width] !== own, x, y, x + 1, y], [y === height - 1 || kind[i + width] !== own, x, y + 1, x + 1, y + 1],
      [x === 0 || kind[i - 1] !== own, x, y, x, y + 1], [x === width - 1 || kind[i + 1] !== own, x + 1, y, x + 1, y + 1],
    ];
    for (const [isEdge, x1, y1, x2, y2] of sides) {
      if (!isEdge) continue;
      path.moveTo(x1, y1);
      path.lineTo(x2, y2);
      edges += 1;
    }
    if (edges > MOST_EDGES) break;
  }
  kinds.edges = { paths, tooMany: edges > MOST_EDGES };
  return kinds.edges;
}

// As figures have them: what is missed beside a found pixel counts as found, what is false beside one as nothing.
function outlinedKinds({ width, height, kind, marked }) {
  const outlined = kind.slice();
  for (const i of marked) {
    if (kind[i] !== 2 && kind[i] !== 3) continue;
    const x = i % width, y = (i - x) / width;
    let near = false;
    for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1) && !near; v++) {
      for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) near ||= kind[v * width + u] === 1;
    }
    if (near) outlined[i] = kind[i] === 2 ? 1 : 0;
  }
  return outlined;
}

function decode(k, at) {
  const key = `${k}-${at}`;
  if (!cache.has(key)) cache.set(key, decodeNow(key));
  if (cache.size > CACHED) cache.delete(cache.keys().next().value);
  return cache.get(key);
}

async function decodeNow(key) {
  const names = ["image", "overlay", "other"].slice(0, RUNS.length + 1);
  const [image, ...overlays] = await Promise.all(names.map((name) =>
    createImageBitmap(new Blob([bytesOf(`${name}-${key}`)], { type: "image/webp" }))));
  return { image, kinds: overlays.map(readKinds) };
}

function readKinds(overlay) {
  const { width, height } = overlay;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(overlay, 0, 0);
  const grey = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const kind = new Uint8Array(grey.length), marked = [];
  for (let i = 0; i < kind.length; i++) {
    kind[i] = Math.round((grey[i] & 255) / KIND_STEP);
    if (kind[i]) marked.push(i);
  }
  return { width, height, kind, marked };
}
