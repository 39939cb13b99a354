"""The style sheet and the script of a run's page: light and dark, for a phone and a desk, nothing from outside."""

import re

from bert_jax.tools.report.goodput import PARTS

# name: in the light, in the dark
COLORS = {
  "bg": ("#f7f7f5", "#131619"),
  "card": ("#fff", "#1b1f23"),
  "ink": ("#1d2126", "#e6e8ea"),
  "soft": ("#626a73", "#9aa2ab"),
  "line": ("#e4e4e0", "#31373d"),
  "train": ("#7fa8d1", "#5a86b8"),
  "eval": ("#17508f", "#a8d0fa"),
  "limit": ("#c0392b", "#ff8577"),
  "mark": ("#b3a9bd", "#6e6380"),
  "hit": ("#eaf1f8", "#24303c"),
  "useful": ("#3b8f62", "#4fae7c"),
  "lost": ("#d0463f", "#e8645c"),
  "starting": ("#e9a23b", "#e3a648"),
  "data_wait": ("#7c6bc4", "#9c8be6"),
  "evaluation": ("#3f9cc4", "#58b4da"),
  "checkpoint": ("#8c6f50", "#b08f6c"),
  "down": ("#b4b9be", "#59616a"),
}
_colors = lambda dark: "".join(f" --{name}: {both[dark]};" for name, both in COLORS.items())

CHART_STYLE = """
.chart text { fill: var(--ink); font: 11px system-ui, sans-serif; }
.chart .title { font-size: 13px; font-weight: 600; }
.chart .tick { fill: var(--soft); }
.chart polyline { fill: none; stroke-width: 1.4; stroke-linejoin: round; }
.chart .eval { stroke-width: 2; }
.chart line { stroke-width: 1; }
.chart .grid { stroke: var(--line); } .chart .axis { stroke: var(--soft); }
.chart .mark { stroke: var(--mark); stroke-dasharray: 2 2; }
.chart .train { stroke: var(--train); } .chart .eval { stroke: var(--eval); }
.chart circle.eval { fill: var(--eval); } .chart circle.train { fill: var(--train); }
.chart .limit { stroke: var(--limit); stroke-dasharray: 5 3; stroke-width: 1.4; }
.chart .good { stroke: var(--useful); stroke-width: 2; }
.chart .lost { stroke-width: 2; stroke: var(--lost); } .chart circle.lost { fill: var(--lost); }
"""
# The same for a picture of its own, which is always light; not every program that draws one knows var().
PICTURE_STYLE = re.sub(r"var\(--(\w+)\)", lambda name: COLORS[name[1]][0], CHART_STYLE)

STYLE = (
  f"""
:root {{ color-scheme: light dark;{_colors(False)} }}
@media (prefers-color-scheme: dark) {{ :root {{{_colors(True)} }} }}"""
  + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 22px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 10px; }
