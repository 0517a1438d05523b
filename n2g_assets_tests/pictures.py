"""Makes the pictures of ``docs/explorer.md`` anew, from the published demo of a home.

python -m n2g_assets_tests.pictures    # of the home of the environment; Chromium and the demo must be there
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from n2g_assets.core.home import Home
from n2g_assets_tests.browser import chromium, served

FOLDER = Path(__file__).parents[1] / "docs" / "explorer"
UNIT, OTHER = "demo/7/372", "demo/7/453"
SENTENCE = "It was only a dream, and merely the first of many: she had just one night left."
SHOWN: Mapping[str, tuple[str, int]] = {
    "studies": ("/", 620),
    "search": ("/search?q=only", 600),
    "unit": (f"/study/{UNIT}", 900),
    "try": (f"/study/{UNIT}/try?text={quote(SENTENCE)}", 560),
    "compare": (f"/compare?a={UNIT}&b={OTHER}&rules=5", 820),
}
"""By the name of a picture its address and its height."""
COLOURS, MOST_BYTES = 64, 60_000


def main() -> None:
    """Writes every picture."""
    FOLDER.mkdir(exist_ok=True)
    with served(Home.from_environment()) as site, chromium() as browser:
        for name, (path, height) in SHOWN.items():
            page = browser.new_page(viewport={"width": 1240, "height": height}, color_scheme="light")
            response = page.goto(site + path)
            assert response.status == 200, page.locator("main").inner_text()
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            file = FOLDER / f"{name}.png"
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
            print(f"{file}: {file.stat().st_size:,} bytes")
            assert file.stat().st_size <= MOST_BYTES
            page.close()


if __name__ == "__main__":
    main()
