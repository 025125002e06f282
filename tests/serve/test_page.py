"""The page of a service in a browser: at the width of a telephone, with axe, and nothing from elsewhere."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.browser import chromium, requests, show
from helpers.service import calibrated, running


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(
        calibrated(tmp_path_factory.mktemp("page") / "export", {"start": "width-25"}), "--check-share", 1
    ) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_text_is_tried_on_a_telephone(service, browser, dark):
    from axe_core_python.selenium import Axe
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    requests(browser)
    show(browser, service.address, 360, dark=dark)
    browser.find_element(By.ID, "text").send_keys("the film is fine <b>")
    browser.find_element(By.TAG_NAME, "button").click()
    answer = browser.find_element(By.ID, "answer")
    WebDriverWait(browser, 20).until(lambda _: "sub-network" in answer.text)
    (best, *_) = service.ask("/predict", {"inputs": "the film is fine <b>", "details": True})[1]
    assert f"{best['label']} {100 * best['score']:.1f}%" in answer.text
    assert f"sub-network {best['sub_network']}" in answer.text
    assert f"cost, of the full network's {100 * best['cost']:.1f}%" in answer.text
    service.wait_for(lambda: service.ask("/info")[1]["checks"][0]["checked"] > 0)
    browser.find_element(By.TAG_NAME, "button").click()  # once more: the service's state is shown anew
    about = browser.find_element(By.ID, "service")
    WebDriverWait(browser, 20).until(lambda _: "answers; 0.0% are not the full network's" in about.text)
    info = service.ask("/info")[1]
    for line in (
        f"model export, revision {info['revision']}",
        "promise max disagreement: at most 10.0% at confidence 0.95",
        "load 0 texts wait; rung 0; 1 engine processes",
    ):
        assert line in about.text
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert [(each["id"], each["nodes"][0]["html"]) for each in Axe().run(browser)["violations"]] == []
    asked = [url for url in requests(browser) if not url.startswith(("data:", "chrome:"))]  # its own first tab
    assert asked
    assert all(url.startswith(service.address) for url in asked)
