"use strict";
// The page: follows the server's events. Whatever comes from there is shown by textContent only.

const WAYS = ["container", "microvm-cold", "microvm-warm", "full-vm"];
const TITLES = {
  "container": "container",
  "microvm-cold": "microVM, cold",
  "microvm-warm": "microVM, warm",
  "full-vm": "full VM",
};
// Steps of the end: on the timeline, but not to its scale.
const LAST_STEPS = ["stopped", "ended"];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const byId = (id) => document.getElementById(id);

const panels = new Map();
const lanes = new Map();
const instances = new Map();
const groups = new Map();
let ways = [];
let columns = [];
let rows = [];
let busy = null;
let connection = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Buttons that do nothing now stay in the tab order: whoever has just used one isn't thrown off it.
function setUsable(button, usable) {
  button.setAttribute("aria-disabled", String(!usable));
}

function onPress(button, action) {
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    try {
      await action();
    } catch (error) {
      announce(error.message);
    }
  });
}

function announce(text) {
  byId("announcer").textContent = text;
}

function time(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1000).toPrecision(3)} ms`;
  return `${(us / 1e6).toFixed(2)} s`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit += 1) bytes /= 1024;
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toPrecision(3)} ${units[unit]}`;
}

function quantity(value, unit) {
  const short = Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  switch (unit) {
    case "microseconds":
    case "cpu-microseconds": return time(value);
    case "nanoseconds": return value < 1000 ? `${value.toPrecision(3)} ns` : time(value / 1000);
    case "bytes": return size(value);
    case "bytes-per-second": return `${size(value)}/s`;
    case "per-second": return `${short}/s`;
    case "per-minute": return `${short}/min`;
    default: return short;
  }
}

// Instances

function remember(description, output) {
  let instance = instances.get(description.name);
  if (!instance) {
    const pre = document.createElement("pre");
    pre.setAttribute("role", "log");
    // A boot is hundreds of lines; what matters is announced in words of the page's own.
    pre.setAttribute("aria-live", "off");
    pre.setAttribute("aria-label", `Console of ${TITLES[description.way]}`);
    pre.tabIndex = 0;
    instance = { terminal: new Terminal(pre), pre, seen: performance.now(), phase: null };
    instances.set(description.name, instance);
    panels.get(description.way)?.show(description.name);
  }
  const before = instance.phase;
  Object.assign(instance, description);
  if (output !== undefined) {
    instance.terminal.clear();
    instance.terminal.write(bytesOf(output));
  }
  if (before !== instance.phase) announce(`${TITLES[instance.way]}: ${phaseText(instance)}`);
  return instance;
}

function phaseText(instance) {
  if (!instance) return "not started";
  if (instance.failure) return `failed: ${instance.failure}`;
  if (instance.phase !== "ended") return instance.phase;
  return instance.exit_code === null ? "stopped" : `ended with exit code ${instance.exit_code}`;
}

// When it can be used: a full VM's console speaks long before its login prompt.
function arrival(instance) {
  const goal = instance?.way === "full-vm" ? "ready" : "first byte";
  return instance?.steps.find((step) => step.name === goal)?.at_us;
}

function isAlive(instance) {
  return Boolean(instance) && instance.phase !== "ended";
}

// A panel: one way, of whose instances it shows one.

