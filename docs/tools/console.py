#!/usr/bin/env python3
"""The picture of the console in the documentation: `python docs/tools/console.py`.

A server is filled, asked and broken a little; a headless Chromium opens its console and takes the
picture. Another width can be looked at: `python docs/tools/console.py 390 narrow.png`.
"""

from __future__ import annotations

import base64
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import httpx
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from llm_config_mock_server import MockServer, error, reset

PICTURE = Path(__file__).parents[1] / "images" / "console.png"
WIDTH = 1280  # pixels
HEIGHT = 1000
PATIENCE = 20.0  # seconds for the page to show the last request
ITEM = "/api/v1/configs/app%2Fllm/model"


def fill(server: MockServer) -> None:
    """Write a few entries."""
    server.put("app/llm", "model", "gpt-4", env="production")
    server.put("app/llm", "temperature", 0.7, env="base")
    server.put("app/llm", "limits", {"max_tokens": 4096, "timeout_seconds": 30}, env="base")
    server.put("app/llm", "api-key", "sk-demo-0123456789", env="production", secret=True)
    server.put("team-a/prompts", "greeting", "Hello! How can I help you today?", env="base")


def use(server: MockServer) -> None:
    """Ask for them, and let some of it go wrong."""
    headers = {"authorization": f"Bearer {server.token('editor')}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        for _ in range(14):
            client.get(ITEM, params={"env": "production"})
            client.get("/api/v1/configs/app%2Fllm", params={"env": "base"})
        client.get("/api/v1/configs/app%2Fllm/missing", params={"env": "production"})
        client.post(ITEM, json={"value": "gpt-4-turbo", "env": "staging"})
        with server.script("GET app/llm/model", [error("SERVICE_UNAVAILABLE", retry_after=1), reset()]):
            for _ in range(3):
                with suppress(httpx.TransportError):
                    client.get(ITEM, params={"env": "production"})
        server.conditions["store"] = "StorageFull"
        client.post(ITEM, json={"value": "gpt-5", "env": "production"})
        server.script("POST", error("RATE_LIMIT_EXCEEDED", retry_after=2), repeat="last")
        server.chaos(0.1)
        client.get("/health")


def take(server: MockServer, width: int, picture: Path) -> None:
    """Take the picture of the console at a width in pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(server.console_url)
        shown = WebDriverWait(driver, PATIENCE)
        shown.until(lambda _: "/health" in driver.find_element(By.ID, "requests").text)
        shown.until(lambda _: "greeting" in driver.find_element(By.ID, "entries").text)
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": width < WIDTH})
    finally:
        driver.quit()
    picture.write_bytes(base64.b64decode(taken["data"]))


def main() -> None:
    """Draw what the command line asks for."""
    width = int(sys.argv[1]) if len(sys.argv) > 1 else WIDTH
    picture = Path(sys.argv[2]) if len(sys.argv) > 1 + 1 else PICTURE
    with MockServer(seed=1, admin=True) as server:
        fill(server)
        use(server)
        take(server, width, picture)


if __name__ == "__main__":
    main()
