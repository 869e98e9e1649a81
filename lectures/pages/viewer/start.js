// Buttons, keys, and the beginning.
const keys = {
  ArrowRight: "forward", l: "forward", ArrowLeft: "back", h: "back", j: "over", k: "overBack", u: "out",
  n: "section", N: "sectionBack", " ": "play", Home: "first", End: "last",
  "/": openSearch, "?": openHelp, o: toggleOutline, p: () => print(), t: toggleTheme,
  R: () => setView({ lecture: "both", both: "code", code: "lecture" }[document.documentElement.dataset.view]),
  E: () => document.body.classList.toggle("no-panes"),
  P: () => document.body.classList.toggle("with-notes"),
};

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || $("dialog[open]")) return;
  const field = event.target.closest("input, select, textarea, summary, [contenteditable]");
  if (field && field.id !== "slider") return;
  if (event.key === " " && event.target.closest("button")) return;
  if (event.target.closest(".body, .scroll, pre") && event.key.startsWith("Arrow") && overflows(event.target)) return;
  let action = keys[event.key];
  if (event.shiftKey && event.key === "ArrowRight") action = "over";
  if (event.shiftKey && event.key === "ArrowLeft") action = "overBack";
  if (!action) return;
  event.preventDefault();
  if (action !== "play" && playing()) pause();
  (typeof action === "function" ? action : moves[action])();
}

const overflows = (element) => element.scrollWidth > element.clientWidth + 1;

function toggleOutline() {
  if (matchMedia("(max-width: 60rem)").matches) togglePane("outline");
  else { document.body.classList.toggle("no-outline"); }
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep("theme", root.dataset.theme);
}

function connect() {
  for (const button of $$("[data-move]")) button.addEventListener("click", () => { if (button.dataset.move !== "play" && playing()) pause(); moves[button.dataset.move](); });
  for (const button of $$("[data-pane]")) button.addEventListener("click", () => togglePane(button.dataset.pane));
  $("#slider").max = D.count - 1;
  $("#slider").addEventListener("input", (event) => show(Number(event.target.value)));
  $("#view").addEventListener("change", (event) => { setView(event.target.value); setAddress(here, false); });
  $("#language").addEventListener("change", (event) => { setLanguage(event.target.value); buildOutline(); outlineAt = -2; consoleEnd = -2; updatePanes(here); });
  $("#theme").addEventListener("click", toggleTheme);
  $("#help-open").addEventListener("click", openHelp);
  $("#search-open").addEventListener("click", openSearch);
  $("#query").addEventListener("input", (event) => search(event.target.value));
  $("#query").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); $("#hits button")?.click(); } });
  $("#flow").addEventListener("click", onFlowClick);
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => { if (location.hash !== ours) followAddress(); });
  addEventListener("popstate", () => { ours = ""; followAddress(); });
  addEventListener("beforeprint", () => { for (const d of $$("details.quiz")) d.open = true; });
}

function onFlowClick(event) {
  const source = event.target.closest(".source-link");
  if (source) return openSource(source.dataset.source);
  const number = event.target.closest(".no[data-at]");
  if (number) return runTo(...number.dataset.at.split(":").map(Number));
}

async function start() {
  const theme = kept("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  await unpack();
  if (!D.count) return;
  document.documentElement.classList.add("js");
  prepareDocument();
  connect();
  const wanted = new URLSearchParams(location.hash.slice(1)).get("lang") || kept("language") || navigator.language.slice(0, 2);
  const codes = [...$("#language").options].map((option) => option.value);
  setLanguage(codes.includes(wanted) ? wanted : "en");
  $("#language").value = language;
  buildOutline();
  const view = kept("view");
  if (["both", "code"].includes(view)) setView(view);
  followAddress();
  document.documentElement.classList.add("ready");
}
start();
