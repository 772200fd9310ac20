"""scripts/demo.py as a user meets it: started through the shell, driven in a browser."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pandas as pd
import pytest
from conftest import ROOT, assert_one_line, make_texts
from PIL import Image
from saved_models import three_label_run

from recipe.inference.text_classifier import TextClassifier

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = f"goal <script>alert(1)</script> {MARKUP} </div> **bold** ${{alert(1)}} {{{{value}}}} \x1b[31m \u202egoal"
CARD = f"""---
license: mit
---
# The card

| a | b |
| --- | --- |
| 1 | 2 |

<!-- unseen --> {MARKUP} ![pixel](http://198.51.100.1/pixel.png) [link](javascript:alert(1))

<iframe src="http://198.51.100.1/"></iframe> <img src="http://198.51.100.1/raw.png">
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A run with a card and a picture, and markup wherever its folder can have any."""
    folder = tmp_path_factory.mktemp("demo") / "a <b>run"
    shutil.copytree(three_label_run(), folder)
    config = (folder / "config.json").read_text()
    assert '"technology"' in config
    (folder / "config.json").write_text(config.replace("technology", MARKUP))
    (folder / "README.md").write_text(CARD)
    (folder / "figures").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "figures" / "confusion_matrix.png")
    return folder


@pytest.fixture(scope="module")
def server(model_dir, tmp_path_factory):
    """The running script, with its address and the folder for its temporary files."""
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "scripts/demo.py", "--model_dir", str(model_dir), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "TMPDIR": str(temporary)}
    heeds_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # not so under nohup
    process = subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=heeds_ctrl_c, **pipes)
    timer = threading.Timer(60, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line + process.stderr.read()
    process.address, process.temporary, process.line = address[0], temporary, line
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page; afterwards, nothing may have been asked of another machine, and no script of a text may have run."""
    page, asked, bad = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (bad.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: bad.append(str(error)))
    page.goto(server.address)
    page.get_by_label("Text", exact=True).first.wait_for()
    yield page
    page.close()
    assert len(asked) > 10
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(server.address).netloc
    }
    assert bad == []


def classify(page, text):
    page.get_by_role("textbox", name="Text").fill(text)
    page.get_by_role("button", name="Classify", exact=True).click()
    page.locator("#words .score-token").first.wait_for()


@needs_browser
def test_bars_and_words_of_a_text(page, model_dir):
    text = "the goal of the match and the nurse"
    classify(page, text)
    classifier = TextClassifier.from_pretrained(model_dir)
    (label,), (probabilities,) = classifier.predict([text])
    by_label = dict(zip(classifier.label_names, probabilities, strict=True))
    assert page.locator("#answer textarea").input_value() == f"{label}, with a probability of {by_label[label]:.4f}"
    bars = page.locator("#bars").inner_text()
    names = sorted(by_label, key=by_label.get, reverse=True)
    assert bars.index(names[0]) < bars.index(names[1]) < bars.index(names[2])
    assert re.findall(r"\d+%", bars) == [f"{100 * by_label[name]:.0f}%" for name in names]
    words = page.locator("#words .score-token")
    assert [word.strip() for word in words.all_inner_texts()] == text.split()
    colours = [
        re.search(r"rgba?\((\d+), \d+, \d+(?:, ([\d.]+))?\)", word.get_attribute("style")) for word in words.all()
    ]
    shades = [float(colour[2] or 1) * (1 if colour[1] == "239" else -1) for colour in colours]  # red, or purple
    without = classifier.predict([" ".join(text.split()[:i] + text.split()[i + 1 :]) for i in range(8)])[1]
    column = classifier.label_names.index(label)
    assert shades.index(max(shades)) == without[:, column].argmin()


@needs_browser
def test_hostile_texts_stay_text(page):
    classify(page, HOSTILE)
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert page.locator("#words .score-token").all_text_contents()[0].strip() == "goal"
    assert "".join("".join(page.locator("#words .score-token").all_text_contents()).split()) == "".join(shown.split())
    assert page.locator("#words :is(img, script, b, strong)").count() == 0
    assert page.locator("#bars img").count() == 0
    assert MARKUP in page.locator("#bars").inner_text()
    assert "a <b>run" in page.locator("h1").first.inner_text()
    classify(page, "")
    page.wait_for_function("!document.querySelector('#words .score-token')")
    page.get_by_role("textbox", name="Text").fill("x" * 20_001)
    page.get_by_role("button", name="Classify", exact=True).click()
    page.get_by_text("the text has 20,001 characters: give up to 20,000, or a file").wait_for()


