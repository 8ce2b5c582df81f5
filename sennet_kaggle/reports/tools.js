// Small tools of the page's other files.
function kidney() { return FACTS.kidneys[kidneyIndex]; }
function byId(id) { return document.getElementById(id); }
function count(n) { return n.toLocaleString("en"); }
function signed(value) { return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`; }
function plural(n, word) { return n === 1 ? word : `${word}s`; }
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
