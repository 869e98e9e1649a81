// Search in what is said, in the code, and in the values; and the dialogs.
let searchable = null;

function collect() {
  searchable = [];
  for (const [unit, visits] of D.visitsOfUnit) {
    const boxes = $("#u" + unit + " > .said").children;
    const first = new Map();
    for (const [step, visit] of visits) if (!first.has(visit)) first.set(visit, step);
    for (const [visit, step] of first) searchable.push({ kind: "text", step, text: saidText(boxes[visit]) });
  }
  D.units.forEach((place, unit) => {
    const steps = D.stepsOfUnit.get(unit);
    const text = $$("#u" + unit + " > .code code").map((code) => code.textContent).join("\n");
    if (text.trim() && !D.visitsOfUnit.has(unit)) searchable.push({ kind: "code", step: steps ? steps[0] : -1, unit, line: place[1], text });
  });
  const seen = new Set();
  for (const [step, changes] of D.changes) {
    for (const [name, value] of changes) {
      if (value < 0 || seen.has(name + value)) continue;
      seen.add(name + value);
      searchable.push({ kind: "value", step, text: name + " = " + D.values[value][1] });
    }
  }
}

function saidText(box) {
  const inner = [...box.children].find((child) => child.lang === language && !child.hidden && child.classList.contains("other"));
  return (inner || $(".english", box) || box).textContent.replace(/\s+/g, " ");
}

function search(query) {
  const wanted = query.trim().toLowerCase();
  const hits = wanted ? searchable.filter((entry) => entry.text.toLowerCase().includes(wanted)) : [];
  hits.sort((a, b) => (a.step < 0) - (b.step < 0) || a.step - b.step);
  $("#found").textContent = wanted ? T("{n} found", { n: hits.length }) : "";
  $("#hits").replaceChildren(...hits.slice(0, 60).map((hit) => {
    const at = hit.text.toLowerCase().indexOf(wanted);
    const begin = Math.max(0, at - 40);
    const button = make("button", { type: "button" }, make("small", {}, T(hit.kind)),
      (begin ? "..." : "") + hit.text.slice(begin, at), make("mark", {}, hit.text.slice(at, at + wanted.length)), hit.text.slice(at + wanted.length, at + wanted.length + 60));
    button.addEventListener("click", () => {
      $("#search").close();
      if (hit.step >= 0) show(hit.step, { jump: true });
      else { tell(T("Line {n} never runs.", { n: hit.line })); flashUnit(hit.unit); }
    });
    return make("li", {}, button);
  }));
}
const COLLECTED = () => [T("text"), T("code"), T("value"), T("returns"), T("yields"), T("raises")]; // for the translators

function openSearch() {
  collect();
  $("#search").showModal();
  $("#query").select();
  search($("#query").value);
}

function openDialog(title, ...content) {
  $("#dialog-title").textContent = title;
  $("#dialog-body").replaceChildren(...content);
  $("#dialog").showModal();
}

function openSource(key) {
  const template = $("#" + key).content.cloneNode(true);
  const title = $("h3", template).textContent;
  const code = $(".code", template);
  code.tabIndex = 0;
  openDialog(title, code);
}

function openHelp() {
  const rows = [
    ["\u2192  l", T("Forward")], ["\u2190  h", T("Back")], ["\u21e7\u2192  j", T("Step over")], ["\u21e7\u2190  k", T("Step over, back")],
    ["u", T("Step out")], ["n  N", T("Next section") + " / " + T("Previous section")], [T("Space"), T("Play or pause")],
    ["Home  End", T("First and last step")], ["/", T("Search")], ["o", T("Outline")], ["R", T("View: lecture, both, code")],
    ["E", T("Show or hide the panes")], ["P", T("Presenter's notes")], ["t", T("Light or dark")], ["p", T("Print")], ["?", T("Help")],
  ];
  const table = make("table", { class: "keys" });
  for (const [keys, meaning] of rows) table.append(make("tr", {}, make("th", { scope: "row" }, ...keys.split("  ").map((key) => make("kbd", {}, key))), make("td", {}, meaning)));
  openDialog(T("Help"), table, make("p", {}, T("A click on a line number runs to that line. The address in the browser always leads back to the present step.")));
}
