"""The style sheet of the HTML page: light and dark, and a telephone's width."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d1f21; --soft: #5d6268; --line: #d9dce0; --tint: #f2f4f6;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181a; --ink: #e6e7e8; --soft: #a3a9af; --line: #363a3f;
  --tint: #212427; --accent: #6cb8e6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { border-left: 4px solid var(--accent); padding-left: 1rem; font-size: 1.1rem; }
.note, figcaption, small { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
thead th[scope=colgroup] { text-align: center; border-bottom: 1px solid var(--line); }
tbody tr { border-top: 1px solid var(--line); }
tbody th { font-weight: 600; white-space: normal; min-width: 7rem; max-width: 14rem; overflow-wrap: anywhere; }
tr > :first-child { position: sticky; left: 0; background: var(--paper); }
.paper { background: var(--tint); color: var(--soft); }
.timings tbody tr:last-child { font-weight: 600; border-top: 2px solid var(--line); }
figure { margin: 1.5rem 0 0; }
figure h2 { margin-bottom: .5rem; }
img { display: block; width: auto; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { margin-top: .4rem; max-width: 46rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--tint); padding: 1rem; border-radius: 6px; font-size: .85rem; 
  line-height: 1.4; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: .5rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { 
  img { max-width: none; width: 640px; }
 main { padding-top: 1rem; } dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { .scroll { overflow: visible; } }
"""
