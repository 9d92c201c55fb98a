# SPDX-License-Identifier: MIT
"""A program on a simulated Raspberry Pi 5, its lines in a browser: press the button there, see the lamp.

    python demo_web.py [FOLDER]

Pictures of the page are written into FOLDER (build/demo-web).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

PROGRAM = Path(__file__).resolve().with_name("button.py")
CHROMIUM = "/usr/bin/chromium"


def said(text: str) -> None:
    print(f"  {text}", flush=True)


def press_and_see(page: Page, folder: Path) -> None:
    """Use the page as a person would."""
    page.wait_for_selector(".row")
    button = page.get_by_role("switch", name="Pull GPIO17", exact=True)
    lamp = page.locator(".row", has_text="GPIO27 (27)").locator(".level")
    expect(button).to_have_attribute("aria-checked", "true", timeout=10_000)  # the program's pull-up
    for pressed in (True, False, True):
        button.click()
        expect(button).to_have_attribute("aria-checked", "false" if pressed else "true")
        expect(lamp).to_have_text("1" if pressed else "0")
        page.wait_for_timeout(700)
    page.get_by_role("button", name="Only lines in use").click()
    page.wait_for_timeout(1500)
    said("pressed the button in the page: the program switched the lamp, and the page shows it")
    page.screenshot(path=folder / "web.png")
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Pause").click()
    wave = page.locator(".row", has_text="GPIO22 (22)").locator("canvas")
    wave.focus()
    for key in "pmp":
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "web-dark.png")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo-web")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["gpiovirt", "run", "--web", "--board", "pi5", "--", "python3", PROGRAM.name]
    print("$ gpiovirt run --web --board pi5 -- python3 button.py", flush=True)
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=PROGRAM.parent
    ) as program:
        try:
            assert program.stderr is not None
            url = next(line.strip() for line in program.stderr if line.startswith("http://"))
            said(f"the page is at {url.partition('#')[0]}")
            with sync_playwright() as playwright:
                arguments = ["--no-sandbox"] if os.getuid() == 0 else []
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
                page = browser.new_page(viewport={"width": 1100, "height": 560})
                page.goto(url)
                press_and_see(page, folder)
                browser.close()
        finally:
            program.kill()
    for picture in sorted(folder.glob("*.png")):
        said(str(picture))
    print("All as expected. Next, try: gpiovirt run --web --board pi5 -- python3 your_program.py")


if __name__ == "__main__":
    main()
