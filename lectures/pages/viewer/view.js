// The document at a step: the current line, what each line says and shows now.
let here = -1; // the present step
let selected = null; // a frame chosen in the stack, or null for the step's own
const saidNow = new Map(); // unit -> visit on show
const shownNow = new Map(); // unit -> step whose values are on show

function prepareDocument() {
  for (const [unit, visits] of D.visitsOfUnit) {
    const first = visits[0][1];
    showVisit(unit, first);
  }
  D.repeated = [...D.visitsOfUnit].filter(([, visits]) => new Set(visits.map((v) => v[1])).size > 1);
  const changed = new Map();
  for (const [step] of D.changes) {
    const unit = unitAt(step);
    if (!changed.has(unit)) changed.set(unit, []);
    changed.get(unit).push(step);
  }
  D.showing = [...changed];
  D.showingAt = changed;
}

function showVisit(unit, visit) {
  if (saidNow.get(unit) === visit) return;
  const boxes = $("#u" + unit + " > .said").children;
  const old = saidNow.get(unit);
  if (old !== undefined) boxes[old].classList.remove("on");
  boxes[visit].classList.add("on");
  saidNow.set(unit, visit);
}

// After a jump all repeated lines are looked at; after one step only the present line can differ.
function updateDocument(step, from) {
  const near = from >= 0 && step === from + 1;
  const said = near ? [unitAt(step)].filter((u) => D.visitsOfUnit.has(u)).map((u) => [u, D.visitsOfUnit.get(u)]) : D.repeated;
  for (const [unit, visits] of said) {
    const i = lastUpTo(visits, step, (v) => v[0]);
    showVisit(unit, visits[Math.max(i, 0)][1]);
  }
  const showing = near ? [unitAt(step)].filter((u) => D.showingAt.has(u)).map((u) => [u, D.showingAt.get(u)]) : D.showing;
  for (const [unit, steps] of showing) {
    const i = lastUpTo(steps, step);
    const box = $("#u" + unit + " > .shown");
    if (!box) continue;
    box.classList.toggle("later", i < 0);
    const at = steps[Math.max(i, 0)];
    if (steps.length > 1 && shownNow.get(unit) !== at) box.replaceChildren(...chipsOf(at));
    shownNow.set(unit, at);
  }
}

function chipsOf(step) {
  const chips = [];
  for (const [name, value] of D.changesAt.get(step)) {
    if (value < 0 || (name[0] === "(" && name !== "(exception)")) continue;
    const chip = make("span", { class: name === "(exception)" ? "chip error" : "chip", title: D.values[value][2] });
    if (name[0] !== "(") chip.append(make("b", {}, name));
    chip.append(make("span", {}, D.values[value][1]));
    chips.push(chip);
  }
  return chips;
}

let marked = []; // the units with a mark
function markCurrent(step) {
  for (const element of marked) {
    element.classList.remove("current", "caller");
    element.removeAttribute("aria-current");
  }
  const unit = $("#u" + unitAt(step));
  unit.classList.add("current");
  unit.dataset.kind = D.steps.kind[step];
  unit.setAttribute("aria-current", "step");
  const callers = stackAt(step).slice(0, -1).map(([, statement]) => $("#u" + D.unitOf[statement]));
  for (const caller of callers) caller.classList.add("caller");
  marked = [unit, ...callers];
  const folded = unit.closest("details.boilerplate");
  if (folded) folded.open = true;
  return unit;
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
function bringIntoView(element, jump) {
  const box = element.getBoundingClientRect();
  const covered = document.body.hasAttribute("data-open") ? 0.5 * innerHeight + 140 : 150; // a pane is open on a phone
  const top = 60, bottom = innerHeight - covered;
  if (box.top >= top && box.bottom <= bottom) return;
  const target = box.height > bottom - top ? box.top - top : box.top - (top + bottom) / 2 + box.height / 2;
  scrollBy({ top: target, behavior: jump || calm.matches || playing() ? "instant" : "smooth" });
}

// Show a step. `options.jump`: a new entry in the browser's history, no animation.
function show(step, options = {}) {
  step = Math.max(0, Math.min(D.count - 1, step));
  const from = here;
  here = step;
  selected = null;
  updateDocument(step, from);
  const unit = markCurrent(step);
  bringIntoView(unit, options.jump || from < 0);
  updatePanes(step);
  updateBar(step);
  if (options.keepAddress !== true) setAddress(step, options.jump);
  announce(step);
}

function announce(step) {
  const statement = D.steps.statement[step];
  const changes = (D.changesAt.get(step) || []).filter(([, v]) => v >= 0).map(([name, v]) => name + " = " + D.values[v][1]);
  const where = D.files.length > 1 ? D.files[D.units[D.unitOf[statement]][0]] + " " : "";
  $("#said-live").textContent = where + T("line {n}", { n: D.lines[statement] }) + (changes.length ? ": " + changes.join(", ") : "");
}

function setView(name) {
  document.documentElement.dataset.view = name;
  $("#view").value = name;
  for (const details of $$("details.boilerplate")) details.open = name === "code";
  keep("view", name);
  if (here >= 0) bringIntoView($("#u" + unitAt(here)), true);
}
