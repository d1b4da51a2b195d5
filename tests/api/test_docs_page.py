"""The documentation page holds every operation, needs nothing from elsewhere, and its examples run as they stand."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from qimem import __version__
from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.docs_page import CONTENT_SECURITY_POLICY, render_page
from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.markup import element, joined, prose
from tests.api.examples import BY_NAME, Stage, stage, world_of_its_own
from tests.support.api import World

VOID = {"meta", "link", "br", "hr", "img", "input", "base"}
HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;`<b>`"


class Page(HTMLParser):
    """What a browser would make of the page: tags with attributes, text by tag, and by article."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.articles: dict[str, str] = {}
        self.examples: dict[str, str] = {}
        self._open: list[str] = []
        self._article = ""
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "article":
            self._article = dict(attrs)["id"] or ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"
        if tag == "article":
            self._article = ""

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))
        self.articles[self._article] = self.articles.get(self._article, "") + data
        if "pre" in self._open:
            self.examples[self._article] = self.examples.get(self._article, "") + data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text_of(self, tag: str) -> str:
        return "".join(text for name, text in self.texts if name == tag)

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def answer(world: World) -> httpx.Response:
    answer = world.anonymous().get("/docs")
    assert answer.status_code == 200
    return answer


@pytest.fixture(scope="module")
def page(answer: httpx.Response) -> Page:
    return Page(answer.text)


def foreign(page: Page) -> list[str]:
    """What of the page would be fetched or run, or would lead away from this server."""
    allowed = re.compile(r"#[\w.-]+|/v1/openapi\.json")
    found = [
        f"<{tag}>"
        for tag, _ in page.tags
        if tag in {"script", "link", "img", "iframe", "object", "base", "form"}
    ]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            loads = name in {"src", "href", "srcset", "action", "data", "poster", "background"}
            if name.startswith("on") or name == "style" or (loads and not allowed.fullmatch(value)):
                found.append(f"<{tag} {name}={value}>")
    return found + re.findall(r"url\(|@import|expression\(|//", page.text_of("style"))


