"""Explorer of Mamba and Diff-Mamba models: `streamlit run app/main.py -- --root FOLDER`. Navigation only."""

import sys
from pathlib import Path

import streamlit as st

# `streamlit run` puts this file's folder on the path, not the project's, whose `app` the pages import.
APP = Path(__file__).resolve().parent
PROJECT = str(APP.parent)
if PROJECT not in sys.path:
    sys.path.insert(0, PROJECT)

from app import kept_state, starting  # noqa: E402
from app.panels.errors import shown_errors  # noqa: E402

# Not in a folder `pages`: Streamlit takes such a folder for an app without navigation, and a link to one of its
# pages would then run that file alone, without this one.
PAGES = [
    st.Page("views/overview.py", title="Overview", icon=":material/home:", default=True),
    st.Page("views/attention.py", title="Attention", icon=":material/grid_on:"),
    st.Page("views/lens.py", title="Lens", icon=":material/layers:"),
    st.Page("views/needle.py", title="Needle", icon=":material/search:"),
    st.Page("views/interventions.py", title="Interventions", icon=":material/tune:"),
    st.Page("views/retrieval.py", title="Retrieval", icon=":material/query_stats:"),
    st.Page("views/session.py", title="Session", icon=":material/save:"),
]

st.set_page_config(page_title="Diff-Mamba explorer", page_icon=str(APP / "icon.svg"), layout="wide")
st.html(APP / "style.css")
# Whatever goes wrong is said in words of ours: Streamlit's own box hides what it was.
with shown_errors("Drawing this page"):
    kept_state.begin()
    page = st.navigation(PAGES)
    kept_state.visit(page.url_path)
    starting.start()
    page.run()
    kept_state.write_url()
# At the end, since it takes a line of the page, and does not need to be there before the figures.
st.html(APP / "png_button.html", unsafe_allow_javascript=True)
