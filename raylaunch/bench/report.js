"use strict";
// Tabs of a sweep, and one crosshair through all charts over time with the values under it.
const LEFT = 58, RIGHT = 12;
const buttons = [...document.querySelectorAll("nav button")];
const levels = [...document.querySelectorAll(".level")];

function choose(number) {
  buttons.forEach((button, at) => button.setAttribute("aria-selected", at === number));
  levels.forEach((level, at) => { level.hidden = at !== number; });
}
buttons.forEach((button, at) => {
  button.addEventListener("click", () => choose(at));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (at + step + buttons.length) % buttons.length;
    choose(next);
    buttons[next].focus();
  });
});

function paint(colour) { return colour.startsWith("#") ? colour : `var(--${colour})`; }

function show(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));
}

for (const level of levels) {
  const panels = [...level.querySelectorAll(".panel.time")].map((panel) => {
    const svg = panel.querySelector("svg");
    const hover = panel.querySelector("desc.hover");
    const legend = panel.querySelector(".legend");
    const data = hover ? JSON.parse(hover.textContent) : null;
    const spans = [];
    if (data && legend) {
      for (const one of data.series) {
        const item = document.createElement("span"), dot = document.createElement("i"), value = document.createElement("b");
        dot.style.background = paint(one.colour);
        item.append(dot, one.name, value);
        legend.append(item);
        spans.push(value);
      }
    }
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cross.setAttribute("class", "cross");
    cross.setAttribute("visibility", "hidden");
    svg.append(cross);
    return { svg, data, spans, cross, width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
  });
  const duration = Number(level.dataset.duration);

  function point(time) {
    for (const { data, spans, cross, width, height } of panels) {
      const x = LEFT + (width - LEFT - RIGHT) * time / duration;
      for (const [name, value] of [["x1", x], ["x2", x], ["y1", 22], ["y2", height - 20]]) cross.setAttribute(name, value);
      cross.setAttribute("visibility", "visible");
      if (!data || !data.t.length) continue;
      let at = 0;
      data.t.forEach((moment, number) => {
        const nearer = data.step ? moment <= time : Math.abs(moment - time) < Math.abs(data.t[at] - time);
        if (nearer) at = number;
      });
      spans.forEach((span, number) => { span.textContent = show(data.series[number].values[at]); });
    }
  }
  function leave() {
    for (const { spans, cross } of panels) {
      cross.setAttribute("visibility", "hidden");
      spans.forEach((span) => { span.textContent = ""; });
    }
  }
  for (const { svg, width } of panels) {
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * width / box.width;
      const time = duration * (x - LEFT) / (width - LEFT - RIGHT);
      if (time >= 0 && time <= duration) point(time); else leave();
    });
    svg.addEventListener("pointerleave", leave);
  }
}
if (buttons.length) choose(buttons.length - 1);
