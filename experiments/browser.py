"""Pages in headless Chromium, spoken with over a pipe: times of loading, key strokes, screenshots.

    python -m experiments.browser atlas.html --repeats 5
    python -m experiments.browser atlas.html --shots shots

The first says how long the page takes to open: each time in a new browser with an empty profile, from the start of the
navigation, by the browser's own clock. The second takes pictures at the widths of a phone, a laptop and a wide screen,
dark and printed, and says at which of them something is wider than the page.
"""

import base64
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
TIMES = """(() => {
  const entry = performance.getEntriesByType('navigation')[0];
  const paint = performance.getEntriesByType('paint').find(one => one.name === 'first-contentful-paint');
  return {parsed: entry.domContentLoadedEventEnd, loaded: entry.loadEventEnd, painted: paint ? paint.startTime : null};
})()"""
PAINTED = """new Promise(done => new PerformanceObserver(list => {
  if (list.getEntries().some(one => one.name === 'first-contentful-paint')) { done(); }
}).observe({type: 'paint', buffered: true}))"""
# The browser reads at file descriptor 3 and writes at 4. Not `preexec_fn`, which forks a process that may have threads.
AT_3_AND_4 = """
import os, sys
one, two = (os.dup2(int(old), 90 + index) for index, old in enumerate(sys.argv[1:3]))
os.dup2(one, 3)
os.dup2(two, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
# Name, width, dark; the height is that of the page.
SIZES = (("phone", 390, False), ("laptop", 1280, False), ("wide", 1920, False), ("dark", 1280, True))


class BrowserError(Exception):
    """No browser, or one that did not do what it was told."""


class Browser:
    """A headless Chromium with one page, in a profile of its own.

    Args:
        width, height: of the window, pixels.
        color: "light" or "dark", what the page is told that its reader likes.
    """

    def __init__(self, width: int = 1280, height: int = 900, color: str = "light"):
        found = next(filter(None, map(shutil.which, CHROMIUM)), None)
        if found is None:
            raise BrowserError(f"found none of {', '.join(CHROMIUM)}; install one.")
        self._profile = tempfile.mkdtemp()
        (theirs, self._out), (self._in, ours) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        flags += [f"--user-data-dir={self._profile}", f"--window-size={width},{height}"]
        command = [sys.executable, "-c", AT_3_AND_4, str(theirs), str(ours), found, *flags, "--remote-debugging-pipe"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [*command, "about:blank"], pass_fds=(theirs, ours), stdin=null, stdout=null, stderr=null
        )
        os.close(theirs)
        os.close(ours)
        self._rest, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        (page,) = [one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.send("Page.enable")
        self.send("Runtime.enable")
        self.send("Log.enable")
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": color}])
        self.resize(width, height)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol.

        Raises:
            BrowserError: it refuses, or has ended.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                if "error" in found:
                    raise BrowserError(f"{method}: {found['error']['message']}")
                return found["result"]
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 16)
            if not part:
                raise BrowserError("the browser has ended.")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def resize(self, width: int, height: int) -> None:
        """Sets the size of what is seen."""
        options = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **options)

    def open(self, page: Path) -> None:
        """Opens a file and waits until it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript.

        Raises:
            BrowserError: it threw.
        """
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(str(found["exceptionDetails"].get("exception", {}).get("description")))
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Presses "Tab", "Enter", "Space" or a character."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " ")}
        code, text = codes.get(key, (ord(key[0].upper()), key))
        name = " " if key == "Space" else key
        options = {"key": name, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.send("Input.dispatchKeyEvent", type="keyDown", **{k: v for k, v in options.items() if v != ""})
        self.send("Input.dispatchKeyEvent", type="keyUp", key=name, code=key, windowsVirtualKeyCode=code)

    def shot(self, file: Path, height: int | None = None) -> None:
        """A picture of the page from its top, whole or so high."""
        width = self.run("document.documentElement.clientWidth")
        whole = int(self.run("Math.ceil(document.documentElement.scrollHeight)"))
        clip = {"x": 0, "y": 0, "width": width, "height": min(whole, height or whole), "scale": 1}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, file: Path) -> None:
        """The page as it is printed, A4."""
        found = self.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        file.write_bytes(base64.b64decode(found["data"]))

    def problems(self) -> list[str]:
        """What the browser complained of since the page was opened: exceptions, and what its policy refused."""
        found = [e["params"] for e in self.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return [json.dumps(one)[:300] for one in found]


def times(page: Path, repeats: int) -> list[dict[str, float]]:
    """Milliseconds until a page is parsed, loaded and first painted, each time in a new browser."""
    found = []
    for _ in range(repeats):
        with Browser() as browser:
            browser.open(page)
            browser.run(PAINTED)
            found.append(browser.run(TIMES))
    return found


def wider(browser: Browser) -> Sequence[str]:
    """The elements that stick out of the page on the right, those in boxes that scroll left out."""
    return browser.run("""(() => {
      const width = document.documentElement.clientWidth, found = [];
      for (const one of document.querySelectorAll('body *')) {
        const box = one.getBoundingClientRect();
        if (box.width && box.right > width + 1 && !one.closest('.scroll')) {
          found.push(one.tagName + '.' + one.className);
        }
      }
      return found.slice(0, 5);
    })()""")


@dataclasses.dataclass(frozen=True)
class Config:
    """A page, how often it is opened, and where pictures of it go."""

    page: tyro.conf.Positional[Path]
    repeats: int = 5
    shots: Path | None = None


def main(config: Config) -> None:
    """Says the times; takes the pictures."""
    print(f"{config.page}: {config.page.stat().st_size / 1e6:.2f} MB")
    found = times(config.page, config.repeats)
    for name in ("parsed", "painted", "loaded"):
        values = sorted(one[name] for one in found)
        print(f"{name:>8}: median {statistics.median(values):.0f} ms, {values[0]:.0f} to {values[-1]:.0f}")
    if config.shots is None:
        return
    config.shots.mkdir(parents=True, exist_ok=True)
    for name, width, dark in SIZES:
        with Browser(width, color="dark" if dark else "light") as browser:
            browser.open(config.page)
            browser.shot(config.shots / f"{name}.png")
            print(f"{name}: too wide: {', '.join(wider(browser)) or 'nothing'}; {browser.problems() or 'no complaint'}")
            if name == "laptop":
                browser.pdf(config.shots / "printed.pdf")


if __name__ == "__main__":
    main(tyro.cli(Config))
