"""The look of report pages: one style sheet for light, dark, phone and print. Read next: `report_html.py`."""

STYLE = """\
:root {
  color-scheme: light dark;
  --ink: #1d2330; --soft: #5b6475; --paper: #ffffff; --ground: #f6f7f9; --line: #dde1e8;
  --accent: #2457c5; --good: #12713f; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7ee; --soft: #9aa4b5; --paper: #171b23; --ground: #0f1218; --line: #2c3340;
    --accent: #8fb4ff; --good: #66cf93; --bad: #ff9a90;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 50rem;
  background: var(--ground); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1, h2, h3, h4, h5, h6 { line-height: 1.25; text-wrap: balance; margin: 2em 0 .6em; }
h1 { font-size: 2.1rem; letter-spacing: -.02em; margin: 0 0 .5em; }
h2 { font-size: 1.5rem; letter-spacing: -.01em; padding-top: 1.2rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.18rem; }
h4, h5, h6 { font-size: 1rem; }
p, ul, ol, blockquote { margin: 0 0 1em; }
a { color: var(--accent); text-underline-offset: .15em; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .875em; }
p code, li code, td code {
  white-space: break-spaces; border-radius: 4px; padding: .08em .32em;
  background: var(--paper); border: 1px solid var(--line);
}
blockquote { border-left: 3px solid var(--line); padding-left: 1rem; color: var(--soft); }
nav { margin: 1.5rem 0 2rem; font-size: .94rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { display: block; padding: .2rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
nav .level3 { padding-left: 1rem; }
figure, .scroll { margin: 1.5rem 0; }
figcaption, caption { color: var(--soft); font-size: .9rem; line-height: 1.45; text-align: left; }
figcaption { margin-bottom: .5rem; }
.picture { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1rem; }
.picture svg { display: block; width: 100%; height: auto; margin: 0 auto; fill: currentColor; }
.picture svg path, .picture svg use { stroke-linejoin: round; }
.picture figcaption { margin: .75rem 0 0; }
.code pre {
  margin: 0; padding: 1rem; background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; overflow-x: auto;
}
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .5rem; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); border-bottom-width: 2px; vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.right { text-align: right; }
td.right { white-space: nowrap; }
.center { text-align: center; }
.tiles {
  list-style: none; margin: 1.5rem 0; padding: 0;
  display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(10.5rem, 100%), 1fr));
}
.tiles li {
  display: flex; flex-direction: column; padding: .9rem 1rem;
  background: var(--paper); border: 1px solid var(--line); border-top: 3px solid var(--line); border-radius: 10px;
}
.tiles .label { color: var(--soft); font-size: .87rem; line-height: 1.35; }
.tiles .value { font-size: 1.5rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles .below { display: flex; justify-content: space-between; gap: .5rem; margin-top: auto; font-size: .87rem; }
.tiles .target { color: var(--soft); }
.tiles .verdict { font-weight: 650; }
.tiles .pass { border-top-color: var(--good); }
.tiles .pass .verdict { color: var(--good); }
.tiles .miss { border-top-color: var(--bad); }
.tiles .miss .verdict { color: var(--bad); }
@media (min-width: 75rem) {
  body { display: grid; grid-template-columns: 14rem minmax(0, 50rem); column-gap: 3.5rem; max-width: 70rem; }
  header, main { grid-column: 2; }
  nav { grid-column: 1; grid-row: 1 / span 2; position: sticky; top: 2.5rem; align-self: start; margin: .6rem 0 0; }
}
@media (max-width: 34rem) {
  body { font-size: 1rem; padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.7rem; }
  .picture { padding: .5rem; }
}
@media print {
  :root {
    color-scheme: light;
    --ink: #000000; --soft: #444444; --paper: #ffffff; --ground: #ffffff; --line: #bbbbbb;
    --accent: #000000; --good: #12713f; --bad: #b3261e;
  }
  body { display: block; max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h1, h2, h3, h4, h5, h6 { break-after: avoid; }
  .picture, .tiles, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  thead { display: table-header-group; }
}
"""
