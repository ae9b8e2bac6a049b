"""Whatever is typed or pasted, no page breaks: it is drawn as text, or refused with a reason, and the app lives on."""

import json
from pathlib import Path

import pytest

from app.shell.sharing import COPY_LINK
from app.shell.starting import load_in_browser
from tests.app.conftest import OpenApp, charts, spec, texts

BUNDLED = "bundled:diff-mamba2"
PAGES = ("overview", "attention", "lens")
HARM = "<script>window.harm=1</script><img src=x onerror=alert(1)>"
DRAWN = {
    "html": HARM,
    "markdown": "![x](http://evil.example/x.png) [a](javascript:alert(1)) $x$ :smile: `",
    "plotly": "%{x} %{customdata} <b>bold</b> $\\alpha$ &lt; &#36;",
    "control": "a\x00b\x07c\x1b[31m\u202ed\u200be\ufeff",
    "one": "x",
    "blanks": "  \n\t ",
    "emoji": "👩‍👩‍👧 é ﷺ",
    # A token a letter: more than any figure or row shows one by one.
    "wide": "x" * 600,
}
REFUSED = {"empty": ("", "empty"), "megabyte": ("word " * 200_000, "at most 200,000")}


@pytest.mark.parametrize("name", list(DRAWN))
def test_any_text_is_drawn_as_text_on_every_page(open_app: OpenApp, project_root: Path, name: str) -> None:
    own = {
        COPY_LINK,
        load_in_browser(),
        *(file.read_text(encoding="utf-8") for file in (project_root / "app").rglob("*.html")),
    }
    app = open_app(model=BUNDLED)
    app.text_area(key="prompt").set_value(DRAWN[name]).run()
    for page in PAGES:
        app.switch_page(f"pages_/{page}/{page}.py").run()
        assert not app.exception
        assert texts(app.error) == []
        assert charts(app)
        for html in app.get("html"):
            # Only the explorer's own scripts run, letter by letter.
            assert html.proto.unsafe_allow_javascript == (html.proto.body in own)
            assert "<script" not in html.proto.body or html.proto.body in own
            assert "<img" not in html.proto.body
        for figure in charts(app):
            assert HARM[:8] not in json.dumps(json.loads(spec(figure)))


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_prompt_is_refused_on_every_page(open_app: OpenApp, name: str) -> None:
    typed, words = REFUSED[name]
    app = open_app(model=BUNDLED)
    app.text_area(key="prompt").set_value(typed).run()
    for page in PAGES:
        app.switch_page(f"pages_/{page}/{page}.py").run()
        assert not app.exception
        assert texts(app.error) == ["Reading the prompt failed."]
        assert words in "\n".join(texts(app.code))
    app.text_area(key="prompt").set_value("The end").run()
    assert texts(app.error) == []
    assert charts(app)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *(
            ("model", name)
            for name in ("../../etc", "/etc", "models/../../secret", "a\x00b", HARM, "~/.ssh", "x" * 5000)
        ),
        *((key, name) for key in ("beside", "lens") for name in ("../secret", "a\x00b", HARM)),
    ],
)
def test_a_name_leads_nowhere_outside(open_app: OpenApp, key: str, name: str) -> None:
    app = open_app("lens", **{"model": BUNDLED, key: name})
    assert not app.exception
    assert len(app.error) == 1, texts(app.code)
    assert "x:0:0:" not in "\n".join(texts(app.code))


@pytest.mark.parametrize("key", ["block", "kind", "view", "heads", "row", "zoom", "source", "dtype", "token", "needle"])
def test_an_address_that_says_nonsense_breaks_nothing(open_app: OpenApp, key: str) -> None:
    app = open_app("attention", model=BUNDLED, **{key: HARM})
    assert not app.exception
    assert len(app.error) + bool(charts(app)) == 1
    assert not any("![" in text for text in texts(app.warning))