def style_hash(page: Page) -> str:
    digest = hashlib.sha256(page.text_of("style").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# --- what it needs ----------------------------------------------------------------------------


def test_the_page_is_html_with_the_policy_of_its_style(answer: httpx.Response, page: Page) -> None:
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers.get_list("content-security-policy") == [CONTENT_SECURITY_POLICY]
    assert len(page.named("style")) == 1


def test_the_policy_allows_this_style_and_nothing_else(page: Page) -> None:
    assert dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.split(";")) == {
        "default-src": "'none'",
        "style-src": style_hash(page),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_one_byte_more_in_the_style_would_not_be_allowed(answer: httpx.Response) -> None:
    changed = Page(answer.text.replace("</style>", " </style>"))
    assert style_hash(changed) not in CONTENT_SECURITY_POLICY


def test_nothing_comes_from_elsewhere_and_nothing_runs(page: Page) -> None:
    assert foreign(page) == []


@pytest.mark.parametrize(
    "planted",
    [
        "<script>alert(1)</script>",
        '<link rel="stylesheet" href="/docs.css">',
        '<a href="https://elsewhere.example/">x</a>',
        '<a href="//elsewhere.example/">x</a>',
        '<a href="javascript:alert(1)">x</a>',
        '<img src="data:,">',
        '<p onclick="alert(1)">x</p>',
        '<p style="color:red">x</p>',
        "<style>p { background: url(/x.png) }</style>",
        '<style>@import "x.css";</style>',
    ],
)
def test_what_comes_from_elsewhere_would_be_found(answer: httpx.Response, planted: str) -> None:
    assert foreign(Page(answer.text.replace("</main>", f"{planted}</main>")))


def test_the_page_is_as_rendered_from_the_table(answer: httpx.Response) -> None:
    assert answer.content == render_page(ENDPOINTS, __version__)


# --- what it says -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_the_operation_is_on_the_page_with_method_path_and_permission(page: Page, name: str) -> None:
    endpoint, text = BY_NAME[name], page.articles[name]
    assert text.startswith(f"{endpoint.summary}{endpoint.method}{endpoint.path}")
    needs = "Needs a token, or credentials of a client" if endpoint.any_caller else "Needs no token"
    if endpoint.permission:
        needs = f"Needs permission {endpoint.permission}"
    assert needs in text


@pytest.mark.parametrize("name", [name for name, endpoint in BY_NAME.items() if endpoint.request is not None])
def test_every_field_of_the_request_is_told(page: Page, name: str) -> None:
    body = page.articles[name].partition("Request body")[2].partition("Answer 200")[0]
    missing = [word for word in BY_NAME[name].request.__struct_fields__ if word not in body]  # type: ignore[union-attr]
    assert not missing


def test_operations_are_those_of_the_table_and_grouped_by_resource(page: Page) -> None:
    groups = {word.removeprefix("resource-") for word in page.ids if word.startswith("resource-")}
    assert {name.partition(".")[0] for name in BY_NAME} == groups
    assert {word for word in page.articles if "." in word} == BY_NAME.keys()


def test_every_link_leads_to_exactly_one_place(page: Page) -> None:
    targets = [link["href"].removeprefix("#") for link in page.named("a") if link["href"].startswith("#")]
    assert set(targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_openapi_document_is_linked(page: Page) -> None:
    assert "/v1/openapi.json" in {link["href"] for link in page.named("a")}


def test_language_title_and_headings_are_in_order(page: Page) -> None:
    assert page.named("html")[0]["lang"] == "en"
    assert page.text_of("title") == page.text_of("h1") == "QIMEM HTTP API"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def _colors(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_both_color_schemes(page: Page) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", page.text_of("style"), re.DOTALL)
    assert _colors(light).keys() == _colors(dark).keys()
    for colors in (_colors(light), _colors(dark)):
        weak = {
            (name, ground): ratio
            for ground in ("page", "panel")
            for name in ("text", "soft", "link", "get", "post", "needed")
            if (ratio := _contrast(colors[name], colors[ground])) < 4.5
        }
        assert not weak
        assert _contrast(colors["screen-text"], colors["screen"]) >= 4.5


def test_the_measure_of_contrast_is_that_of_the_standard() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


# --- text is text -----------------------------------------------------------------------------


def hostile_table() -> tuple[Endpoint, ...]:
    async def handler(call: Any) -> None: ...

    handler.__doc__ = HOSTILE
    first = BY_NAME["keys.create"]
    return (
        replace(first, summary=HOSTILE, name=f"keys.{HOSTILE}", path=f"/{HOSTILE}", handler=handler),
        replace(BY_NAME["keys.encrypt"], example={"name": HOSTILE}),
    )


def test_hostile_text_stays_text() -> None:
    page = Page(render_page(hostile_table(), HOSTILE).decode())
    assert {tag for tag, _ in page.tags} <= {
        tag for tag, _ in Page(render_page(ENDPOINTS, "1").decode()).tags
    }
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert foreign(page) == [f"<a href=#keys.{HOSTILE}>"]
    assert page.text_of("h3").startswith(HOSTILE)
    assert HOSTILE in page.examples["keys.encrypt"].replace('\\"', '"').replace("'\"'\"'", "'")


@pytest.mark.parametrize("text", ["<b>", '"', "'", "&amp;", "a`<b>`c"])
def test_text_is_escaped_wherever_it_is_put(text: str) -> None:
    for built in (element("p", text), joined(text), prose(text), element("p", "x", title=text)):
        assert "<b>" not in built
        assert '"' not in built.replace('title="', "").replace('">', ">")
        assert "'" not in built
        assert "&amp;" not in built or "&amp;amp;" in built


def test_what_was_built_is_not_escaped_again() -> None:
    assert element("p", element("b", "<"), "<") == "<p><b>&lt;</b>&lt;</p>"
    assert prose("a `b<` c") == "a <code>b&lt;</code> c"


# --- the examples run -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of_its_own(tmp_path_factory.mktemp("examples")) as world:
        yield world


def _token(place: Stage, endpoint: Endpoint) -> str:
    return place.caller(endpoint).headers.get("authorization", "").removeprefix("Bearer ")


def test_every_example_runs_in_a_shell_as_it_stands(page: Page, own_world: World) -> None:
    place = stage(own_world)
    for endpoint in sorted(ENDPOINTS, key=lambda endpoint: endpoint.method == "DELETE"):
        script = place.fill(page.examples[endpoint.name])
        environment = {
            "PATH": "/usr/bin:/bin",
            "QIMEM": own_world.server.url,
            "TOKEN": _token(place, endpoint),
        }
        done = subprocess.run(
            ["bash", "-euc", script.replace("curl -sS", "curl -sS --fail-with-body", 1)],
            env=environment, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        if done.stdout.startswith("{"):
            place.learn(endpoint.name, httpx.Response(200, text=done.stdout).json())
