"""The run of `inspect`: a checkpoint's report, and how it reads."""

from __future__ import annotations

from dataclasses import replace

from diffmamba_interp.models.checkpoint_files import printable
from diffmamba_interp.models.demo import bundled_folder
from diffmamba_interp.models.inspection import BlockReport, CheckpointReport, inspect_checkpoint
from diffmamba_interp.runs.speech import Speech


def run(path: str, speech: Speech, *, check_values: bool) -> int:
    """Say what the checkpoint holds; 0 if it loads, 1 if keys do not fit or values are not finite."""
    folder = bundled_folder(path) or path
    report = replace(inspect_checkpoint(folder, check_values=check_values), path=path)
    *table, line = format_report(report).splitlines()
    speech.result(report.to_dict(), line, table)
    return 0 if report.loads and not report.not_finite_keys else 1


def format_report(report: CheckpointReport) -> str:
    """The report as text for a terminal."""
    lines = [
        printable(report.path),
        f"  format {report.format}{f' ({report.layout})' if report.layout else ''}, "
        f"{report.n_parameters:,} parameters, stored as {', '.join(report.dtypes)}",
        *(f"  {line}" for line in report.conventions),
        f"  scan: {report.scan}",
        *(
            []
            if report.self_check is None
            else [f"  kernels against reference: {report.self_check:.1e} (logits, float32)"]
        ),
        "",
        "  block  kind           parameters   lambda  lambda_init  sigmoid",
        *(_block_line(block) for block in report.blocks),
        "",
    ]
    for title, keys in (
        ("missing keys", report.missing_keys),
        ("unexpected keys", report.unexpected_keys),
        ("keys of a wrong shape", report.misshapen_keys),
        ("hold NaN or infinity", report.not_finite_keys or ()),
    ):
        lines += [f"  {title}: {', '.join(map(printable, keys))}"] if keys else []
    spoilt = ", but its weights are not all numbers" if report.not_finite_keys else ""
    lines.append(f"  loads: {'yes' if report.loads else 'no'}{spoilt}")
    return "\n".join(lines)


def _block_line(block: BlockReport) -> str:
    line = f"  {block.index:5d}  {block.kind:12s} {block.n_parameters:12,d}"
    if block.lambda_init is None:
        return line
    lambda_ = "?" if block.lambda_ is None else f"{block.lambda_:.4f}"
    state = {True: "saturated", False: "open", None: ""}[block.saturated]
    return f"{line} {lambda_:>8s} {block.lambda_init:12.4f}  {state}"
