"""Explorer of Mamba and Diff-Mamba models: `streamlit run app/main.py -- --root FOLDER`. Navigation only."""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's folder at the front of the path, not the project's, whose `app` the pages import. Outside
# of its server it takes the folder away when a run ends: an import in another thread, which looks through the path,
# passes an entry by then ("No module named 'scipy'"). So the folder stands at the end, once more than it is taken away.
APP = Path(__file__).resolve().parent
PROJECT, FOLDER = str(APP.parent), str(APP)
if PROJECT not in sys.path or sys.path[-1] != FOLDER:
    # In place of the list, since others may be reading it.
    sys.path = [PROJECT, *(entry for entry in sys.path if entry not in (PROJECT, FOLDER)), FOLDER, FOLDER]

from app.shell import address, prompt_line, sharing, starting, state, turns, viewport  # noqa: E402
from app.shell.errors import shown_errors  # noqa: E402


def page(name: str, title: str, icon: str) -> st.Page:
    """The page in the folder `name`, which is its address too."""
    return st.Page(f"pages_/{name}/{name}.py", title=title, icon=f":material/{icon}:", default=name == "overview")


NAME = "Diff-Mamba explorer"
# A page is a folder below `pages_` and a line here.
PAGES = [
    page("overview", "Overview", "home"),
    page("attention", "Attention", "grid_on"),
    page("heads", "Heads", "apps"),
    page("graph", "Graph", "account_tree"),
    page("lens", "Lens", "layers"),
    page("playground", "Playground", "edit_note"),
    page("evidence", "Evidence", "balance"),
    page("needle", "Needle", "search"),
    page("interventions", "Interventions", "tune"),
    page("retrieval", "Retrieval", "query_stats"),
    page("session", "Session", "save"),
]

st.set_page_config(page_title=NAME, page_icon=str(APP / "icon.svg"), layout="wide")
st.html(APP / "style.css")
with st.container(key="browser_loads"):
    st.html(starting.load_in_browser(), unsafe_allow_javascript=True)
    # Before the page: the browser shows the first element of a kind half a second late, and figures are of this kind.
    viewport.measure()
# Whatever goes wrong is said in words of ours: Streamlit's own box hides what it was.
with shown_errors("Drawing this page"), turns.page(leads=starting.is_complete()):
    state.begin()
    shown = st.navigation(PAGES)
    st.set_page_config(page_title=f"{shown.title} – {NAME}")
    state.visit(shown.url_path)
    untouched = shown.url_path == "" and not st.query_params
    address.read(shown.url_path)
    starting.start(untouched=untouched)
    with prompt_line.at_top(shown.url_path):
        shown.run()
    address.write()
    sharing.draw_sharing()
    starting.finish()
