"""Visit every page of the built site in headless Chromium, wide, narrow and dark.

Usage: ``python .ci/visit_site.py docs/_build/html [PAGE ...]``; needs Chromium and its driver (on Debian: ``apt-get
install chromium chromium-driver``) and selenium. The site is served on a free local port. The script fails, with a
line for each, on errors in the console, pictures that do not load, links to pages or places of the site that are not
there, and pages that are wider than their window. Screenshots go to ``screenshots`` beside the site.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urlsplit

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

#: Pages that are kept as pictures in every look; all pages are visited.
SHOWN = (
    "index.html",
    "choosing.html",
    "guide/index.html",
    "guide/limits.html",
    "capabilities.html",
    "results.html",
    "evidence/README.html",
    "examples/index.html",
    "examples/plot_start.html",
    "examples/plot_experts.html",
    "api/index.html",
    "api/generated/tabmtl.MMoE.html",
)
#: Width of the window, and the theme.
LOOKS = {"wide": (1400, "light"), "narrow": (420, "light"), "dark": (1400, "dark")}

#: What a page holds, asked inside it.
FACTS = """
return {
  links: [...document.querySelectorAll('a[href]')].map(a => a.href),
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  missing: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
  overflow: document.documentElement.scrollWidth - window.innerWidth,
}
"""
#: Pictures that wait until they are in view would not be looked at.
EAGER = """
const done = arguments[0];
const images = [...document.images];
images.forEach(i => { i.loading = 'eager'; });
Promise.all(images.map(i => i.complete || new Promise(r => { i.onload = i.onerror = r; }))).then(() => done());
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serve files without a line for each."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@dataclass
class Visit:
    """What was found on the pages so far."""

    folder: Path
    origin: str
    problems: list[str] = field(default_factory=list)
    places: dict[str, set[str]] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)

    def look_at(self, driver: Chrome, page: str) -> None:
        """Open a page, and note its problems, its places and its links."""
        driver.get(f"{self.origin}/{page}")
        driver.execute_async_script(EAGER)
        facts = driver.execute_script(FACTS)
        for entry in driver.get_log("browser"):
            # browsers ask for the icon, which the site does not name
            if entry["level"] == "SEVERE" and "/favicon.ico" not in entry["message"]:
                self.problems.append(f"{page}: console: {entry['message']}")
        self.problems += [f"{page}: picture does not load: {source}" for source in facts["missing"]]
        if facts["overflow"] > 1:
            self.problems.append(f"{page}: {facts['overflow']} pixels wider than the window")
        self.places[page] = set(facts["ids"])
        self.links += [(page, link) for link in facts["links"] if link.startswith(self.origin)]

    def dead_links(self) -> Iterator[str]:
        """Yield a line for every link to a page or place of the site that is not there."""
        for page, link in sorted(set(self.links)):
            target, place = urldefrag(link)
            path = unquote(urlsplit(target).path).lstrip("/") or "index.html"
            path += "index.html" if path.endswith("/") else ""
            if not (self.folder / path).is_file():
                yield f"{page}: dead link to {path}"
            elif place and path in self.places and unquote(place) not in self.places[path]:
                yield f"{page}: dead link to {path}#{place}"


def open_browser(width: int, theme: str) -> Chrome:
    """Open a browser whose console can be read."""
    from selenium.webdriver import Chrome, ChromeOptions

    options = ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},1000",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options)
    driver.set_script_timeout(60)
    # chromium's window has a least width, its metrics have none
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    return driver


def visit_site(folder: Path, only: list[str]) -> list[str]:
    """Visit the site, and return its problems."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = (file.relative_to(folder).as_posix() for file in folder.rglob("*.html"))
    pages = only or sorted(page for page in found if not page.startswith("_"))  # those are templates of the theme
    visit = Visit(folder, f"http://127.0.0.1:{server.server_port}")
    pictures = folder.parent / "screenshots"
    pictures.mkdir(exist_ok=True)
    for look, (width, theme) in LOOKS.items():
        driver = open_browser(width, theme)
        try:
            for page in pages if look == "wide" else [page for page in pages if page in SHOWN]:
                visit.look_at(driver, page)
                if page in SHOWN:
                    driver.save_screenshot(pictures / f"{page.replace('/', '_').removesuffix('.html')}-{look}.png")
        finally:
            driver.quit()
    server.shutdown()
    print(f"{len(pages)} pages visited, {len(visit.links)} links of the site followed, screenshots in {pictures}")
    return [*dict.fromkeys(visit.problems), *visit.dead_links()]


if __name__ == "__main__":
    found = visit_site(Path(sys.argv[1]), sys.argv[2:])
    print("\n".join(found) or "nothing is wrong")
    sys.exit(bool(found))
