"""A real browser for the tests of pages, driven with the standard library alone."""

import json
import socket
import subprocess
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen


class Browser:
    """A headless Chromium of a given size, driven through chromedriver's HTTP interface."""

    FLAGS = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    )  # fmt: skip

    def __init__(self, driver: str, binary: str, profile: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._at = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._process = subprocess.Popen(
            [driver, f"--port={self._at.rpartition(':')[2]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        options = {"args": [*self.FLAGS, f"--user-data-dir={profile}"], "binary": binary}
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        try:
            self._wait()
            self._session = ""
            found = self._call("/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{found['sessionId']}"
        except BaseException:
            self._stop()
            raise

    def _wait(self) -> None:
        for _ in range(300):
            try:
                with urlopen(f"{self._at}/status", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise OSError("chromedriver does not answer")

    def _call(self, path, body):
        request = Request(self._at + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            with error:
                raise OSError(error.read().decode()[:300]) from None

    def devtools(self, command, **parameters):
        return self._call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call(f"{self._session}/url", {"url": file.as_uri()})

    def run(self, script):
        return self._call(f"{self._session}/execute/sync", {"script": script, "args": []})

    def messages(self):
        return [entry["message"] for entry in self._call(f"{self._session}/se/log", {"type": "browser"})]

    def move(self, x, y):
        self.devtools("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def close(self) -> None:
        try:
            with urlopen(Request(self._at + self._session, method="DELETE"), timeout=20):
                pass
        finally:
            self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
