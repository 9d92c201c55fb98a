// SPDX-License-Identifier: MIT
// A lamp follows a button, by onoff: /sys/class/gpio, and epoll on the value.
const { Gpio } = require("onoff");

const lamp = new Gpio(27, "out");
const button = new Gpio(17, "in", "both");
let left = 2;
button.watch((error, value) => {
  if (error) throw error;
  lamp.writeSync(value);
  console.log(`button ${value} lamp ${lamp.readSync()}`);
  if (--left === 0) {
    button.unexport();
    lamp.unexport();
  }
});
console.log(`accessible ${Gpio.accessible}`);
