"""Take the picture of the page from a running ``maskweave web``, after a click on Fill.

Usage: ``maskweave web --no-browser & python docs/page.py docs/page.jpg``; it needs Playwright and
Chromium. A third argument is the address, if not the usual one.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]


def main(output: Path, address: str = "http://127.0.0.1:7860") -> None:
    """Save it as JPEG: in 256 colours of a palette the eyes of the cat are brown."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.set_default_timeout(300_000)
        with page.expect_response(lambda response: "shown-mask" in response.url):
            page.goto(address)
        page.wait_for_timeout(5000)  # the editor does not tell when it has drawn it
        page.click("#fill")
        page.wait_for_selector("#before-after img")
        page.wait_for_timeout(5000)
        page.mouse.move(1199, 699)  # where no button changes its colour
        content = page.screenshot()
        browser.close()
    picture = Image.open(BytesIO(content)).convert("RGB")
    picture.save(output, quality=88, subsampling=0, optimize=True, progressive=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