class Panel {
  constructor(way) {
    this.way = way;
    this.name = null;
    this.root = byId("panel").content.cloneNode(true).firstElementChild;
    const find = (selector) => this.root.querySelector(selector);
    this.root.dataset.way = way.id;
    const heading = find("h3");
    heading.id = `way-${way.id}`;
    heading.textContent = way.title;
    this.root.setAttribute("aria-labelledby", heading.id);
    find(".detail").textContent = way.detail;
    this.phase = find(".phase");
    this.start = find(".start");
    this.stop = find(".stop");
    this.start.setAttribute("aria-label", `Start ${way.title}`);
    this.stop.setAttribute("aria-label", `Stop ${way.title}`);
    this.which = find(".which");
    this.select = find("select");
    this.timeline = find(".timeline");
    this.timeline.setAttribute("aria-label", `Timeline of ${way.title}`);
    this.empty = find("pre");
    this.empty.setAttribute("aria-label", `Console of ${way.title}`);
    this.pre = this.empty;
    this.meters = {};
    for (const [kind, title] of [["cpu", "CPU"], ["memory", "Memory"]]) {
      const meter = find(`.${kind}`);
      meter.setAttribute("aria-label", `${title} of ${way.title}`);
      this.meters[kind] = { meter, fill: meter.firstElementChild, output: meter.nextElementSibling };
    }
    onPress(this.start, () => connection.post("/api/instances", { way: way.id }));
    onPress(this.stop, () => connection.post(`/api/instances/${encodeURIComponent(this.name)}/stop`));
    this.select.addEventListener("change", () => this.show(this.select.value));
  }

  show(name) {
    this.name = name;
    const pre = instances.get(name)?.pre ?? this.empty;
    if (pre !== this.pre) {
      const focused = document.activeElement === this.pre;
      this.pre.replaceWith(pre);
      this.pre = pre;
      pre.scrollTop = pre.scrollHeight;
      if (focused) pre.focus();
    }
    draw();
  }

  forget(name) {
    if (this.name === name) this.show([...instances.values()].filter((one) => one.way === this.way.id).at(-1)?.name ?? null);
  }

  draw(scale, memoryScale) {
    const instance = instances.get(this.name);
    this.phase.dataset.phase = instance?.failure ? "failed" : instance?.phase ?? "none";
    const others = [...instances.values()].filter((one) => one.way === this.way.id && one !== instance && isAlive(one));
    this.phase.querySelector(".phase-text").textContent = phaseText(instance) + (others.length > 0 ? `, and ${others.length} more` : "");
    setUsable(this.stop, isAlive(instance) && instance.phase !== "stopping");
    this.drawChoice();
    this.drawTimeline(instance?.steps ?? [], scale);
    const usage = instance?.usage;
    this.drawMeter("cpu", usage && Math.min(1, usage.cpus), usage && `${Math.round(usage.cpus * 100)} %`);
    this.drawMeter("memory", usage && usage.pss_bytes / memoryScale, usage && size(usage.pss_bytes));
  }

  drawChoice() {
    const names = [...instances.values()].filter((one) => one.way === this.way.id).map((one) => one.name);
    this.which.hidden = names.length < 2;
    const known = [...this.select.options].map((option) => option.value);
    if (known.join() !== names.join()) {
      const label = (name) => `No. ${name.split("-").at(-1)}`;
      this.select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: label(name) })));
    }
    if (this.name) this.select.value = this.name;
  }

  drawTimeline(steps, scale) {
    while (this.timeline.children.length > steps.length) this.timeline.lastElementChild.remove();
    while (this.timeline.children.length < steps.length) {
      const fill = element("div", { className: "fill" });
      this.timeline.append(element("li", {}, element("span", { className: "name" }),
        element("span", { className: "at" }), element("div", { className: "track" }, fill)));
    }
    steps.forEach((step, index) => {
      const [name, at, track] = this.timeline.children[index].children;
      name.textContent = step.name;
      at.textContent = time(step.at_us);
      const last = LAST_STEPS.includes(step.name);
      track.hidden = last;
      track.firstElementChild.style.width = `${last ? 0 : Math.min(100, (step.at_us / scale) * 100)}%`;
    });
  }

  drawMeter(kind, share, text) {
    const { meter, fill, output } = this.meters[kind];
    const percent = Math.round((share ?? 0) * 100);
    fill.style.width = `${percent}%`;
    meter.setAttribute("aria-valuenow", String(percent));
    meter.setAttribute("aria-valuetext", text ?? "unknown");
    output.textContent = text ?? "–";
  }
}

