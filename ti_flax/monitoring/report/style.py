"""The style sheet of a run's page, for light and dark screens."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --paper: #fff; --soft: #f3f4f6; --line: #d8dce2;
  --quiet: #5c6573; --flag: #b42318; --c0: #2563b8; --c1: #c2570c; --c2: #17803d; --c3: #8b3fb0;
  --c4: #b01e62; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #15181d; --soft: #1f242c;
  --line: #363d48; --quiet: #9aa4b2; --flag: #ff8a80; --c0: #7ab0f5; --c1: #f5a35c; --c2: #6fd08c;
  --c3: #cf9bea; --c4: #f58ab8; --c5: #6cc7dc; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 2.2em; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.3em; margin: 1.8em 0 .5em; }
h3 { font-size: 1em; margin: 1.2em 0 .3em; } header p { max-width: 75ch; } p { margin: .4em 0; }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.strip { display: flex; gap: 14px; overflow-x: auto; align-items: flex-start; padding-bottom: 8px; }
.strip figure { flex: 0 0 auto; max-width: 340px; } .strip img { min-width: 120px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 26px; }
figure { margin: 0; } figcaption { font-weight: 600; } figure p { color: var(--quiet); font-size: .85em; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--quiet); paint-order: stroke;
  stroke: var(--paper); stroke-width: 3px; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
line.grid { stroke: var(--line); }
line.limit { stroke: var(--flag); stroke-dasharray: 6 4; } text.limit { fill: var(--flag); }
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
code { background: var(--soft); padding: 1px 4px; border-radius: 3px; }
dl { display: grid; grid-template-columns: fit-content(50%) 1fr; gap: 3px 18px; margin: .4em 0;
  font-size: .92em; }
dt { color: var(--quiet); overflow-wrap: anywhere; }
dd { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 1em; color: var(--quiet); }
"""
