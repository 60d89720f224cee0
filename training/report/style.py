"""The style sheet of a report."""

from typing import Final

STYLE: Final = """
:root { --bad: #b3261e; --panel: #f6f7f9; --blue: #2f6fd0; --orange: #d9730d; --green: #1f8a4c; --purple: #8250c4;
  --grey: #b4bac4; --red: #d03434; --p0: #b3c2da; --p1: #4f86d9; --p2: #e09a1f }
@media (prefers-color-scheme: dark) {
  :root { --bad: #ff8a80; --panel: #1c2026; --blue: #6ea8ff; --orange: #ff9f4a; --green: #4fc784; --purple: #b794f6;
    --grey: #59616d; --red: #ff6b6b; --p0: #4b5b73; --p1: #6ea8ff; --p2: #ffbf47 }
}
body { max-width: 60rem } h2 { font-size: 1.25rem } h2 + p { margin-top: 0; max-width: 46rem }
.version { color: var(--faint); margin: .2rem 0 1rem; overflow-wrap: anywhere }
.verdict { border-left: .3rem solid var(--good); background: var(--panel); padding: .7rem 1rem; border-radius: .3rem }
.verdict.no { border-color: var(--bad) } .verdict strong { color: var(--good) } .verdict.no strong { color: var(--bad) }
.verdict ul { margin: .3rem 0 0; padding-left: 1.2rem } .verdict p { margin: 0 }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem 1.2rem; margin: 1.2rem 0 }
dt { color: var(--faint); font-size: .8rem } dd { margin: 0; overflow-wrap: anywhere }
.legend { margin: 0 0 .2rem; font-size: .8rem; color: var(--faint); display: flex; flex-wrap: wrap; gap: .1rem .9rem }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem; margin-right: .3rem;
  background: currentColor; vertical-align: -.05rem }
figure { flex: 1 1 20rem; min-width: 0 } figure:not(.row) { max-width: 29.5rem } figcaption { margin-top: .3rem }
figure.row svg { min-width: 50rem } .pictures > .wide { flex: 1 1 100%; min-width: 0 }
table { font-size: .875rem } td { vertical-align: top; overflow-wrap: anywhere }
td b { font-weight: normal; display: none }
td.n, th.n { text-align: right } td.n, td.when, th.n { white-space: nowrap }
@media (max-width: 42rem) {
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line) } tr:first-child { display: none }
  td { display: block; padding: 0; border: 0 } td.n { text-align: left } td b { display: inline; color: var(--faint) }
}
svg { display: block } svg text { font: 11px system-ui, sans-serif; fill: var(--faint) }
svg text.told { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px }
.grid { stroke: var(--line); stroke-width: 1 } .mark { stroke: var(--red); stroke-dasharray: 5 4; fill: none }
.even { stroke: var(--faint); stroke-dasharray: 2 4; fill: none }
.line { fill: none; stroke-width: 2; stroke-linejoin: round } .line.dash { stroke-dasharray: 6 4 }
.dots { fill: none; stroke-linecap: round; opacity: .8 }
.area { shape-rendering: crispEdges } .line, .dots { stroke: currentColor } rect, .area { fill: currentColor }
.blue { color: var(--blue) } .orange { color: var(--orange) } .green { color: var(--green) }
.purple { color: var(--purple) } .grey { color: var(--grey) } .red { color: var(--red) } .track { color: var(--line) }
.p0 { color: var(--p0) } .p1 { color: var(--p1) } .p2 { color: var(--p2) } .p3 { color: var(--red) }
"""
