"""At the foot of the side bar: a link to what is shown, and a step back."""

from __future__ import annotations

import streamlit as st

from app.shell import address

COPY_LINK = """<button id="copy-link" type="button">Copy link</button>
<script>
(() => {
    const button = document.getElementById("copy-link");
    if (button.dataset.ready) return;
    button.dataset.ready = "yes";
    button.addEventListener("click", async () => {
        try {
            await navigator.clipboard.writeText(location.href);
            button.textContent = "Link copied";
        } catch {
            // Only pages of this machine, or behind https, may write to the clipboard.
            window.prompt("The link to this view", location.href);
        }
        setTimeout(() => { button.textContent = "Copy link"; }, 2000);
    });
})();
</script>"""


def draw_sharing() -> None:
    with st.sidebar:
        left, right = st.columns(2, vertical_alignment="center")
        left.button(
            "Undo", key="undo", on_click=address.undo, disabled=not address.can_undo(), icon=":material/undo:",
            help="Set what was changed last on this page as it was", width="stretch",
        )  # fmt: skip
        with right:
            st.html(COPY_LINK, unsafe_allow_javascript=True)
