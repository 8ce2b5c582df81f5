// The vessel tree in 3D, in the organ's faint shell.
const MESHES = {
  prediction: [TWO ? RUNS[0].name : "Prediction", "--prediction", 1],
  label: ["Label", "--label", 0.35],
  other: [TWO ? RUNS[1].name : "", "--other", 0.5],
  organ: ["Organ", "--organ", 0.09],
};
const TOWARDS = [0.62, -0.72, 0.32]; // where the eye stands, seen from the tree
const HALF_VIEW = Math.tan(Math.PI / 8); // plotly's camera sees 45 degrees from top to bottom
const FRAME = 1.06;
let viewer = null;

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
    await Plotly.newPlot(host, traces, treeLayout(meshes, host), { displayModeBar: false, responsive: true });
  } catch (error) {
    return say(`The 3D view needs WebGL, which this browser does not offer (${error.message}).`);
  }
  meshes.forEach((mesh, i) => {
    const [name, swatch] = MESHES[mesh.name];
    const show = (on) => Plotly.restyle(host, { visible: on }, [i]);
    const label = toggle(byId("meshes"), `toggle-${mesh.name}`, name, swatch, show, mesh.name !== "other");
    label.title = `${count(mesh.triangles)} triangles`;
  });
  byId("tree-note").textContent = "Drag to turn, wheel or pinch to zoom. A coarse view: thin vessels look thicker than they are.";
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
  const [, swatch, opacity] = MESHES[mesh.name];
  return {
    type: "mesh3d", z: axis(0), y: axis(1), x: axis(2), i: corner(0), j: corner(2), k: corner(1),
    color: color(swatch), opacity, hoverinfo: "skip", visible: mesh.name !== "other",
    lighting: { ambient: 0.68, diffuse: 0.6, specular: 0.1, roughness: 0.7, fresnel: 0.05 },
    lightposition: { x: -5e4, y: -1e5, z: 0 }, // from above and behind the viewer
  };
}

function treeLayout(meshes, host) {
  const first = kidney().numbers[0];
  const range = (i) => [Math.min(...meshes.map((m) => m.low[i])), Math.max(...meshes.map((m) => m.high[i]))];
  const ranges = [2, 1, 0].map(range); // x, y, z
  const longest = Math.max(...ranges.map(([low, high]) => high - low));
  const sides = ranges.map(([low, high]) => Math.max((high - low) / longest, 0.02));
  // Only slices have numbers: those of x and y would stand below the tree, where the picture ends.
  const axis = ([low, high], side, title = "") => ({
    title: { text: title, font: { size: 12 } }, range: [low, high], tickfont: { size: 11 }, nticks: Math.max(Math.round(6 * side), 2),
    showticklabels: title !== "", gridcolor: color("--line"), zeroline: false, showspikes: false, backgroundcolor: color("--card"), showbackground: false,
  });
  const [xs, ys, zs] = ranges;
  return {
    margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: color("--card"), showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, color: color("--quiet") },
    scene: {
      aspectmode: "manual", aspectratio: { x: sides[0], y: sides[1], z: sides[2] }, dragmode: "orbit",
      xaxis: axis(xs, sides[0]), yaxis: axis([...ys].reverse(), sides[1]),
      zaxis: axis(zs.map((v) => v + first), sides[2], kidney().numbered ? "slice number" : "slice"),
      camera: fittedCamera(meshes, ranges, longest, host.clientWidth / host.clientHeight),
    },
  };
}

// From how far away all of the vessels are seen; the organ around them may be cut off.
function fittedCamera(meshes, ranges, longest, aspect) {
  const norm = Math.hypot(...TOWARDS);
  const back = TOWARDS.map((v) => v / norm);
  const right = unit([-back[1], back[0], 0]);
  const up = [1, 2, 0].map((i) => { const [a, b] = [i, (i + 1) % 3]; return back[a] * right[b] - back[b] * right[a]; });
  const middle = ranges.map(([low, high]) => (low + high) / 2);
  const vessels = meshes.filter((mesh) => mesh.name !== "organ");
  const box = [2, 1, 0].map((i) => [Math.min(...vessels.map((m) => m.low[i])), Math.max(...vessels.map((m) => m.high[i]))]);
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => [0, 1, 2].map((i) => {
    const at = (box[i][(n >> i) & 1] - middle[i]) / longest;
    return i === 1 ? -at : at; // y runs down
  }));
  const center = [0, 1, 2].map((i) => corners.reduce((sum, corner) => sum + corner[i] / 8, 0));
  let distance = 0.3;
  for (const corner of corners) {
    const from = corner.map((v, i) => v - center[i]);
    const dot = (axis) => from.reduce((sum, v, i) => sum + v * axis[i], 0);
    const half = Math.max(Math.abs(dot(up)), Math.abs(dot(right)) / Math.max(aspect, 0.1));
    distance = Math.max(distance, dot(back) + (FRAME * half) / HALF_VIEW);
  }
  const named = ([x, y, z]) => ({ x, y, z });
  return { center: named(center), eye: named(center.map((v, i) => v + distance * back[i])), up: { x: 0, y: 0, z: 1 } };
}

function unit(v) { const length = Math.hypot(...v); return v.map((one) => one / length); }

// plotly.js is large: it is unpacked when its part of the page comes into view.
async function loadViewer() {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unpack("viewer"));
  document.head.append(script);
}
