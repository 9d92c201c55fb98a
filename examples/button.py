# SPDX-License-Identifier: MIT
"""A program for a Raspberry Pi: a lamp at GPIO27 follows the button at GPIO17, another blinks at GPIO22."""

from signal import pause

from gpiozero import LED, Button

button = Button(17)
lamp = LED(27)
alive = LED(22)
alive.blink(0.15, 0.35)
lamp.source = button
pause()