// All panels and lanes, once per frame at most.

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const shown = [...panels.values()].map((panel) => instances.get(panel.name)).filter(Boolean);
    const times = shown.flatMap((one) => one.steps.filter((step) => !LAST_STEPS.includes(step.name)).map((step) => step.at_us));
    const memory = shown.map((one) => one.usage?.pss_bytes ?? 0);
    const scale = Math.max(1000, ...times);
    const memoryScale = Math.max(64 * 1024 * 1024, ...memory);
    for (const panel of panels.values()) panel.draw(scale, memoryScale);
    setUsable(byId("stop-all"), [...instances.values()].some(isAlive));
    drawLanes();
  });
}

function isComing(instance) {
  return isAlive(instance) && instance.phase !== "stopping" && arrival(instance) === undefined;
}

function drawLanes() {
  const now = performance.now();
  const state = (panel) => {
    const instance = instances.get(panel.name);
    const coming = isComing(instance);
    const reached = arrival(instance);
    return { coming, us: reached ?? (coming ? (now - instance.seen) * 1000 : 0), reached };
  };
  const states = [...panels.values()].map((panel) => [panel, state(panel)]);
  const scale = Math.max(1000, ...states.map(([, one]) => one.us));
  for (const [panel, { coming, us, reached }] of states) {
    const { fill, text } = lanes.get(panel.way.id);
    fill.style.width = `${(us / scale) * 100}%`;
    fill.classList.toggle("coming", coming);
    text.textContent = reached !== undefined ? time(reached) : coming ? "…" : "–";
  }
  // The bars grow on their own until they arrive, but not for whom motion is too much.
  if (!calm.matches && states.some(([, one]) => one.coming)) draw();
}

function layOut(known) {
  if (JSON.stringify(known) === JSON.stringify(ways)) return;
  ways = known;
  panels.clear();
  lanes.clear();
  byId("panels").replaceChildren();
  byId("lanes").replaceChildren();
  byId("lineup").replaceChildren(element("legend", { textContent: "in the race" }));
  for (const way of ways) {
    const panel = new Panel(way);
    panels.set(way.id, panel);
    byId("panels").append(panel.root);
    const fill = element("div", { className: "fill" });
    const text = element("span", { className: "at", textContent: "–" });
    const lane = element("li", {}, element("span", { className: "name", textContent: way.title }),
      element("div", { className: "track" }, fill), text);
    lane.dataset.way = way.id;
    byId("lanes").append(lane);
    lanes.set(way.id, { fill, text });
    const box = element("input", { type: "checkbox", name: "way", value: way.id, checked: true });
    byId("lineup").append(element("label", {}, box, way.title));
  }
}

// The table

function group(workload, canRun) {
  let made = groups.get(workload);
  if (made) return made;
  const heading = element("th", { scope: "rowgroup", colSpan: columns.length + 1 }, element("span", { textContent: workload }));
  const body = element("tbody", {}, element("tr", { className: "group" }, heading));
  body.dataset.workload = workload;
  let button = null;
  if (canRun) {
    button = element("button", { type: "button", textContent: "Run again" });
    button.setAttribute("aria-label", `Run again: ${workload}`);
    onPress(button, () => connection.post(`/api/workloads/${workload}`));
    heading.append(button);
  }
  document.querySelector("table").append(body);
  made = { body, button };
  groups.set(workload, made);
  return made;
}

function cellOf(row, way) {
  const cell = row.cells.find((one) => one.way === way);
  const made = document.createElement("td");
  made.dataset.outcome = cell?.outcome ?? "none";
  if (!cell) made.textContent = "–";
  else if (cell.outcome === "measured") {
    const interval = cell.samples.length > 1 ? `(${quantity(cell.low, row.unit)} – ${quantity(cell.high, row.unit)})` : "";
    made.append(element("strong", { textContent: quantity(cell.median, row.unit) }), " ", element("small", { textContent: interval }));
  } else if (cell.outcome === "said") made.textContent = cell.text;
  else made.textContent = (cell.outcome === "failed" ? "failed: " : "") + cell.reason;
  return made;
}

function drawRows(workload, canRun) {
  const { body } = group(workload, canRun);
  const lines = rows.filter((row) => row.workload === workload).map((row) => {
    const heading = element("th", { scope: "row", textContent: row.title });
    if (row.note) heading.append(element("small", { textContent: row.note }));
    return element("tr", {}, heading, ...columns.map((way) => cellOf(row, way)));
  });
  while (body.children.length > 1) body.lastElementChild.remove();
  body.append(...lines);
}

