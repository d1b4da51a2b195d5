"""The style of the documentation page: one sheet, no font, no image, nothing from elsewhere.

Colors keep a contrast of at least 4.5 to 1 (WCAG 2.2 §1.4.3) in both schemes.
"""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1b2730; --soft: #51606c; --line: #dbe2e7; --panel: #f4f7f8;
  --link: #0a5a6e; --mark: #0a5a6e; --get: #0b6b3a; --post: #8a3d0a; --needed: #a3232c;
  --screen: #10262f; --screen-text: #dfeaee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10181d; --text: #dde6eb; --soft: #9cabb5; --line: #2b3942; --panel: #18232a;
    --link: #6cc6da; --mark: #6cc6da; --get: #6fce98; --post: #eba874; --needed: #f29a9f;
    --screen: #0a1115; --screen-text: #d3e0e6;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif;
}
a { color: var(--link); text-underline-offset: .15em; }
a:focus-visible, pre:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
code, pre { font-family: ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { font-size: .875em; overflow-wrap: anywhere; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 1rem; padding: .5rem 1rem; background: var(--page); z-index: 1; }
header { background: #0c3b49; color: #ffffff; padding: 2.25rem 2rem 2rem; }
header h1 { margin: 0 0 .35rem; font-size: 2rem; line-height: 1.2; letter-spacing: -.01em; }
header p { margin: 0; color: #cfe3e9; }
header a { color: #ffffff; }
.columns { display: grid; grid-template-columns: 17rem minmax(0, 1fr); max-width: 80rem; margin: 0 auto; }
nav {
  position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto;
  padding: 1.75rem 1rem 2rem 2rem; font-size: .9rem; border-right: 1px solid var(--line);
}
nav h2 {
  margin: 1.1rem 0 .3rem; font-size: .75rem; letter-spacing: .07em; text-transform: uppercase; color: var(--soft);
}
nav h2:first-child { margin-top: 0; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li { margin: 0; }
nav li a { display: block; padding: .18rem 0; color: var(--text); text-decoration: none; }
nav li a:hover { color: var(--link); text-decoration: underline; }
main { padding: 1.75rem 2rem 5rem 2.5rem; min-width: 0; }
main h2 {
  margin: 3rem 0 .5rem; padding-bottom: .4rem; font-size: 1.5rem; border-bottom: 2px solid var(--mark);
}
#authenticate h2 { margin-top: 0; }
article { margin: 1.75rem 0 2.5rem; border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
article > .head { padding: 1rem 1.25rem .9rem; background: var(--panel); border-bottom: 1px solid var(--line); }
article > .body { padding: .25rem 1.25rem 1.25rem; }
article h3 { margin: 0 0 .45rem; font-size: 1.15rem; line-height: 1.3; }
article h4 {
  margin: 1.25rem 0 .4rem; font-size: .78rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft);
}
.address { margin: 0; display: flex; flex-wrap: wrap; gap: .3rem .6rem; align-items: center; }
.address code { font-size: .95rem; font-weight: 600; }
.method {
  font: 700 .75rem/1 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; letter-spacing: .04em;
  padding: .3rem .5rem; border: 1.5px solid currentColor; border-radius: .3rem; color: var(--post);
}
.method.get { color: var(--get); }
.needs { margin: .55rem 0 0; font-size: .9rem; color: var(--soft); }
.needs code { color: var(--text); font-weight: 600; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .42rem .9rem .42rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .82rem; white-space: nowrap; }
td:first-child code { white-space: nowrap; }
td:last-child { width: 50%; }
.of-2 td:first-child { width: 6rem; }
.of-2 td:last-child { width: auto; }
.wide + .wide { margin-top: 1.75rem; }
tr:last-child td { border-bottom: 0; }
.needed { color: var(--needed); font-weight: 600; white-space: nowrap; }
.free { color: var(--soft); white-space: nowrap; }
.or { margin: .5rem 0; color: var(--soft); font-style: italic; }
.codes { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .35rem; }
.codes a {
  display: block; padding: .1rem .55rem; border: 1px solid var(--line); border-radius: 1rem; font-size: .85rem;
  text-decoration: none;
}
.codes a:hover { border-color: var(--mark); }
pre {
  margin: .4rem 0 0; padding: .85rem 1rem; border-radius: .4rem; overflow-x: auto;
  background: var(--screen); color: var(--screen-text); font-size: .84rem; line-height: 1.5;
}
pre code { font-size: inherit; overflow-wrap: normal; }
@media (max-width: 60rem) {
  .columns { display: block; }
  nav { position: static; max-height: none; padding: 1.25rem; border-right: 0; border-bottom: 1px solid var(--line); }
  nav ul { display: flex; flex-wrap: wrap; gap: 0 1.1rem; }
  main { padding: 1.25rem 1.25rem 3rem; }
  header { padding: 1.5rem 1.25rem; }
  td:last-child { width: auto; }
}
@media print {
  nav, .skip { display: none; }
  .columns { display: block; }
  article { break-inside: avoid; }
}
"""
"""Permitted by its hash in the page's policy; every byte counts."""
