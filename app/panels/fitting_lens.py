"""Which lens reads the models of a page, where the bundled one may be of other weights."""

from __future__ import annotations

import streamlit as st

from app import loading
from app.lens_request import BUNDLED_LENS, LOGIT_LENS, LensRequest, lens_request
from app.panels.chosen_model import ChosenModel
from app.panels.lens_choices import choose_lens, lens_of_second
from app.panels.plain_text import markdown
from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import load_lens


def choose_fitting_lenses(models: list[ChosenModel], key: str) -> list[LensRequest]:
    """The lens that is chosen, for each model; the logit lens, with a note, where a bundled one does not fit.

    Raises as `lens_request`, and ValueError where a lens folder is of another model, once it is read.
    """
    names = [choose_lens("Lens", key, models[0])]
    names += [lens_of_second(names[0], model) for model in models[1:]]
    requests = [request_for(name, model) for name, model in zip(names, models, strict=True)]
    unfit = [
        model.name
        for name, model, request in zip(names, models, requests, strict=True)
        if name == BUNDLED_LENS and not fits(model, request)
    ]
    if not unfit:
        return requests
    st.caption(
        f"The bundled tuned lens of {markdown(', '.join(unfit))} was trained for other weights than "
        "these: the logit lens reads instead."
    )
    return [request_for(LOGIT_LENS, model) for model in models]


def request_for(name: str, model: ChosenModel) -> LensRequest:
    return lens_request(name, model.key, first=0, last=0, needs_target=False, target=None)


def fits(model: ChosenModel, request: LensRequest) -> bool:
    """Whether the lens was made for the model's read-out."""

    def make(loaded: HookedMamba) -> bool:
        assert request.lens is not None
        try:
            load_lens(request.lens, loaded)
        except ValueError:
            return False
        return True

    return loading.result(model.key, ("lens fits", request.lens, request.revision), make, lambda _: 100)
