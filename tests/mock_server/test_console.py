"""The console in a real browser: what it shows, what it switches, and what it does not let in."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from llm_config_mock_server import MockServer, console
from llm_config_mock_server.console import CONTENT_SECURITY_POLICY

ITEM = "/api/v1/configs/app%2Fllm/model"
PATIENCE = 20.0  # seconds: far beyond what a page needs, so that a missing change ends as a failure
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
    "--host-resolver-rules=MAP lab.test 127.0.0.1",  # a name that is not the loopback's, for the token
)


def needed(found: str | None, what: str) -> str:
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{what} is not installed")
        pytest.skip(f"{what} is not installed")
    return found


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=7, admin=True) as running:
        yield running


class Browser:
    """A headless Chromium, and waiting for what it shows."""

    def __init__(self, driver, by, wait) -> None:
        self.driver = driver
        self._by = by
        self._wait = wait

    def find(self, selector: str):
        return self.driver.find_element(self._by.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return self.driver.execute_script(script, selector)

    def until(self, condition: Callable[[], object], what: str) -> None:
        self._wait(self.driver, PATIENCE, poll_frequency=0.05).until(
            lambda _: condition(), f"the console never came to show {what}"
        )

    def shows(self, selector: str, *words: str) -> None:
        """Wait until one of the elements has all of the words."""
        self.until(
            lambda: any(all(word in text for word in words) for text in self.texts(selector)),
            f"{words} in {selector}: {self.texts(selector)}",
        )

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def is_on(self, switch: str) -> bool:
        return self.find(switch).get_attribute("aria-checked") == "true"

    def switch(self, selector: str, *, on: bool) -> None:
        assert self.is_on(selector) is not on
        self.click(selector)
        self.until(lambda: self.is_on(selector) is on, f"{selector} switched {'on' if on else 'off'}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = needed(shutil.which("chromium") or shutil.which("google-chrome"), "Chromium")
    driver_path = needed(shutil.which("chromedriver"), "chromedriver (chromium-driver)")
    try:
        from selenium import webdriver  # noqa: PLC0415 - may be missing, which the next lines say
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415
        from selenium.webdriver.common.by import By  # noqa: PLC0415
        from selenium.webdriver.support.wait import WebDriverWait  # noqa: PLC0415
    except ImportError:
        needed(None, "selenium")
        raise
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        yield Browser(driver, By, WebDriverWait)
    finally:
        driver.quit()


@pytest.fixture
def page(browser: Browser, server: MockServer) -> Iterator[Browser]:
    """The console of the server, open; whatever the browser complains of fails the test."""
    server.put("app/llm", "model", "gpt-4", env="production")
    browser.driver.get_log("browser")
    browser.driver.get(server.console_url)
    browser.shows("#link", "live")
    browser.shows("#components li", "store")
    yield browser
    complaints = [line["message"] for line in browser.driver.get_log("browser") if line["level"] == "SEVERE"]
    browser.driver.get("about:blank")
    assert complaints == []


def test_it_shows_the_server_its_entries_and_the_requests_as_they_come(page, server, client):
    page.shows("#entries tr", "app/llm", "model", "production", '"gpt-4"', "1")
    assert page.texts("#profile") == ["guide"]
    assert page.texts("#requests tr") == []
    client.get(ITEM, params={"env": "prod"})
    page.shows("#requests tr", "GET", "/api/v1/configs/app/llm/model?env=prod", "200")
    client.get("/api/v1/configs/app%2Fllm/missing")
    page.shows("#requests tr", "missing", "404", "NOT_FOUND")
    page.shows("#endpoints li", "GET /api/v1/configs/{namespace}/{key}", "100 %", "of 2")
    client.post(ITEM, json={"value": "gpt-5", "env": "prod"})
    page.shows("#entries tr", '"gpt-5"', "2")
    server.put("team-a", "limit", 5)
    page.shows("#entries tr", "team-a", "limit", "development", "5")


def test_a_fault_is_switched_on_met_and_switched_off(page, server, client):
    page.switch("#switch-unavailable", on=True)
    page.shows("#rules li", "error SERVICE_UNAVAILABLE")
    reply = client.get(ITEM, params={"env": "prod"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    page.shows("#requests tr", "503", "SERVICE_UNAVAILABLE", "scripted")
    page.shows("#rules li", "hit 1")
    page.shows("#endpoints li", "0 %")
    page.switch("#switch-unavailable", on=False)
    assert len(server.faults) == 0
    assert client.get(ITEM, params={"env": "prod"}).status_code == 200


def test_a_fault_can_be_of_the_wire_and_about_some_requests_only(page, server, client):
    match = page.find("#fault-match")
    match.clear()
    match.send_keys("/health")
    page.switch("#switch-reset", on=True)
    with pytest.raises(httpx.TransportError):
        client.get("/health")
    page.shows("#requests tr", "/health", "no reply", "reset")
    assert client.get(ITEM, params={"env": "prod"}).status_code == 200
    page.click("#rules button")
    page.until(lambda: not page.is_on("#switch-reset"), "the switch off again")
    assert client.get("/health").status_code == 200


def test_chaos_is_switched_on_and_off(page, server, client):
    page.driver.execute_script(
        "const rate = document.getElementById('chaos-rate'); rate.value = 100;"
        "rate.dispatchEvent(new Event('input'))"
    )
    page.switch("#chaos", on=True)
    assert client.get(ITEM, params={"env": "prod"}).json()["error"]["message"] == "Simulated failure"
    page.shows("#requests tr", "500", "STORAGE_ERROR")
    page.switch("#chaos", on=False)
    assert client.get(ITEM, params={"env": "prod"}).status_code == 200


def test_a_component_is_made_unwell_and_healed(page, server, client):
    select = page.find("#component-store")
    select.send_keys("StorageFull")
    page.until(lambda: "store" in server.conditions, "a condition")
    page.shows("#components .unwell", "store")
    assert (
        client.post(ITEM, json={"value": 1, "env": "dev"}).json()["error"]["details"]["kind"] == "StorageFull"
    )
    page.click("#conditions-clear")
    page.until(lambda: not page.texts("#components .unwell"), "every component healthy")
    assert len(server.conditions) == 0


def test_what_is_changed_elsewhere_is_shown(page, server):
    rule = server.chaos(0.25)
    page.shows("#rules li", "config.StorageError", "25 %")
    server.conditions["audit"] = "panic"
    page.shows("#components .unwell", "audit")
    rule.remove()
    page.until(lambda: not page.texts("#rules li"), "no rules")


def test_the_server_is_reset_after_being_asked_twice(page, server, client):
    client.get("/health")
    page.shows("#requests tr", "/health")
    page.click("#reset")
    page.click("#reset-cancel")
    assert server.entry("app/llm", "model", env="prod") is not None
    page.click("#reset")
    page.click("#reset-confirm")
    page.shows("#entries-empty", "empty")
    page.until(lambda: not page.texts("#requests tr"), "an empty journal")
    assert server.entry("app/llm", "model", env="prod") is None


def test_the_journal_is_filtered_and_held(page, client):
    for path in ("/health", "/other"):
        client.get(path)
    page.shows("#requests tr", "/other")
    page.find("#journal-filter").send_keys("health")
    page.until(lambda: len(page.texts("#requests tr")) == 1, "one request")
    page.find("#journal-filter").clear()
    page.find("#journal-filter").send_keys(" ")
    page.click("#journal-pause")
    client.get("/third")
    page.shows("#requests-kept", "3")
    assert not any("/third" in row for row in page.texts("#requests tr"))
    page.click("#journal-pause")
    page.shows("#requests tr", "/third")


def test_a_switch_is_reached_and_turned_with_the_keyboard(page, server):
    page.find("#fault-match").click()
    active = page.driver.switch_to.active_element
    active.send_keys("\ue004")  # Tab
    active = page.driver.switch_to.active_element
    assert active.get_attribute("role") == "switch"
    active.send_keys(" ")
    page.until(lambda: len(server.faults) == 1, "a fault armed by the space bar")


def test_every_control_has_a_name(page):
    count, nameless = page.driver.execute_script(
        """
        const told = (id) => document.getElementById(id)?.innerText ?? "";
        const name = (one) => [one.getAttribute("aria-label"), one.innerText,
          ...[...(one.labels ?? [])].map((label) => label.innerText),
          ...(one.getAttribute("aria-labelledby") ?? "").split(" ").map(told)].join("").trim();
        const controls = [...document.querySelectorAll("button, input, select")];
        return [controls.length, controls.filter((one) => !name(one)).map((one) => one.outerHTML)];
        """
    )
    assert count > 20
    assert nameless == []


def test_markup_that_a_client_sends_stays_text(page, server, client):
    server.put("app/llm", "model", MARKUP, env="production")
    client.get("/%3Cimg%20src=x%20onerror=%22document.title='owned'%22%3E", params={"q": MARKUP})
    client.get("/health", headers={"x-request-id": "<script>document.title='owned'</script>"})
    page.shows("#entries tr", "<img src=x onerror=")
    page.shows("#requests tr", "/<img src=x onerror=")
    assert page.driver.title.startswith("Console")
    assert page.driver.execute_script("return document.querySelectorAll('main img, main script').length") == 0


def test_its_own_rules_would_not_let_a_script_in(page, browser):
    page.driver.execute_script(
        "window.blocked = []; document.addEventListener('securitypolicyviolation',"
        " (event) => window.blocked.push(event.violatedDirective));"
        "const image = new Image(); image.src = 'http://127.0.0.1:1/pixel';"
        "try { document.body.innerHTML = '<b>x</b>' } catch (error) { window.blocked.push(error.name) }"
    )
    page.until(lambda: len(page.driver.execute_script("return window.blocked")) >= 3, "what was blocked")
    assert set(page.driver.execute_script("return window.blocked")) >= {"img-src", "TypeError"}
    browser.driver.get_log("browser")  # the complaints about this are the point


@pytest.mark.parametrize("width", [360, 800, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_in_light_and_dark(page, client, width, scheme):
    commands = page.driver.execute_cdp_cmd
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    commands("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    commands("Emulation.setDeviceMetricsOverride", size)
    try:
        client.get("/api/v1/configs/app%2Fllm/" + "a-very-long-key." * 8)
        page.shows("#requests tr", "a-very-long-key")
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        ground = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.strip("rgb()").split(",")) / 3
        assert (brightness < 60) == (scheme == "dark")
    finally:
        commands("Emulation.clearDeviceMetricsOverride", {})
        commands("Emulation.setEmulatedMedia", {"features": []})


def test_it_says_that_the_server_is_gone_and_goes_on_where_it_was_when_it_is_back(page, server, client):
    client.get("/health")
    page.shows("#requests tr", "/health")
    server.stop()
    page.shows("#link", "no connection")
    with httpx.Client(transport=server.transport(), base_url=server.url) as unheard:
        server.start()
        unheard.get("/other")  # while the page may not be back yet
    page.shows("#link", "live")
    page.shows("#requests tr", "/other")
    assert [text.split()[0] for text in page.texts("#requests tr")] == ["2", "1"]
    page.driver.get_log("browser")  # refused connections are the point


def test_it_follows_the_server_over_one_stream_of_events(page, server, client):
    for _ in range(3):
        client.get("/health")
        page.shows("#requests-kept", str(len(server.journal)))
    entries = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map((one) => one.name)"
    )
    assert sum("/events" in name for name in entries) <= 1
    assert len(server._core.aside.__self__._admin._feed.open) == 1


def test_another_server_in_its_place_is_shown_from_its_beginning(browser, client):
    with MockServer(admin=True) as first:
        first.put("old", "k", 1)
        port = first.port
        browser.driver.get(first.console_url)
        httpx.get(f"{first.url}/of-the-first", trust_env=False)
        browser.shows("#requests tr", "/of-the-first")
    browser.shows("#link", "no connection")
    with MockServer(admin=True, port=port) as second:
        second.put("new", "k", 1)
        httpx.get(f"{second.url}/of-the-second", trust_env=False)
        browser.shows("#requests tr", "/of-the-second")
        browser.shows("#entries tr", "new")
        assert len(browser.texts("#requests tr")) == 1
        browser.driver.get("about:blank")
    browser.driver.get_log("browser")  # refused connections are the point


def test_from_elsewhere_it_asks_for_a_token_and_then_follows_the_events(browser, server, client):
    browser.driver.get_log("browser")
    browser.driver.get(f"http://lab.test:{server.port}/console")
    browser.until(lambda: browser.find("#token-dialog").get_attribute("open") is not None, "a question")
    browser.find("#token").send_keys(server.token())
    browser.click("#token-use")
    browser.shows("#link", "live")
    client.get("/health")
    browser.shows("#requests tr", "/health")
    server.stop()
    browser.shows("#link", "no connection")
    server.start()
    browser.shows("#link", "live")  # with a ticket of its own: the first is spent
    client.get("/other")
    browser.shows("#requests tr", "/other")
    browser.driver.get("about:blank")
    browser.driver.get_log("browser")  # what was refused is the point


# --- Without a browser ------------------------------------------------------------------------------


def test_its_files_are_sent_with_rules_that_keep_everything_else_out(server):
    for path, kind in (("", "text/html"), ("/console.js", "text/javascript"), ("/console.css", "text/css")):
        reply = httpx.get(server.console_url + path, trust_env=False)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(kind)
        assert reply.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{server.console_url}/../admin.py", trust_env=False).status_code == 404
    assert httpx.get(f"{server.console_url}/page.html", trust_env=False).status_code == 404


def test_its_files_ask_for_nothing_from_elsewhere():
    folder = Path(console.__file__).parent
    for name in ("page.html", "console.css", "console.js"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text
    script = (folder / "console.js").read_text(encoding="utf-8")
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in script
