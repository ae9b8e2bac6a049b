"""The explorer: `main.py` (navigation), `shell/` (what pages share), `pages_/` (one folder a page).

A new page is a folder and a line: `pages_/<page>/<page>.py`, whose last line calls its `page()`, and a line of `PAGES`
in `main.py`. It asks with `shell.choices`, says what it computes as `shell.steps`, runs them through `loading.result`
and prints them with `as_python`; it imports the shell, the package and its own folder, and no other page. Classes that
the cache or the session holds stand in a second file: Streamlit runs the page's file anew at every drawing.
"""