@needs_browser
def test_a_file_comes_back_as_predict_writes_it(page, model_dir, tmp_path, run_here):
    source = tmp_path / "in.csv"
    texts = [*make_texts(40, ["sport", "medicine"], seed=3)["text"], "", "=1+1", HOSTILE.replace("\x1b", "")]
    pd.DataFrame({"id": range(43), "message": texts}).to_csv(source, index=False)
    page.get_by_role("tab", name="File").click()
    page.locator("#upload input[type=file]").set_input_files(source)
    page.get_by_role("button", name="Classify the file").click()
    with page.expect_download() as download:
        page.locator("#output a").first.click()
    assert download.value.suggested_filename == "in_labels.csv"
    command = ["python", "scripts/predict.py", "--model_dir", model_dir, "--input_file", source]
    assert run_here([*command, "--output_file", tmp_path / "out.csv"]).returncode == 0
    assert download.value.path().read_bytes() == (tmp_path / "out.csv").read_bytes()

    source.write_text(f"id,{MARKUP}\n1,2\n")
    page.get_by_label("Clear").first.click()
    page.locator("#upload input[type=file]").set_input_files(source)
    page.get_by_role("button", name="Classify the file").click()
    page.get_by_text("in.csv: no column").wait_for()
    message = page.get_by_test_id("toast-text").inner_text()
    assert message.startswith("in.csv: no column")  # without the folder that it lies in
    assert MARKUP in message


@needs_browser
def test_the_card_and_pictures(page):
    page.get_by_role("tab", name="Model").click()
    card = page.locator("#card")
    card.get_by_role("heading", name="The card").wait_for()
    assert card.locator("td").all_inner_texts() == ["1", "2"]
    assert card.locator("iframe, script, [onerror], [href^=javascript], [src^=http]").count() == 0
    assert "license" not in card.inner_text()
    assert "unseen" not in card.inner_text()
    picture = page.locator("#pictures img")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#pictures img').naturalWidth == 40")


def test_nothing_but_the_page_is_served(server):
    """No list of functions to call, no files of the machine."""
    import httpx

    def get(path):
        return httpx.get(server.address + path, trust_env=False)

    assert json.loads(get("gradio_api/info").text)["named_endpoints"] == {}
    for path in ("gradio_api/file=/etc/passwd", f"gradio_api/file={ROOT}/README.md", "monitoring/summary", "docs"):
        assert get(path).status_code >= 400, path


def test_ctrl_c_ends_it_cleanly(server):
    """Last in this file: it ends the server."""
    assert list(server.temporary.glob("recipe-demo-*"))
    server.send_signal(signal.SIGINT)
    output, errors = server.communicate(timeout=30)
    assert (server.returncode, output) == (0, "\nStopping ...\n")
    assert "Traceback" not in errors
    assert list(server.temporary.iterdir()) == []


@pytest.fixture
def demo(run_here, monkeypatch):
    """The script in this process, for what ends it before it serves."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    return lambda *fields: run_here(["python", "scripts/demo.py", *fields])


def test_a_port_that_is_taken(demo, model_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = demo("--model_dir", model_dir, "--port", port)
    message = f"cannot listen on port {port} of 127.0.0.1 (Address already in use): try another --port"
    assert_one_line(result, message)
    assert_one_line(demo("--model_dir", model_dir, "--port", "70000"), "port is 70000: take one from 1024")
    assert_one_line(demo("--model_dir", model_dir, "--host", "198.51.100.1", "--port", "0"), "of 198.51.100.1 (")


def test_a_missing_model_and_a_missing_extra(demo, tmp_path, monkeypatch):
    assert_one_line(demo("--model_dir", tmp_path / "nowhere", "--port", "0"), "nowhere")
    monkeypatch.delitem(sys.modules, "recipe.inference.demo_page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert_one_line(demo("--model_dir", tmp_path, "--port", "0"), "pip install 'gpt2-classifier-recipe[demo]'")
