"""Implicit attention: what the scans of a block read, what the subtraction leaves, and what it writes."""

from diffmamba_interp.implicit_attention.activations import BlockActivations, BranchActivations, capture_block
from diffmamba_interp.implicit_attention.contributions import (
    Contribution,
    contribution_along,
    contribution_norms,
    token_contributions,
)
from diffmamba_interp.implicit_attention.dynamics import HalfLife, memory_half_life, rollout
from diffmamba_interp.implicit_attention.effective import EffectiveAttention, effective_attention
from diffmamba_interp.implicit_attention.extract import extract_attention
from diffmamba_interp.implicit_attention.graph import ContributionGraph, Edge, contribution_graph
from diffmamba_interp.implicit_attention.head_rivals import HeadRivals, head_rivals
from diffmamba_interp.implicit_attention.head_scores import (
    DEFINITIONS,
    HeadScores,
    gather_and_aggregate,
    gather_prompts,
    head_contribution_norms,
    state_sink,
)
from diffmamba_interp.implicit_attention.hidden import hidden_attention, hidden_attention_bytes
from diffmamba_interp.implicit_attention.needle_share import needle_share
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.residual import ResidualAttribution, Writer, residual_attribution
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, MemoryLimitError
from diffmamba_interp.implicit_attention.softmax import differential_attention
from diffmamba_interp.implicit_attention.source_scores import SOURCE_SCORES, SourceScore, source_scores
from diffmamba_interp.implicit_attention.span_measures import (
    SpanSummary,
    attention_snr,
    branch_cosine,
    removed_share,
    summarise_spans,
)
from diffmamba_interp.implicit_attention.writes import WriteLogitShift, write_logit_shift
from diffmamba_interp.models.read_out import logit_direction
from diffmamba_interp.spans import SPAN_CLASSES, Spans

__all__ = [
    "SOURCE_SCORES",
    "SPAN_CLASSES",
    "HalfLife",
    "SpanSummary",
    "Spans",
    "attention_snr",
    "branch_cosine",
    "memory_half_life",
    "removed_share",
    "rollout",
    "summarise_spans",
    "DEFAULT_MAX_BYTES",
    "DEFINITIONS",
    "AttentionRecord",
    "BlockActivations",
    "BranchActivations",
    "Contribution",
    "ContributionGraph",
    "Edge",
    "EffectiveAttention",
    "HeadRivals",
    "HeadScores",
    "MemoryLimitError",
    "ResidualAttribution",
    "WriteLogitShift",
    "Writer",
    "capture_block",
    "contribution_along",
    "contribution_graph",
    "contribution_norms",
    "differential_attention",
    "effective_attention",
    "extract_attention",
    "gather_and_aggregate",
    "gather_prompts",
    "head_contribution_norms",
    "head_rivals",
    "hidden_attention",
    "hidden_attention_bytes",
    "logit_direction",
    "needle_share",
    "residual_attribution",
    "state_sink",
    "SourceScore",
    "source_scores",
    "token_contributions",
    "write_logit_shift",
]
