"""Chromium without a window, by its DevTools protocol over two pipes.

Chromium reads commands from descriptor 3 and writes answers and events to
descriptor 4, each a JSON text that ends in a zero byte, so nothing has to be
installed beside the browser itself.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

BINARY = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)
# Each is needed in a container: no sandbox of its own, no small /dev/shm.
_ARGUMENTS = (
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-extensions",
  "--no-first-run",
  "--remote-debugging-pipe",
)
_DRAWN = "document.documentElement.dataset.drawn === 'yes'"


class Browser:
  """One browser with one page. Use as a context manager."""

  def __init__(self):
    self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    there, self._out = os.pipe()
    self._in, back = os.pipe()
    self._process = subprocess.Popen(
      [
        *("bash", "-c", f'exec "$@" 3<&{there} 4>&{back}', "chromium"),
        *(BINARY, *_ARGUMENTS, f"--user-data-dir={self._profile.name}"),
        "about:blank",
      ],
      pass_fds=(there, back),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(there)
    os.close(back)
    self._number = 0
    self._session = None
    self._buffer = b""
    self.events = []
    targets = self.call("Target.getTargets")["targetInfos"]
    target = next(t["targetId"] for t in targets if t["type"] == "page")
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._session = None
    self.call("Browser.close")
    self._process.wait(20)
    os.close(self._in)
    os.close(self._out)
    self._profile.cleanup()

  def call(self, method, timeout=60, **params):
    """Sends a command and returns its result; events are kept meanwhile."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._out, json.dumps(message).encode() + b"\0")
    end = time.monotonic() + timeout
    while True:
      answer = self._read(end)
      if answer.get("id") == self._number:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]
      self.events.append(answer)

  def _read(self, end):
    while b"\0" not in self._buffer:
      left = end - time.monotonic()
      if left <= 0 or not select.select([self._in], [], [], left)[0]:
        raise TimeoutError("the browser does not answer")
      part = os.read(self._in, 1 << 20)
      if not part:
        raise RuntimeError("the browser has ended")
      self._buffer += part
    message, self._buffer = self._buffer.split(b"\0", 1)
    return json.loads(message)

  def run(self, script):
    """Value of a JavaScript expression; a promise is waited for."""
    result = self.call(
      "Runtime.evaluate",
      expression=script,
      awaitPromise=True,
      returnByValue=True,
    )
    if "exceptionDetails" in result:
      raise RuntimeError(json.dumps(result["exceptionDetails"], indent=1))
    return result["result"].get("value")

  def until(self, script, timeout=30):
    """Waits until an expression is true; returns its value."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
      # A page that is just being left answers with an error.
      with contextlib.suppress(RuntimeError):
        if value := self.run(script):
          return value
        self.run("new Promise((done) => setTimeout(done, 20))")
    raise TimeoutError(f"never true: {script}")

  def open(self, path, width=1280, height=900, mobile=False, media=()):
    """Opens a file and waits until it has drawn all its figures.

    Args:
      path: The file.
      width: Of the window, in CSS pixels; so is `height`.
      mobile: A touch screen.
      media: (feature, value) pairs, such as ("prefers-color-scheme", "dark").
    """
    self.events.clear()
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=mobile,
    )
    self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)
    features = [{"name": name, "value": value} for name, value in media]
    self.call("Emulation.setEmulatedMedia", features=features)
    self.call("Page.navigate", url=f"file://{path}")
    self.until(_DRAWN)

  def reload(self):
    """Loads the page again."""
    self.run("window.isOld = true")
    self.call("Page.reload")
    self.until(f"!window.isOld && {_DRAWN}")

  def problems(self):
    """Errors and warnings of the console, uncaught exceptions, requests."""
    self.run("0")  # Collects what is on its way.
    found = []
    for event in self.events:
      method, params = event.get("method"), event.get("params", {})
      if method == "Runtime.exceptionThrown":
        found.append(json.dumps(params["exceptionDetails"]))
      elif method == "Runtime.consoleAPICalled":
        found.append(json.dumps(params["args"]))
      elif method == "Log.entryAdded":
        found.append(params["entry"]["text"])
      elif method == "Network.requestWillBeSent":
        url = params["request"]["url"]
        if not url.startswith(("file:", "data:", "blob:", "about:")):
          found.append(url)
    return found

  def mouse(self, kind, x, y, **params):
    """Sends mousePressed, mouseReleased or mouseMoved at a place in view."""
    self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **params)

  def screenshot(self, path, full=True):
    """Writes a PNG of the page."""
    data = self.call("Page.captureScreenshot", captureBeyondViewport=full)[
      "data"
    ]
    with open(path, "wb") as file:
      file.write(base64.b64decode(data))

  def pdf(self, path):
    """Prints the page into a PDF file."""
    data = self.call("Page.printToPDF", printBackground=True)["data"]
    with open(path, "wb") as file:
      file.write(base64.b64decode(data))
