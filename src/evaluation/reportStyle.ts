// How the HTML report looks: on screen, light or dark as the reader's system is, and on paper.

export const REPORT_STYLE = `
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --card: #ffffff; --ink: #1d2521; --soft: #5c6761; --line: #dfe4e0;
  --chain: #1f7a54; --direct: #b98a2f; --cut: #b3402f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141917; --card: #1b2220; --ink: #e6ece8; --soft: #9aa8a1; --line: #303a36;
    --chain: #4fbf8b; --direct: #d6ab55; --cut: #ee8372;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", sans-serif;
}
header, main { max-width: 58rem; margin: 0 auto; }
.brand { margin: 0; color: var(--chain); font-weight: 600; letter-spacing: .02em; }
h1 { margin: .1rem 0 .2rem; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 .4rem; font-size: 1.2rem; }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
section { margin: 2rem 0; padding: 1.4rem 1.5rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: 1rem; padding: 0; background: none; border: 0; }
.tile { padding: 1rem 1.2rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile p { margin: 0; }
.figure { font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; }
table { width: 100%; margin: .9rem 0 0; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .34rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
td:first-child { white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
.facts th { width: 9rem; vertical-align: top; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2.5rem; align-items: start; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem 1.5rem; }
figure { margin: 1rem 0 0; overflow-x: auto; }
figure > svg { min-width: 36rem; }
.curves svg { min-width: 0; }
figcaption { font-weight: 600; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--soft); }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .tick, svg .soft { fill: var(--soft); }
svg .label { font-weight: 600; }
svg .value { font-weight: 600; font-variant-numeric: tabular-nums; }
svg .value .soft { font-weight: 400; }
.grid { stroke: var(--line); }
.bar.chain { fill: var(--chain); }
.bar.direct { fill: var(--direct); }
.whisker { fill: none; stroke: var(--ink); stroke-width: 1.4; }
.faint { fill: none; stroke: var(--chain); stroke-opacity: .3; }
.strong { fill: none; stroke: var(--chain); stroke-width: 2; stroke-linejoin: round; }
.cell { fill: var(--chain); }
.cut { fill: none; stroke: var(--cut); stroke-width: 1.2; }
.key { display: inline-block; margin-right: .6em; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; background: var(--chain); }
.key.direct::before { background: var(--direct); }
code { font-size: .78rem; }
pre { margin: 0; padding: 1rem; background: var(--paper); border: 1px solid var(--line); border-radius: 8px; font-size: .8rem; line-height: 1.45; overflow-x: auto; }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --chain: #1f7a54; --direct: #b98a2f; --cut: #b3402f; }
  body { padding: 0; font-size: 10pt; print-color-adjust: exact; }
  section { margin: 1rem 0; padding: .6rem 0; border: 0; break-inside: avoid; overflow: visible; }
  figure > svg { min-width: 0; }
  code { overflow-wrap: anywhere; }
  section:has(pre) { break-inside: auto; }
}
`;
