// Words of the viewer in the reader's language.
let language = "en";
function T(text, values = {}) {
  const found = (D && D.strings[language] && D.strings[language][text]) || text;
  return found.replace(/\{(\w+)\}/g, (mark, name) => (name in values ? values[name] : mark));
}

function setLanguage(code) {
  language = code;
  const root = document.documentElement;
  root.lang = code === "zh" ? "zh-Hans" : code;
  root.dataset.language = code;
  for (const element of $$("[data-t]")) element.textContent = T(element.dataset.t);
  for (const element of $$("[data-label]")) {
    element.setAttribute("aria-label", T(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = T(element.dataset.label);
  }
  for (const element of $$(".other")) element.hidden = element.lang !== code;
  for (const element of $$(".english")) {
    element.hidden = element.classList.contains("in-" + code);
    element.lang = "en";
  }
  keep("language", code);
}

// Settings outlive the page where the browser allows it.
function keep(name, value) {
  try { localStorage.setItem("cs336-" + name, value); } catch { /* private window */ }
}
function kept(name) {
  try { return localStorage.getItem("cs336-" + name); } catch { return null; }
}
