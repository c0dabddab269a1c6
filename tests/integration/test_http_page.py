"""The page at / over real HTTP: who gets it, under which policy, and that what its script asks for is there. Models are random and tiny."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests

import settings as configuration
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run
from experts import attach
from serving.openapi import OPERATIONS
from serving.page import policy_of
from serving.server import write_address

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "context_tokens": 128},
       "train": {"row_tokens": 64}}
KEY = "a-long-enough-key"


@pytest.fixture(scope="module", params=[(), (KEY,)], ids=["open", "keyed"])
def live(request, tmp_path_factory):
    settings = configuration.check({**TOY, "run": {"dir": str(tmp_path_factory.mktemp("run"))}, "serve": {"engine": "torch", "poll_s": 3600.0}})
    make_run(settings, nodes=("generalist",), with_router=False)
    with live_gateway(settings, keys=request.param) as live:
        yield live


class Read(HTMLParser):
    """What stands in a page: ids, addresses, attributes of events, texts of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.addresses, self.handlers, self.inline, self._tag = [], [], [], {"script": [], "style": []}, None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        for name, value in attributes:
            self.ids += [value] if name == "id" else []
            self.addresses += [value] if name in {"href", "src", "action"} else []
            self.handlers += [name] if name.startswith("on") or name == "style" else []

    def handle_endtag(self, tag):
        self._tag = None

    def handle_data(self, data):
        if self._tag in self.inline:
            self.inline[self._tag].append(data)


def _page(live):
    return requests.get(f"{live.url}/", timeout=30)


def test_page_is_html_for_everybody_and_holds_no_key(live):
    page = _page(live)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert KEY not in page.text
    assert requests.post(f"{live.url}/", timeout=30).status_code == 405


def test_page_policy_lets_its_own_script_and_style_run_and_nothing_else(live):
    page = _page(live)
    inline = Read(page.text).inline
    allowed = {tag: [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts] for tag, texts in inline.items()}
    assert {tag: len(hashes) for tag, hashes in allowed.items()} == {"script": 1, "style": 1}
    assert page.headers["Content-Security-Policy"] == (
        f"default-src 'none'; script-src 'sha256-{allowed['script'][0]}'; style-src 'sha256-{allowed['style'][0]}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def test_page_without_inline_parts_allows_none():
    assert "script-src 'none'; style-src 'none'" in policy_of("<p>plain</p>")


def test_page_addresses_are_the_gateways_own_and_texts_never_become_markup(live):
    read = Read(_page(live).text)
    (script,) = read.inline["script"]
    asked = re.findall(r'fetch\("(.*?)"', script)
    assert sorted({*asked, *read.addresses}) == ["generate", "openapi.json", "readyz"]
    assert {f"/{address}" for address in asked} <= {operation.path for operation in OPERATIONS}
    assert set(re.findall(r'at\("(.*?)"\)', script)) <= set(read.ids)
    assert read.handlers == []  # the policy would not run them
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(", script)


def test_page_gets_what_it_shows(live):
    headers = {"Authorization": f"Bearer {KEY}"}
    ready = requests.get(f"{live.url}/readyz", timeout=30).json()
    assert {"ready", "reason", "generation", "engine", "device", "last_failure", "nodes", "router"} <= set(ready)
    said = requests.post(f"{live.url}/generate", json={"prompt": "What is 17 + 25?"}, headers=headers, timeout=60).json()
    assert {"text", "node", "version"} <= set(said)
    assert "reason" in said["route"]


def test_page_asks_for_a_key_where_one_is_needed(live, request):
    keyed = "keyed" in request.node.name
    assert requests.head(f"{live.url}/openapi.json", timeout=30).status_code == (401 if keyed else 200)
    assert requests.post(f"{live.url}/generate", json={"prompt": "x"}, timeout=60).status_code == (401 if keyed else 200)


def test_address_that_the_start_scripts_open_is_the_page(live):
    opened = []
    write_address(Path(live.gateway.settings.run.dir), live.server)
    assert attach.open_page_when_ready(live.gateway.settings, opener=opened.append)
    page = requests.get(opened[0], timeout=30)
    assert (page.status_code, "<title>Branchwise</title>" in page.text) == (200, True)
