"""Take screenshots of the built site and of the doctor's report in headless Chromium: ``make docs-shots``.

Each page is taken in desktop and phone width, light and dark, into ``build/shots``. A console error, a request to
another host, or a page that scrolls sideways fails. Chromium is Debian's package; it is driven by its DevTools
protocol over a pipe.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

from vllm_adapters import LocalVLLM
from vllm_adapters.doctor import examine
from vllm_adapters.doctor.render.html import render_html

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
SHOTS = ROOT / "build" / "shots"
PAGES = {
    "home": "",
    "langchain": "langchain/",
    "guide": "structured-output/",
    "parameters": "parameters/",
    "support": "support/",
    "recipe": "recipes/run_an_agent_in_langchain/",
    "reference": "reference/langchain/",
    "troubleshooting": "troubleshooting/",
    "benchmarks": "benchmarks/",
    "faults": "faults/",
    "doctor-report": "doctor-report.html",
}
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
WIDE = """[...document.querySelectorAll("body *")].filter(e => {
    const right = e.getBoundingClientRect().right;
    for (let p = e; p; p = p.parentElement) {
        if (p !== document.body && getComputedStyle(p).overflowX !== "visible") return false;
    }
    return right > document.documentElement.clientWidth + 1;
}).slice(0, 3).map(e => e.tagName + "." + e.className)"""


class Browser:
    """A headless Chromium, driven by the DevTools protocol."""

    def __init__(self, profile: str) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            sys.exit("Chromium is not installed. On Debian and Ubuntu: apt install chromium")
        read_commands, self._commands = os.pipe()
        self._replies, write_replies = os.pipe()

        def connect() -> None:  # Chromium reads file descriptor 3, and writes to 4
            commands, replies = os.dup(read_commands), os.dup(write_replies)
            os.dup2(commands, 3)
            os.dup2(replies, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_replies)
        self._reader = os.fdopen(self._replies, "rb")
        self._last = 0
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.page(f"{domain}.enable")

    def send(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Send a command and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (reply := self._receive()).get("id") != self._last:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def page(self, method: str, **params: Any) -> Any:
        """Send a command to the page."""
        return self.send(method, self._session, **params)

    def wait_for(self, method: str) -> None:
        """Wait for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self.page("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._reader.read(1)) not in (b"\0", b""):
            text += byte
        if not text:
            raise RuntimeError("Chromium ended.")
        message: dict[str, Any] = json.loads(text)
        return message

    def close(self) -> None:
        """End Chromium."""
        self.send("Browser.close")
        self._process.wait(10)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def write_report() -> None:
    """Write the doctor's report of ``VLLM_BASE_URL``, or of a server without flags that is started here."""
    if address := os.environ.get("VLLM_BASE_URL"):
        report = examine(address)
    else:
        with LocalVLLM("tiny", bare=True) as server:
            report = examine(server.base_url)
    (SITE / "doctor-report.html").write_text(render_html(report), encoding="utf-8")


def take(browser: Browser, address: str, name: str, size: str, scheme: str) -> list[str]:
    """Take one screenshot and return what is wrong with the page."""
    width, height = SIZES[size]
    browser.page(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=size == "phone"
    )
    browser.page("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.events.clear()
    browser.page("Page.navigate", url=address + PAGES[name])
    browser.wait_for("Page.loadEventFired")
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    image = browser.page("Page.captureScreenshot", format="png")
    (SHOTS / f"{name}-{size}-{scheme}.png").write_bytes(base64.b64decode(image["data"]))
    problems = []
    for event in browser.events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            problems.append(f"exception: {params['exceptionDetails'].get('exception', {}).get('description')}")
        if method == "Runtime.consoleAPICalled" and params["type"] == "error":
            problems.append(f"console: {[one.get('value') for one in params['args']]}")
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            problems.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(
            (address, "data:", "blob:")
        ):
            problems.append(f"another host: {params['request']['url']}")
    if browser.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        problems.append(f"scrolls sideways: {browser.evaluate(WIDE)}")
    return [f"{name}, {size}, {scheme}: {problem}" for problem in problems]


def main() -> None:
    """Take all screenshots, and exit with what is wrong."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    write_report()
    with tempfile.TemporaryDirectory() as profile, serve(SITE) as address:
        browser = Browser(profile)
        problems = [
            problem
            for name, size, scheme in product(PAGES, SIZES, SCHEMES)
            for problem in take(browser, address, name, size, scheme)
        ]
        browser.close()
    print(f"{len(PAGES) * len(SIZES) * len(SCHEMES)} screenshots are in {SHOTS.relative_to(ROOT)}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
