"""The style sheet of a run's page, for light and dark screens."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --paper: #fff; --soft: #f3f4f6; --line: #d8dce2;
  --quiet: #5c6573; --flag: #b42318; --good: #17803d; --warn: #a84a08; --c0: #2563b8; --c1: #c2570c;
  --c2: #17803d; --c3: #8b3fb0; --c4: #b01e62; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #15181d; --soft: #1f242c;
  --line: #363d48; --quiet: #9aa4b2; --flag: #ff8a80; --good: #6fd08c; --warn: #f5a35c; --c0: #7ab0f5;
  --c1: #f5a35c; --c2: #6fd08c; --c3: #cf9bea; --c4: #f58ab8; --c5: #6cc7dc; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 2.2em; line-height: 1.2; margin: 0 0 .2em; overflow-wrap: anywhere; }
h2 { font-size: 1.3em; margin: 1.8em 0 .5em; } h3 { font-size: 1em; margin: 1.2em 0 .3em; }
header p { max-width: 75ch; color: var(--quiet); overflow-wrap: anywhere; } header b { color: var(--ink); }
p { margin: .4em 0; } .quiet { color: var(--quiet); font-size: .85em; } a { color: var(--c0); }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.tiny img { image-rendering: pixelated; }
figure { margin: 0; } figcaption { font-weight: 600; }

.now { margin: 1em 0; } .now p { margin: .3em 0; } .now a { margin-left: .6em; white-space: nowrap; }
.now code { white-space: nowrap; }
progress { width: 100%; height: 10px; accent-color: var(--c0); display: block; }
.verdict { background: var(--soft); border-left: 5px solid var(--warn); border-radius: 6px;
  padding: 14px 20px 16px; margin: 1.4em 0; }
.verdict.good { border-left-color: var(--good); }
.verdict h2 { font-size: .85em; font-weight: 500; color: var(--quiet); margin: 0; }
.headline { font-size: 1.35em; font-weight: 650; line-height: 1.3; margin: .1em 0 .5em; }
.verdict dl { grid-template-columns: max-content 1fr; margin: 0; } .verdict code { background: var(--paper); }

.training { display: flex; gap: 6px; overflow-x: auto; } .training img { width: 128px; flex: 0 0 auto; }
.strip { display: flex; gap: 14px; overflow-x: auto; align-items: flex-start; padding-bottom: 8px; }
.strip figure { flex: 0 0 auto; max-width: 340px; } .strip img { min-width: 120px; }
.previews { --name: 170px; --cell: 230px; }
.previews > input { position: absolute; opacity: 0; pointer-events: none; }
.bar { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: 8px 0; }
.choice { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-bottom: 6px; }
.choice .what { color: var(--quiet); font-size: .85em; min-width: 3.6em; }
.choice .each { display: contents; }
.choice label { border: 1px solid var(--line); border-radius: 6px; padding: 2px 10px; cursor: pointer;
  text-align: center; font-variant-numeric: tabular-nums; }
.choice label a { color: inherit; text-decoration: none; display: block; margin: -2px -10px;
  padding: 2px 10px; }
.choice label:hover { border-color: var(--c0); } .best { font-size: .8em; color: var(--good); }
.choice .best::before { content: "\\2605 "; } input:checked ~ .bar label .best { color: inherit; }
.previews { scroll-margin-top: 8px; } .prompt { scroll-margin-top: 110px; padding: 6px 0; }
.prompt h3 { margin: 0 0 4px; overflow-wrap: anywhere; font-weight: 500; font-size: .95em; }
.cells { display: grid; gap: 6px; grid-template-columns: repeat(var(--n), minmax(90px, var(--cell))); }
.shot { grid-column: var(--s); grid-row: var(--k); position: relative; }
.shot img { width: 100%; cursor: zoom-in; } .shot nav, .table .shot figcaption { display: none; }
.previews > input[name="step"]:not(#step-all):checked ~ .table .cells {
  grid-template-columns: repeat(auto-fill, minmax(min(46%, 190px), 1fr)); }
.previews > #step-all:not(:checked) ~ #image-all:not(:checked) ~ .table .cells {
  grid-template-columns: minmax(0, 420px); }
.previews > input[name="step"]:not(#step-all):checked ~ .table .shot { grid-area: auto; }
.previews > input[name="image"]:not(#image-all):checked ~ .table .shot { grid-row: auto; }
.previews > .table .shot:is(:target, .large) { position: fixed; inset: 0; z-index: 9; display: flex;
  flex-direction: column; align-items: center; justify-content: center; gap: 10px;
  background: var(--paper); padding: 12px; }
.shot:is(:target, .large) > a { max-width: 100%; }
.shot:is(:target, .large) img { width: min(94vw, 100vh - 120px); cursor: default; }
.shot:is(:target, .large) nav { display: flex; flex-wrap: wrap; gap: 6px 18px; justify-content: center; }
.shot nav span { flex-basis: 100%; text-align: center; }
.shot nav a { padding: 6px 10px; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 26px; }
.charts figure { display: flex; flex-direction: column; max-width: 560px; } .charts svg { margin-top: auto; }
figure p { color: var(--quiet); font-size: .85em; }
svg { width: 100%; height: auto; } svg text { font-size: 13px; fill: var(--quiet); paint-order: stroke;
  stroke: var(--paper); stroke-width: 3px; font-variant-numeric: tabular-nums; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
line.grid { stroke: var(--line); } line.axis { stroke: var(--quiet); }
line.limit { stroke: var(--flag); stroke-dasharray: 6 4; } svg text.limit { fill: var(--flag); }
rect.limit { fill: var(--flag); opacity: .09; }
line.mark { stroke: var(--quiet); stroke-dasharray: 2 3; }
polyline.faint { stroke: var(--quiet); stroke-width: 1; opacity: .35; }
.legend span { margin-right: 14px; } .legend span::before { content: ""; display: inline-block; width: 14px;
  height: 3px; margin-right: 6px; vertical-align: middle; background: currentColor; }
.legend .faint { color: var(--quiet); opacity: .6; }
.c0 { stroke: var(--c0); color: var(--c0); } .c1 { stroke: var(--c1); color: var(--c1); }
.c2 { stroke: var(--c2); color: var(--c2); } .c3 { stroke: var(--c3); color: var(--c3); }
.c4 { stroke: var(--c4); color: var(--c4); } .c5 { stroke: var(--c5); color: var(--c5); }
circle { fill: currentColor; } .flag { color: var(--flag); }

.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 500; font-size: .85em; white-space: nowrap; }
pre { background: var(--soft); padding: 12px 14px; border-radius: 6px; overflow-x: auto; font-size: .88em; }
code { background: var(--soft); padding: 1px 4px; border-radius: 3px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: fit-content(50%) 1fr; gap: 3px 18px; margin: .4em 0;
  font-size: .92em; }
dt { color: var(--quiet); overflow-wrap: anywhere; }
dd { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 1em; color: var(--quiet); }

@media (min-width: 1024px) {
  .prompt { display: grid; grid-template-columns: var(--name) 1fr; gap: 12px; }
  .prompt h3 { position: sticky; top: 100px; align-self: start; }
  .steps { display: grid; grid-template-columns: calc(var(--name) - 6px) 1fr; gap: 0 12px;
    grid-template-areas: "all each"; align-items: center; } .steps .what { display: none; }
  .steps > label { grid-area: all; } .steps .each { grid-area: each; display: grid; gap: 6px;
    grid-template-columns: repeat(var(--n), minmax(90px, var(--cell))); }
}
@media (max-width: 1023px) {
  .cells { overflow-x: auto; scroll-snap-type: x proximity; padding-bottom: 6px;
    grid-template-columns: repeat(var(--n), minmax(130px, 1fr)); }
  .shot { scroll-snap-align: start; } .table .shot figcaption { display: block; font-weight: 400;
    font-size: .8em; color: var(--quiet); } .table .shot:is(:target, .large) figcaption { display: none; }
}
@media (max-width: 640px) {
  main { padding: 16px 14px 48px; } .verdict { padding: 12px 14px; }
  .verdict dl { grid-template-columns: 1fr; }
  .verdict dd { margin-bottom: 6px; } svg text { font-size: 16px; }
  thead { display: none; } table, tbody { display: block; }
  tr { display: block; border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px;
    margin-bottom: 10px; }
  td { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1.6fr); border: 0; padding: 2px 0;
    overflow-wrap: anywhere; }
  td::before { content: attr(data-name); color: var(--quiet); font-size: .85em; }
}
@media print { .bar { position: static; } .choice { display: none; } }
"""
