// Ways through the steps.
const moves = {
  first: () => show(0, { jump: true }),
  last: () => show(D.count - 1, { jump: true }),
  forward: () => show(here + 1),
  back: () => show(here - 1),
  over: () => show(findStep(1, (s) => !below(s, D.steps.frame[here]))),
  overBack: () => show(findStep(-1, (s) => !below(s, D.steps.frame[here]))),
  out: () => show(findStep(1, (s) => !isInside(D.steps.frame[s], D.steps.frame[here]) && (lane(s) === lane(here) || lane(s) === 0))),
  section: () => {
    const next = D.outline.find((entry) => entry.step > here);
    show(next ? next.step : D.count - 1, { jump: true });
  },
  sectionBack: () => {
    const before = D.outline.filter((entry) => entry.step < here);
    show(before.length ? before[before.length - 1].step : 0, { jump: true });
  },
  play: () => (playing() ? pause() : play()),
};

// A step deeper than `frame`, or of another rank.
function below(step, frame) {
  const f = D.steps.frame[step];
  return (f !== frame && isInside(f, frame)) || (lane(step) !== D.frames.lane[frame] && lane(step) !== 0);
}

function findStep(direction, wanted) {
  for (let s = here + direction; s >= 0 && s < D.count; s += direction) if (wanted(s)) return s;
  return direction > 0 ? D.count - 1 : 0;
}

let timer = null;
const playing = () => timer !== null;
function play() {
  if (here >= D.count - 1) return;
  const tick = () => {
    show(here + 1);
    if (here >= D.count - 1) pause(); else timer = setTimeout(tick, Number($("#speed").value));
  };
  timer = setTimeout(tick, Number($("#speed").value) / 2);
  $("#play").setAttribute("aria-pressed", "true");
}
function pause() {
  clearTimeout(timer);
  timer = null;
  $("#play").setAttribute("aria-pressed", "false");
}

// The next step of the function at which a value changes.
function nextChange(name, frame) {
  const wanted = D.frames.function[frame];
  for (const [step, changes] of D.changes) {
    if (step <= here || D.frames.function[D.steps.frame[step]] !== wanted) continue;
    if (changes.some(([other]) => other === name)) return show(step, { jump: true });
  }
  tell(T("{name} does not change again.", { name }));
}

// Run to a line: its next step, else its first.
function runTo(file, line) {
  const unit = D.units.findIndex(([f, first, last]) => f === file && first <= line && line <= last);
  const steps = D.stepsOfUnit.get(unit);
  if (!steps) {
    tell(T("Line {n} never runs.", { n: line }));
    setAddress(here, true, `L=${D.files[file].split("/").pop()}:${line}`);
    return flashUnit(unit);
  }
  const next = steps.find((s) => s > here);
  show(next ?? steps[0], { jump: true });
}

function flashUnit(unit) {
  const element = $("#u" + unit);
  if (!element) return;
  element.closest("details.boilerplate")?.setAttribute("open", "");
  element.classList.add("flash");
  setTimeout(() => element.classList.remove("flash"), 1500);
  bringIntoView(element, true);
}

function tell(text) {
  const box = make("div", { class: "toast", role: "status" }, text);
  document.body.append(box);
  setTimeout(() => box.remove(), 2600);
}

// Addresses: #s=12  #L=lecture_01.py:88  #L=lecture_01.py:88.3 (third visit)  #sec=name, and &v=code
let ours = "";
let addressTimer = null;
function setAddress(step, jump, place = "s=" + step) {
  const view = document.documentElement.dataset.view;
  ours = "#" + place + (view === "lecture" ? "" : "&v=" + view);
  clearTimeout(addressTimer);
  // Browsers slow pages down that change their address often, so single steps wait until the reader does.
  if (jump) writeAddress("pushState"); else addressTimer = setTimeout(writeAddress, 250, "replaceState");
}
function writeAddress(how) {
  if (ours !== location.hash) history[how](null, "", ours);
}

function followAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const view = { raw: "code" }[wanted.get("v")] || wanted.get("v");
  if (["lecture", "both", "code"].includes(view)) setView(view);
  const step = Number(wanted.get("s"));
  if (wanted.has("s") && Number.isInteger(step)) return show(step, { keepAddress: true, jump: true });
  if (wanted.has("L")) return followLine(wanted.get("L"));
  if (wanted.has("sec")) {
    const name = wanted.get("sec");
    const first = D.steps.frame.findIndex((f) => D.functions[D.frames.function[f]] === name);
    if (first >= 0) return show(first, { keepAddress: true, jump: true });
    tell(T("There is no section {name}.", { name }));
  }
  if (here < 0) show(0, { keepAddress: true });
}

function followLine(place) {
  const [, name, line, visit] = place.match(/^(?:(.*):)?(\d+)(?:\.(\d+))?$/) || [];
  const file = name ? D.files.findIndex((path) => path === name || path.endsWith("/" + name)) : 0;
  const unit = D.units.findIndex(([f, first, last]) => f === file && first <= Number(line) && Number(line) <= last);
  const steps = D.stepsOfUnit.get(unit);
  if (here < 0) show(0, { keepAddress: true });
  if (steps) return show(steps[Math.min(Number(visit || 1), steps.length) - 1], { keepAddress: true, jump: true });
  tell(unit < 0 ? T("There is no line {n}.", { n: place }) : T("Line {n} never runs.", { n: line }));
  flashUnit(unit);
}