p { margin: 4px 0; }
.soft, small { color: var(--soft); }
.cards, .charts, .keys { display: grid; gap: 12px; }
.cards { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin-top: 16px; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.keys { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 0 24px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; min-width: 0; }
.cards b { display: block; font-size: 20px; font-weight: 600; line-height: 1.3; }
.cards small { display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
tr:last-child td { border-bottom: 0; }
.right { text-align: right; }
.stack td { padding-right: 14px; }
.stack td[data-name="began"], .stack td[data-name="time"] { white-space: nowrap; }
.stack .said td { color: var(--soft); overflow-wrap: anywhere; padding-top: 0; }
.stack tr:has(+ .said) td { border-bottom: 0; }
@media (max-width: 720px) {
  .stack, .stack tbody { display: block; } .stack .head { display: none; }
  .stack tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 12px; padding: 8px 0;
    border-bottom: 1px solid var(--line); }
  .stack tr:last-child, .stack tr:has(+ .said) { border-bottom: 0; }
  .stack td { border: 0; padding: 1px 0; } .stack td:empty { display: none; } .stack .said td { grid-column: 1 / -1; }
  .stack td[data-name]::before { content: attr(data-name) " "; color: var(--soft); font-size: 13px; }
  .stack td[data-name="began"], .stack td[data-name="time"],
  .stack td[data-name="what"], .stack td[data-name="ended"] { grid-column: 1 / -1; }
}
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 8px; }
.bar { display: flex; height: 26px; border-radius: 5px; overflow: hidden; margin: 8px 0 12px; }
.two { display: grid; gap: 12px 28px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
.strip { display: block; width: 100%; height: 74px; border-radius: 5px; }
.flags { position: relative; height: 20px; font-size: 12px; color: var(--soft); }
.flags span { position: absolute; transform: translateX(-50%); border-bottom: 2px solid var(--lost);
  padding: 0 3px; white-space: nowrap; }
.ends { display: flex; justify-content: space-between; font-size: 12px; color: var(--soft); }
.setting { padding: 6px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.setting small { display: block; line-height: 1.35; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
summary { cursor: pointer; padding: 8px 0; }
.sample { margin: 0 0 4px; font-size: 16px; }
mark { background: var(--hit); color: inherit; border: 1px solid var(--train); border-radius: 4px;
  padding: 0 6px; font-size: 13px; }
.guesses { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; padding: 3px 0; }
.hit { background: var(--hit); border-radius: 4px; padding: 0 4px; font-weight: 600; }
.chart { display: block; width: 100%; height: auto; }
.chart .hover { stroke: var(--soft); } .chart.told .legend { visibility: hidden; }
"""
  + CHART_STYLE
  + "".join(f".part-{part} {{ fill: var(--{part}); background: var(--{part}); }}\n" for part in PARTS)
)

# Under the pointer: a line, and in the place of the title the values there. The page is whole without it.
SCRIPT = """
document.querySelectorAll("svg.chart").forEach(svg => {
  const list = name => svg.dataset[name].split(" ").map(Number);
  const [left, right, top, bottom] = list("plot"), [x0, x1] = list("x"), [y0, y1] = list("y");
  const lines = [...svg.querySelectorAll("polyline")].map(line => ({ name: line.dataset.name,
    points: line.getAttribute("points").split(" ").map(point => point.split(",").map(Number)) }));
  const title = svg.querySelector(".title"), text = title.textContent;
  const make = name => svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  const rule = make("line");
  rule.setAttribute("class", "hover"); rule.setAttribute("y1", top);
  rule.setAttribute("y2", bottom); rule.style.display = "none";
  const value = y => {
    const linear = y0 + (bottom - y) / (bottom - top) * (y1 - y0);
    const real = svg.dataset.log == "1" ? 10 ** linear : linear;
    if (svg.dataset.unit == "%") return (100 * real).toFixed(1) + "%";
    return Number(real.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
  };
  const show = event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    if (x < left || x > right) return hide();
    const near = {};
    lines.forEach(line => line.points.forEach(point => {
      const away = Math.abs(point[0] - x);
      if (away < 12 && !(near[line.name]?.away <= away)) near[line.name] = { away, point };
    }));
    const names = Object.keys(near);
    if (!names.length) return hide();
    const at = near[names[0]].point[0], step = x0 + (at - left) / (right - left) * (x1 - x0);
    const grain = 10 ** Math.max(0, Math.floor(Math.log10((x1 - x0) / 1000)));  // as fine as the drawing
    const where = svg.dataset.time ? (step / 60).toFixed(1) + " min"
      : (Math.round(step / grain) * grain).toLocaleString("en");
    const told = name => (names.length > 1 ? name + " " : "") + value(near[name].point[1]);
    title.textContent = where + ": " + names.map(told).join(", ");
    svg.classList.add("told"); rule.setAttribute("x1", at); rule.setAttribute("x2", at); rule.style.display = "";
  };
  const hide = () => { title.textContent = text; rule.style.display = "none"; svg.classList.remove("told"); };
  svg.addEventListener("pointermove", show); svg.addEventListener("pointerleave", hide);
});
"""


def document(title: str, body: str, made: str, more_style: str = "") -> str:
  """A page of HTML that needs nothing else; its last line says how it was made."""
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}{more_style}</style>
</head>
<body>
<main>
{body}
<p class="soft" style="margin-top: 36px">Made {made}</p>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
