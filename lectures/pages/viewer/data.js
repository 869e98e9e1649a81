// The steps: unpacking them, and what follows from them (stack, values on show, visits of a line).
let D; // the payload, see page.py
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

async function unpack() {
  const bytes = Uint8Array.from(atob($("#steps").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  D = JSON.parse(await new Response(stream).text());
  D.count = D.steps.kind.length;
  D.changesAt = new Map(D.changes);
  D.outputSteps = D.output.map((entry) => entry[0]);
  indexFrames();
  indexVisits();
}

function indexFrames() {
  const { caller } = D.frames;
  D.depth = [];
  for (let f = 0; f < caller.length; f++) D.depth[f] = caller[f] < 0 ? 0 : D.depth[caller[f]] + 1;
  D.changesOf = new Map(); // frame -> steps at which values on show changed
  for (const [step] of D.changes) {
    const frame = D.steps.frame[step];
    if (!D.changesOf.has(frame)) D.changesOf.set(frame, []);
    D.changesOf.get(frame).push(step);
  }
  D.laneSteps = Array.from({ length: D.lanes }, () => []);
  if (D.lanes > 1) for (let s = 0; s < D.count; s++) D.laneSteps[lane(s)].push(s);
}

function indexVisits() {
  D.stepsOfUnit = new Map();
  for (let s = 0; s < D.count; s++) {
    const unit = D.unitOf[D.steps.statement[s]];
    if (!D.stepsOfUnit.has(unit)) D.stepsOfUnit.set(unit, []);
    D.stepsOfUnit.get(unit).push(s);
  }
  D.visitsOfUnit = new Map();
  for (const [step, unit, visit] of D.visits) {
    if (!D.visitsOfUnit.has(unit)) D.visitsOfUnit.set(unit, []);
    D.visitsOfUnit.get(unit).push([step, visit]);
  }
}

const lane = (step) => D.frames.lane[D.steps.frame[step]];
const unitAt = (step) => D.unitOf[D.steps.statement[step]];

// Index of the last entry <= x in a sorted array, or -1.
function lastUpTo(array, x, key = (v) => v) {
  let low = -1, high = array.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (key(array[middle]) <= x) low = middle; else high = middle;
  }
  return low;
}

// [[frame, statement], ...] from the outermost call to the step's own.
function stackAt(step) {
  const found = [];
  let frame = D.steps.frame[step], statement = D.steps.statement[step];
  while (frame >= 0) {
    found.push([frame, statement]);
    statement = D.frames.statement[frame];
    frame = D.frames.caller[frame];
  }
  return found.reverse();
}

// The values on show in a frame after a step: Map name -> [value, step of its last change].
// Keyframes every 200 changes keep a jump in a long lecture short.
const keyframes = new Map();
function valuesAt(frame, step) {
  const steps = D.changesOf.get(frame) || [];
  const end = lastUpTo(steps, step) + 1;
  if (!keyframes.has(frame)) keyframes.set(frame, [new Map()]);
  const kept = keyframes.get(frame);
  let from = Math.min(Math.floor(end / 200), kept.length - 1);
  const found = new Map(kept[from]);
  for (let i = from * 200; i < end; i++) {
    if (i % 200 === 0 && i / 200 === kept.length) kept.push(new Map(found));
    for (const [name, value] of D.changesAt.get(steps[i])) {
      if (name[0] === "(") continue;
      if (value < 0) found.delete(name); else found.set(name, [value, steps[i]]);
    }
  }
  return found;
}

const isInside = (frame, outer) => {
  while (frame > outer) frame = D.frames.caller[frame];
  return frame === outer;
};
