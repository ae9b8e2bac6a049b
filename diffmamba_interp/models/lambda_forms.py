"""lambda, the weight of the subtrahend, in each of its forms.

lambda = sigmoid(sum(lambda_q1)) + lambda_init           "sigmoid_sum", Diff-Mamba (arXiv 2507.06204), Eq. 16;
                                                         lambda_q1 has d_model entries
lambda = sigmoid(lambda_q1) + lambda_init                "sigmoid", Eq. 16 as the published Diff-S6 over Mamba-2 has it:
                                                         lambda_q1 is one number
lambda = exp(q1.k1) - exp(q2.k2) + lambda_init           "exp_dot", Eq. 10; d_state entries each
lambda = 1                                               "one", no parameters: the published Diff-S6 over Mamba-1
lambda[t] = sigmoid(w.u[t] + b) + lambda_init            "token_gate", one for each token: a departure from the paper,
                                                         after a popular summary of it; u is the block's input, normed
lambda[t,h] = sigmoid(W u[t] + b)[h]                     "token_head_gate", one for each token and head, without
                                                         lambda_init: a departure from the paper, after the successor
                                                         of the differential Transformer (2026)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.config import LambdaForm
from diffmamba_interp.ops.precision import upcast

Axis = Literal["d_model", "d_state", "n_heads"]


@dataclass(frozen=True, kw_only=True)
class FormOfLambda:
    """What a form is made of.

    parameters: their names and axes, each a size of one branch. scope: what has a lambda of its own. has_sigmoid:
    whether it is a sigmoid plus `lambda_init`, which can be saturated.
    """

    parameters: Mapping[str, tuple[Axis, ...]]
    scope: Literal["block", "token", "token and head"] = "block"
    has_sigmoid: bool = False


FORMS: dict[LambdaForm, FormOfLambda] = {
    "sigmoid_sum": FormOfLambda(parameters={"lambda_q1": ("d_model",)}, has_sigmoid=True),
    "sigmoid": FormOfLambda(parameters={"lambda_q1": ()}, has_sigmoid=True),
    "exp_dot": FormOfLambda(parameters={f"lambda_{name}": ("d_state",) for name in ("q1", "k1", "q2", "k2")}),
    "one": FormOfLambda(parameters={}),
    "token_gate": FormOfLambda(parameters={"lambda_w": ("d_model",), "lambda_b": ()}, scope="token"),
    "token_head_gate": FormOfLambda(
        parameters={"lambda_w": ("n_heads", "d_model"), "lambda_b": ("n_heads",)}, scope="token and head"
    ),
}


def lambda_from_parameters(parameters: Mapping[str, Tensor], init: float) -> Float[Tensor, ""]:
    """lambda of a form that has one for all tokens, from its parameters by their names, in float32 or wider."""
    values = {name: upcast(value) for name, value in parameters.items()}
    if not values:
        return torch.ones(())
    if set(values) == {"lambda_q1"}:
        return torch.sigmoid(values["lambda_q1"].sum()) + init
    first = torch.exp(values["lambda_q1"] @ values["lambda_k1"])
    second = torch.exp(values["lambda_q2"] @ values["lambda_k2"])
    return first - second + init


def lambda_of_tokens(
    parameters: Mapping[str, Tensor], init: float, u: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos gate"]:
    """lambda of a form that has one for each token, [batch, pos, 1], or for each of its heads, [batch, pos, head]."""
    weight, bias = upcast(parameters["lambda_w"]), upcast(parameters["lambda_b"])
    if weight.ndim == 1:
        return torch.sigmoid(upcast(u) @ weight + bias)[..., None] + init
    return torch.sigmoid(upcast(u) @ weight.mT + bias)