function drawTable(state) {
  columns = WAYS.filter((way) => ways.some((one) => one.id === way) || state.rows.some((row) => row.cells.some((cell) => cell.way === way)));
  rows = state.rows;
  byId("columns").replaceChildren(element("th", { scope: "col", textContent: "Figure" }),
    ...columns.map((way) => element("th", { scope: "col", textContent: TITLES[way] })));
  for (const { body } of groups.values()) body.remove();
  groups.clear();
  const names = [...new Set([...rows.map((row) => row.workload), ...state.workloads])];
  for (const workload of names) drawRows(workload, state.workloads.includes(workload));
  byId("measured").hidden = names.length === 0;
  drawProgress(state.progress);
}

function drawProgress(progress) {
  busy = progress?.phase === "running" ? progress.workload : null;
  byId("progress").dataset.phase = progress?.phase ?? "none";
  byId("progress").textContent = progress ? `${progress.workload}: ${progress.phase === "failed" ? "failed: " : ""}${progress.text}` : "";
  for (const { button } of groups.values()) if (button) setUsable(button, busy === null);
}

// Events

const handlers = {
  state(state) {
    byId("image").textContent = state.image;
    layOut(state.ways);
    const known = new Set(state.instances.map((instance) => instance.name));
    for (const name of instances.keys()) if (!known.has(name)) handlers.removed({ instance: name });
    for (const { output, ...instance } of state.instances) remember(instance, output);
    const focused = document.activeElement?.closest("tbody")?.dataset.workload;
    drawTable(state);
    if (focused) groups.get(focused)?.button?.focus();
  },
  instance(instance) {
    remember(instance);
  },
  output({ instance, skipped, bytes }) {
    const { terminal } = instances.get(instance);
    if (skipped > 0) terminal.write(new TextEncoder().encode(`\n[${size(skipped)} came too fast to be shown]\n`));
    terminal.write(bytesOf(bytes));
  },
  steps({ instance: name, steps }) {
    const instance = instances.get(name);
    const before = arrival(instance);
    instance.steps = steps;
    const now = arrival(instance);
    if (before === undefined && now !== undefined) announce(`${TITLES[instance.way]}: ${instance.way === "full-vm" ? "login prompt" : "first output"} after ${time(now)}`);
  },
  usage({ instance, ...usage }) {
    instances.get(instance).usage = usage;
  },
  removed({ instance: name }) {
    const { way } = instances.get(name);
    instances.delete(name);
    panels.get(way)?.forget(name);
  },
  progress: drawProgress,
  rows({ workload, rows: fresh }) {
    rows = rows.filter((row) => row.workload !== workload).concat(fresh);
    drawRows(workload, true);
  },
};

const CONNECTION_TEXTS = {
  connected: "Connected",
  lost: "Connection lost: trying again",
  refused: "Refused: use the address that vmctl has printed",
};

function main() {
  const given = new URLSearchParams(location.search).get("token");
  if (given) {
    sessionStorage.setItem("vmctl-live-token", given);
    // Out of sight, of the history, and of what is copied from the address bar.
    history.replaceState(null, "", "/");
  }
  const onEvent = (name, data) => {
    handlers[name]?.(data);
    draw();
  };
  const onState = (state) => {
    byId("connection").dataset.state = state;
    byId("connection-text").textContent = CONNECTION_TEXTS[state];
  };
  connection = new Connection(sessionStorage.getItem("vmctl-live-token"), onEvent, onState);
  onPress(byId("race"), () => {
    const chosen = [...document.querySelectorAll("#lineup input:checked")].map((box) => box.value);
    if (chosen.length === 0) throw new Error("Nobody is in the race: choose at least one way");
    return connection.post("/api/race", { ways: chosen });
  });
  onPress(byId("stop-all"), () => connection.post("/api/stop"));
  connection.listen();
}

main();
