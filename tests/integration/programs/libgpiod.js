// SPDX-License-Identifier: MIT
// One line is driven and another, wired to it, read, by node-libgpiod.
const gpiod = require("node-libgpiod");

const chip = new gpiod.Chip(0);
const output = new gpiod.Line(chip, 0);
const input = new gpiod.Line(chip, 1);
output.requestOutputMode("node");
input.requestInputMode("node");
const seen = [1, 0, 1].map((level) => {
  output.setValue(level);
  return input.getValue();
});
console.log(chip.label, chip.numberOfLines, seen.join(" "));
output.release();
input.release();
