import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image

from aequorea.report.curves import Line
from aequorea.report.methods import methods, versions
from aequorea.report.page import Curve, Figure, Headline, Picture, Table, Text, page


class _Balanced(HTMLParser):
    """Checks that every element that is opened is closed."""

    VOID = ("meta", "img", "br", "line")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def html():
    buffer = BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    return page(
        "Nuclei <of> liver & heart",
        [
            Headline([Figure("F1", "0.9", "0.8 to 1.0"), Figure("Dice", "0.8")]),
            Text("Words", ["One paragraph.", "<script>alert(1)</script>"]),
            Table("Numbers", ["Image", "F1"], [["a", "0.5"], ["all", "0.6"]], "A note.", strong=1),
            Picture("Planes", [(buffer.getvalue(), "xy")], colours=[("missed", (1, 2, 3))]),
            Curve(
                "Loss", [Line("train", [0, 1], [1, 0]), Line("held out", [0, 1], [1, 0.5])], "step", "loss"
            ),
        ],
        "two images",
    )


def test_pages_are_whole(html):
    parser = _Balanced()
    parser.feed(html)
    assert not parser.open
    for tag in ("h1", "h2", "table", "img", "svg", "dl", "figcaption"):
        assert tag in parser.seen


def test_pages_stand_alone(html):
    assert "script" not in _tags(html)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "url(" not in html and "@import" not in html
    assert 'src="data:image/png;base64,' in html


def _tags(html):
    parser = _Balanced()
    parser.feed(html)
    return parser.seen


def test_text_is_escaped(html):
    assert "Nuclei &lt;of&gt; liver &amp; heart" in html
    assert "&lt;script&gt;" in html


def test_sections_are_shown_as_told(html):
    assert html.count('<tr class="strong">') == 1
    assert "rgb(1, 2, 3)" in html
    assert "held out" in html
    assert html.index("Words") < html.index("Numbers") < html.index("Planes")


def test_methods_say_what_was_used():
    card = {
        "task": {"name": "instances"},
        "backbone": {"name": "unet", "size": "small", "widths": [16, 32]},
        "spacing": [2, 0.26, 0.26],
        "point": {"foreground": 0.431},
        "licence": "BSD-3-Clause",
        "data": {"set": "organoids", "volumes": 2},
    }
    text = " ".join(methods(card, {"model.safetensors": "abc123"}, {"aequorea": "0.1.0"}))
    for word in (
        "'instances'",
        "'unet' (size small)",
        "2 × 0.26 × 0.26 µm",
        "foreground = 0.431",
        "aequorea 0.1.0",
        "model.safetensors abc123",
        "BSD-3-Clause",
        "set organoids, volumes 2",
    ):
        assert word in text
    assert methods(card, packages={}) == methods(card, packages={})


def test_methods_without_a_network_name_the_software():
    assert len(methods({})) == 1
    assert "aequorea" in methods({})[0]
    assert set(versions(("numpy", "no-such-package"))) == {"Python", "numpy"}
