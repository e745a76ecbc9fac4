"""What it took: joules and dollars, in all, per token and per request, and the parts that prompts and answers caused."""

from collections.abc import Iterable, Sequence
from typing import Any

from simfleet.records import Account
from simfleet.report.shares import BOUNDARIES, Share, caused, lines_usd, total
from simfleet.run import Run

Json = dict[str, Any]


def over(amount: float, by: float) -> float | None:
    """A ratio; None where there is nothing to divide by."""
    return amount / by if by > 0 else None


def energy(run: Run, used: Iterable[Share], accounts: list[Account]) -> Json:
    """Joules of the shares `used` at the four boundaries, carbon and water: totals, per token and request.

    `accounts` are the streams that used them: their tokens divide, and their prompts and answers are the parts.
    """
    used = list(used)
    sums, counts = total(used), _counts(accounts)
    causes = caused(run, accounts)
    prompts, answers = causes.prompts, causes.answers
    found: Json = {"joules": {scope: sums.joules(scope) for scope in BOUNDARIES}}
    for name, share, tokens in (
        ("joules_per_output_token", sums, counts["output"]),
        ("joules_per_input_token", sums, counts["input"]),
        ("joules_per_total_token", sums, counts["input"] + counts["output"]),
        ("joules_per_request", sums, counts["completed"]),
        ("prefill_joules_per_input_token", prompts, counts["input"]),
        ("decode_joules_per_output_token", answers, counts["output"]),
    ):
        found[name] = {scope: over(share.joules(scope), tokens) for scope in BOUNDARIES}
    found |= {
        "provisioned_joules_per_output_token": over(sums.provisioned_j, counts["output"]),
        "idle_j": sums.accelerator_j - sums.accelerator_active_j,
        "unattributed_facility_j": _unused(used).facility_j,
        "mean_accelerator_w": over(sums.accelerator_j, run.records.duration_s),
        "mean_facility_w": over(sums.facility_j, run.records.duration_s),
        "tok_s_per_watt": over(counts["output"], sums.facility_j),
    }
    for name in ("grams_co2e", "embodied_grams_co2e", "litres_water"):
        found[name] = amount = getattr(sums, name)
        found[f"{name}_per_mtok_output"] = over(amount * 1e6, counts["output"])
        found[f"{name}_per_request"] = over(amount, counts["completed"])
    return found


def peak_facility_w(run: Run, pools: Sequence[int]) -> float | None:
    """The most that some pools drew together at their meters, of the means between two rows of the timeline [W]."""
    rows = run.records.timeline.array()
    if not len(rows) or not pools:
        return None
    return float(sum(rows["facility_w"][rows["pool"] == number] for number in pools).max())


def cost(run: Run, used: Iterable[Share], accounts: list[Account]) -> Json:
    """Dollars of the shares `used`: total, per million tokens in parts that sum to the whole, per request, and what they bought."""
    used = list(used)
    sums, counts = total(used), _counts(accounts)
    causes = caused(run, accounts)
    prompts, answers = causes.prompts, causes.answers
    tokens = counts["input"] + counts["output"]
    return {
        "usd_total": sums.usd,
        "usd_input": causes.new.usd,
        "usd_cached_input": causes.cached.usd,
        "usd_output": answers.usd,
        "usd_unattributed": _unused(used).usd,
        "electricity_usd_metered": sums.electricity_usd,
        "electricity_share": over(sums.electricity_usd, sums.usd),
        "usd_per_mtok_input": over(causes.new.usd * 1e6, counts["input"] - counts["cached"]),
        "usd_per_mtok_cached_input": over(causes.cached.usd * 1e6, counts["cached"]),
        "usd_per_mtok_output": over(answers.usd * 1e6, counts["output"])
        or None,  # no answer went beyond its first token
        "usd_per_mtok_total": over(sums.usd * 1e6, tokens),
        "usd_per_request": over(sums.usd, counts["completed"]),
        "tokens_per_usd": over(tokens, sums.usd),
        "tok_s_per_usd_per_hour": over(counts["output"] / 3600, sums.usd),
        "spent_usd": {
            "prompts": prompts.usd - prompts.idle_usd,
            "answers": answers.usd - answers.idle_usd,
            "idle": sums.idle_usd,
        },
    }


def waterfall(run: Run, pools: Iterable[int]) -> dict[str, float]:
    """Dollars of some pools line by line; they sum to `usd_total`."""
    lines: dict[str, float] = {}
    for number in pools:
        for name, usd in lines_usd(run, number).items():
            lines[name] = lines.get(name, 0.0) + usd
    return lines


def _unused(used: list[Share]) -> Share:
    """What no request caused: pools that never had work."""
    return total(share for share in used if not share.device_s)


def _counts(accounts: list[Account]) -> dict[str, int]:
    return {
        "input": sum(account.input_tokens for account in accounts),
        "cached": sum(account.cached_tokens for account in accounts),
        "output": sum(account.output_tokens for account in accounts),
        "completed": sum(account.completed for account in accounts),
    }
