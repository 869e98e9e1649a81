// The panes beside the lecture: values on show, ranks, call stack, output, outline; and the bar below.
function updatePanes(step) {
  const frame = selected === null ? D.steps.frame[step] : selected;
  updateVariables(frame, step);
  updateStack(step);
  updateConsole(step);
  if (D.lanes > 1) updateLanes(step);
  updateOutline(step);
}

function updateVariables(frame, step) {
  const rows = [];
  for (const [name, value] of D.changesAt.get(step) || []) {
    if (name[0] === "(") rows.push(variableRow(name, value, true, frame));
  }
  const values = valuesAt(frame, step);
  const byMemory = new Map();
  for (const [name, [value]] of values) {
    const memory = D.values[value][0] && D.values[value][0].mem;
    if (memory) byMemory.set(memory, [...(byMemory.get(memory) || []), name]);
  }
  for (const [name, [value, changed]] of values) {
    const memory = D.values[value][0] && D.values[value][0].mem;
    const views = (memory ? byMemory.get(memory) : []).filter((other) => other !== name);
    rows.push(variableRow(name, value, changed === step, frame, views));
  }
  const body = $("#variables .body");
  if (!rows.length) rows.push(make("p", { class: "empty" }, T("Nothing on show here.")));
  body.replaceChildren(...rows);
  const changed = rows.find((row) => row.classList && row.classList.contains("changed"));
  const pane = $("#panes");
  if (changed && changed.offsetTop + changed.offsetHeight > pane.scrollTop + pane.clientHeight) pane.scrollTop = changed.offsetTop - 40;
  else if (changed && changed.offsetTop < pane.scrollTop) pane.scrollTop = changed.offsetTop - 40;
}

const WORDS = { "(returned)": "returns", "(yielded)": "yields", "(exception)": "raises" };

function variableRow(name, number, changed, frame, views = []) {
  const [value, , type] = D.values[number];
  const special = name[0] === "(";
  const head = make("div", { class: "head" }, make("b", {}, special ? T(WORDS[name]) : name), make("span", { class: "type" }, type), ...badges(value));
  for (const other of views) head.append(make("span", { class: "badge", title: T("the same memory") }, "= " + other));
  if (!special) {
    const next = make("button", { type: "button", class: "next", "aria-label": T("Next change of {name}", { name }), title: T("Next change of {name}", { name }) }, "\u203a");
    next.addEventListener("click", () => nextChange(name, frame));
    head.append(next);
  }
  const row = make("div", { class: "variable" + (changed ? " changed" : "") + (name === "(exception)" ? " error" : "") }, head, valueBody(value));
  return row;
}

function updateStack(step) {
  const own = D.steps.frame[step];
  const rows = stackAt(step).map(([frame, statement]) => {
    const unit = D.units[D.unitOf[statement]];
    const name = D.functions[D.frames.function[frame]];
    const file = D.files.length > 1 ? D.files[unit[0]].split("/").pop() + " " : "";
    const button = make("button", { type: "button", "aria-pressed": String(frame === (selected ?? own)) },
      make("b", {}, name), make("span", {}, file + T("line {n}", { n: D.lines[statement] })));
    button.addEventListener("click", () => {
      selected = frame === own ? null : frame;
      updateVariables(frame, here);
      for (const other of $$("#stack button")) other.setAttribute("aria-pressed", String(other === button));
      bringIntoView($("#u" + D.unitOf[statement]), false);
    });
    return make("li", {}, button);
  });
  $("#stack .body").replaceChildren(...rows);
}

let consoleEnd = -2;
function updateConsole(step) {
  const end = lastUpTo(D.outputSteps, step);
  if (end === consoleEnd) return;
  consoleEnd = end;
  const body = $("#console .body");
  const parts = D.output.slice(Math.max(0, end - 60), end + 1).map(([at, text]) => make("span", { class: at === step ? "new" : "" }, text));
  body.replaceChildren(...(parts.length ? parts : [make("span", { class: "empty" }, T("Nothing printed yet."))]));
  body.scrollTop = body.scrollHeight;
}

function updateLanes(step) {
  const rows = [];
  for (let rank = 1; rank < D.lanes; rank++) {
    const steps = D.laneSteps[rank];
    const i = lastUpTo(steps, step);
    const at = i < 0 ? -1 : steps[i];
    const box = make("div", { class: "lane" + (lane(step) === rank ? " active" : "") });
    const button = make("button", { type: "button", class: "head" }, make("b", {}, T("rank {n}", { n: rank - 1 })));
    if (at >= 0) {
      button.append(make("span", {}, D.functions[D.frames.function[D.steps.frame[at]]] + " " + T("line {n}", { n: D.lines[D.steps.statement[at]] })));
      button.addEventListener("click", () => show(at, { jump: true }));
    } else button.append(make("span", {}, T("not started")));
    box.append(button);
    if (at >= 0) {
      for (const [name, [value, changed]] of valuesAt(D.steps.frame[at], at)) {
        box.append(make("div", { class: "lane-value" + (changed === at ? " changed" : "") }, make("b", {}, name), make("span", {}, D.values[value][1])));
      }
    }
    rows.push(box);
  }
  $("#lanes .body").replaceChildren(...rows);
}

function buildOutline() {
  const list = $("#outline-list");
  list.replaceChildren(...D.outline.map((entry, i) => {
    const button = make("button", { type: "button", class: "level" + Math.min(entry.level, 3) }, entry.titles[language] || entry.titles.en);
    button.addEventListener("click", () => { closePanes(); show(D.outline[i].step, { jump: true }); });
    return make("li", {}, button);
  }));
}

let outlineAt = -2;
function updateOutline(step) {
  const at = lastUpTo(D.outline, step, (entry) => entry.step);
  if (at === outlineAt) return;
  outlineAt = at;
  $$("#outline-list button").forEach((button, i) => {
    button.classList.toggle("done", i < at);
    if (i === at) { button.setAttribute("aria-current", "true"); button.scrollIntoView({ block: "nearest" }); }
    else button.removeAttribute("aria-current");
  });
}

function updateBar(step) {
  $("#slider").value = step;
  const statement = D.steps.statement[step];
  $("#slider").setAttribute("aria-valuetext", T("step {n} of {all}", { n: step, all: D.count - 1 }));
  $("#place").textContent = `${step} / ${D.count - 1}`;
  $("#place").title = D.functions[D.frames.function[D.steps.frame[step]]] + ", " + T("line {n}", { n: D.lines[statement] });
}

function closePanes() {
  document.body.removeAttribute("data-open");
  for (const button of $$("#tabs button")) button.setAttribute("aria-pressed", "false");
}

function togglePane(name) {
  const open = document.body.getAttribute("data-open") === name;
  closePanes();
  if (open) return;
  document.body.setAttribute("data-open", name);
  $(`#tabs [data-pane=${name}]`).setAttribute("aria-pressed", "true");
}
