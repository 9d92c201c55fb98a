// SPDX-License-Identifier: MIT
// A board's header as a picture: two rows of pins, with the levels of the lines that they are.
const SVG = "http://www.w3.org/2000/svg";
const STEP = 34, TOP = 84;
const pins = [];

function make(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function headerPicture(header, label) {
  const figure = document.createElement("div");
  figure.className = "header";
  const columns = Math.ceil(header.pins.length / 2);
  const svg = make("svg", {
    viewBox: `0 0 ${columns * STEP + 20} ${2 * TOP + 60}`, role: "img", "aria-label": label,
  });
  svg.append(make("rect", { class: "body", x: 4, y: TOP, width: columns * STEP + 12, height: 60, rx: 6 }));
  header.pins.forEach((pin, number) => {
    const x = 10 + STEP * (number >> 1) + STEP / 2, isLower = number % 2 === 0;
    const y = TOP + (isLower ? 44 : 16);
    const circle = make("circle", { class: pin.chip ? "pin" : "pin other", cx: x, cy: y, r: 9 });
    const title = make("title", {}, `${number + 1}: ${pin.name}`);
    circle.append(title);
    const nameY = isLower ? TOP + 66 : TOP - 6;
    const turn = `rotate(${isLower ? 60 : -60} ${x} ${nameY})`;
    svg.append(circle, make("text", { x, y: nameY, transform: turn }, pin.name.slice(0, 14)));
    if (pin.chip) pins.push({ key: `${pin.chip}#${pin.offset}`, circle, title, text: `${number + 1}: ${pin.name}` });
  });
  figure.append(svg);
  return figure;
}

export function paintPins(levelOf) {
  for (const pin of pins) {
    const level = levelOf(pin.key);
    const kind = level === 1 ? "pin high" : level === 0 ? "pin low" : "pin";
    if (pin.circle.getAttribute("class") === kind) continue;
    pin.circle.setAttribute("class", kind);
    pin.title.textContent = `${pin.text} = ${level ?? "?"}`;
  }
}
