"""The pages that never change while the program runs, rendered once: the documentation, the OpenAPI document, and the
page for browsers with its files."""

import orjson
from flask import Flask, render_template

from serving.web import openapi
from serving.web.page_files import INDEX, Page, page_files, secured

PATHS = ("/docs", "/openapi.json")


def render_pages(app: Flask, *, playground: bool, wasm: bool) -> dict[str, Page]:
    """Each page by its path; the page for browsers is `INDEX`, which is there with the `playground` alone.

    With `wasm` it may run models in the browser.
    """
    document = openapi.document()
    with app.app_context():
        docs = render_template("docs.html", document=document, groups=openapi.groups())
    found = {
        "/docs": secured("text/html; charset=utf-8", docs.encode()),
        "/openapi.json": Page("application/json", orjson.dumps(document)),
        **page_files(wasm=wasm),
    }
    if not playground:
        found.pop(INDEX)
    return found
