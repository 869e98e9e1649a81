// A value as elements: numbers as a table with a tint for size, containers as rows to open.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function number(x) {
  if (typeof x !== "number") return String(x);
  if (Number.isInteger(x)) return Math.abs(x) < 1e15 ? x.toLocaleString("en") : x.toExponential(3);
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e6 ? String(Number(x.toFixed(4))) : x.toExponential(3);
}

function valueBody(value, depth = 0) {
  if (value === null || typeof value !== "object") return make("span", { class: "plain" }, plain(value));
  if (value.s !== undefined) return tensorBody(value);
  if (value.v) return items(value.v.map((item, i) => [String(i), item]), value, depth);
  if (value.k) return items(value.k.map(([key, item]) => [short(key), item]), value, depth);
  if (value.f) return items(value.f, { n: value.f.length }, depth);
  return make("span", { class: "plain" }, value.x === undefined ? value.t : value.x + (value.n > value.x.length ? "..." : ""));
}

function plain(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "string" ? JSON.stringify(value) : number(value);
}

function short(value) {
  if (value === null || typeof value !== "object") return plain(value);
  if (value.v) return "(" + value.v.map(short).join(", ") + ")";
  return String(value.x ?? value.t);
}

function isFlat(value) {
  return value === null || typeof value !== "object" || (value.x !== undefined && String(value.x).length < 40);
}

function items(rows, value, depth) {
  if (rows.length && rows.every(([key, item], i) => key === String(i) && isFlat(item))) {
    const row = make("div", { class: "cells" });
    for (const [, item] of rows) row.append(make("span", {}, short(item)));
    if (value.n > rows.length) row.append(make("span", { class: "more" }, "+" + (value.n - rows.length)));
    return row;
  }
  const list = make("table", { class: "items" });
  for (const [key, item] of rows) list.append(make("tr", {}, make("th", { scope: "row", class: key.length < 22 ? "short" : "" }, key), make("td", {}, valueBody(item, depth + 1))));
  const box = make("div", {}, list);
  if (value.n > rows.length) box.append(make("small", {}, T("and {n} more", { n: value.n - rows.length })));
  return box;
}

function tensorBody(value) {
  const box = make("div");
  let numbers = value.n, path = "";
  if (numbers === undefined) return box;
  if (!Array.isArray(numbers)) return make("span", { class: "plain" }, number(numbers));
  while (Array.isArray(numbers[0]) && Array.isArray(numbers[0][0])) { numbers = numbers[0]; path += "0, "; }
  const rows = Array.isArray(numbers[0]) ? numbers : [numbers];
  const flat = rows.flat().filter((x) => typeof x === "number");
  const largest = Math.max(...flat.map(Math.abs), 1e-30);
  const table = make("table", { class: "matrix" });
  const height = value.s.length > 1 ? value.s[value.s.length - 2] : 1;
  rows.forEach((row, i) => {
    const line = make("tr");
    const width = value.s[value.s.length - 1];
    row.forEach((x, j) => {
      const cell = make("td", {}, number(x));
      if (typeof x === "number") cell.style.setProperty("--tint", (Math.abs(x) / largest).toFixed(2));
      if (x < 0) cell.className = "negative";
      if (row.length < width && j === row.length / 2) line.append(make("td", { class: "gap" }, "\u22ef"));
      line.append(cell);
    });
    if (rows.length < height && i === rows.length / 2) table.append(make("tr", {}, make("td", { class: "gap", colspan: String(row.length + 1) }, "\u22ee")));
    table.append(line);
  });
  if (path) box.append(make("small", {}, "[" + path + ":, :]"));
  box.append(make("div", { class: "scroll" }, table));
  if (value.st) {
    const [low, mean, high, deviation, missing] = value.st;
    const names = [["min", low], ["mean", mean], ["max", high], ["std", deviation], ...(missing ? [["NaN", missing]] : [])];
    const line = make("div", { class: "statistics" });
    for (const [name, x] of names) line.append(make("span", {}, make("i", {}, name + " "), number(x)));
    if (value.sampled) line.append(make("span", {}, make("i", {}, T("of a sample"))));
    box.append(line);
  }
  return box;
}

function badges(value) {
  const found = [];
  if (value && typeof value === "object") {
    if (value.g) found.push("grad");
    if (value.dev) found.push(value.dev);
  }
  return found.map((text) => make("span", { class: "badge" }, text));
}
