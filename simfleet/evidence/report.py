"""Errors as text: what people read after `simfleet accuracy`."""

from simfleet.evidence.accuracy import SHOWN, Accuracy

HEAD = f"{'file':34} {'group':46} {'metric':17} {'rows':>5} {'median':>8} {'p90':>8} {'bias':>8}"


def text(found: Accuracy) -> str:
    """One line for each file, group and metric; then what was skipped and why."""
    lines = [f"{len(found.compared):,} runs simulated, {found.skipped.total():,} rows skipped", "", HEAD]
    shown = sorted(
        found.groups((*SHOWN, "total_tok_per_s")),
        key=lambda group: (group["file"], group["group"] != "all", group["group"]),
    )
    for group in shown:
        lines.append(
            f"{group['file'][:34]:34} {group['group'][:46]:46} {group['metric']:17} {group['n']:5} {group['median_ape']:8.1%} "
            f"{group['p90_ape']:8.1%} {group['bias']:+8.1%}"
        )
    if found.skipped:
        lines += ["", "skipped:", *(f"  {count:5}  {reason}" for reason, count in found.skipped.most_common())]
    return "\n".join(lines)
