"use strict";
// Values at the pointer, under a finger, or by arrow keys; and lines that are shown or not.

const SVG = "http://www.w3.org/2000/svg";

function readSeries(group) {
  const pairs = group.dataset.says ? group.dataset.says.split("|") : [];
  return {
    group,
    name: group.dataset.name,
    spots: (group.dataset.at || "").split(" ").filter(Boolean).map((spot, index) => {
      const [x, y] = spot.split(",").map(Number);
      return { x, y, at: pairs[2 * index], says: pairs[2 * index + 1] };
    }),
  };
}

function line(...parts) {
  const made = document.createElement("p");
  made.append(...parts);
  return made;
}

function element(name, text, colour) {
  const made = document.createElement(name);
  made.textContent = text;
  if (colour) made.classList.add(colour);
  return made;
}

function watch(figure) {
  const svg = figure.querySelector(".plot > svg");
  const tip = figure.querySelector(".tip");
  const live = figure.querySelector("[role=status]");
  const cursor = svg.querySelector(".cursor");
  const all = [...svg.querySelectorAll("g.series[data-at]")].map(readSeries);
  const shown = () => all.filter((one) => !one.group.classList.contains("off"));
  const places = () =>
    [...new Set(shown().flatMap((one) => one.spots.map((spot) => spot.x)))].sort((a, b) => a - b);
  let at = null;

  function hide() {
    at = null;
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
    svg.querySelectorAll(".spot").forEach((spot) => spot.remove());
  }

  function show(x, aloud) {
    hide();
    const found = shown()
      .map((one) => ({ one, spot: one.spots.find((spot) => spot.x === x) }))
      .filter(({ spot }) => spot);
    if (!found.length) return;
    at = x;
    const where = `${svg.dataset.x} ${found[0].spot.at}`;
    tip.replaceChildren(line(where));
    for (const { one, spot } of found) {
      const colour = [...one.group.classList].find((name) => /^s\d$/.test(name));
      tip.append(line(element("i", "", colour), element("bdi", one.name), element("b", spot.says)));
      const dot = document.createElementNS(SVG, "circle");
      for (const [key, value] of [["cx", x], ["cy", spot.y], ["r", 4.5], ["class", `spot ${colour}`]])
        dot.setAttribute(key, value);
      svg.append(dot);
    }
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    tip.hidden = false;
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const right = x * scale + 14;
    const fits = right + tip.offsetWidth <= svg.clientWidth;
    const below = found.every(({ spot }) => spot.y < svg.viewBox.baseVal.height / 2);
    tip.style.top = below ? `${svg.clientHeight - 44 * scale - tip.offsetHeight}px` : "0";
    tip.style.left = `${fits ? right : Math.max(0, x * scale - 14 - tip.offsetWidth)}px`;
    if (aloud) {
      const said = found.map(({ one, spot }) => `${one.name} ${spot.says}`);
      live.textContent = `${where}: ${said.join(", ")}`;
    }
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const known = places();
    return known.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a), known[0]);
  }

  svg.addEventListener("pointermove", (event) => show(nearest(event), false));
  svg.addEventListener("pointerdown", (event) => show(nearest(event), false));
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const known = places();
    const last = known.length - 1;
    const now = known.indexOf(at);
    const next = {
      ArrowRight: Math.min(last, now + 1),
      ArrowLeft: now < 0 ? last : Math.max(0, now - 1),
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined || last < 0) return;
    event.preventDefault();
    show(known[next], true);
  });
}

document.querySelectorAll("figure.chart").forEach(watch);
for (const button of document.querySelectorAll("button[data-toggle]")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    const number = button.dataset.toggle;
    document.querySelectorAll(`button[data-toggle="${number}"]`).forEach((one) => {
      one.setAttribute("aria-pressed", on);
    });
    document.querySelectorAll(`.charts g[data-series="${number}"]`).forEach((one) => {
      one.classList.toggle("off", !on);
    });
  });
}
