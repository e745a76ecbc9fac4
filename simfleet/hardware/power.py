"""Energy of accelerators: a run of steps under a power limit, and time without work."""


def run_energy(t_first: float, t_slope: float, e_first: float, e_slope: float, steps: int, limit_w: float) -> float:
    """Joules of `steps` steps under a power limit: sum over j = 0 .. steps - 1 of min(limit * t_j, e_j), in closed form.

    Step j takes t_j = t_first + t_slope * j seconds and would draw e_j = e_first + e_slope * j joules. Both are affine, so the
    limit starts or ceases to bind at most once.

    t_first, t_slope -- [s]
    e_first, e_slope -- [J], before the limit
    steps            -- at least 1
    limit_w          -- [W]
    """
    last = steps - 1
    over_first = e_first - limit_w * t_first
    over_last = over_first + (e_slope - limit_w * t_slope) * last
    if over_first <= 0.0 and over_last <= 0.0:
        return steps * (e_first + e_slope * last / 2)
    if over_first >= 0.0 and over_last >= 0.0:
        return limit_w * steps * (t_first + t_slope * last / 2)
    # steps [0, head) lie on the first step's side of the limit, [head, steps) on the other
    head = min(int(over_first / (over_first - over_last) * last) + 1, last)
    tail, middle = steps - head, (head + last) / 2
    head_t, tail_t = head * (t_first + t_slope * (head - 1) / 2), tail * (t_first + t_slope * middle)
    head_e, tail_e = head * (e_first + e_slope * (head - 1) / 2), tail * (e_first + e_slope * middle)
    return head_e + limit_w * tail_t if over_first < 0.0 else limit_w * head_t + tail_e


def idle_j(gap_w: float, idle_w: float, delay_s: float, duration_s: float) -> float:
    """Joules of `duration_s` without work: `gap_w` until the clocks fall after `delay_s`, then `idle_w` [W, s]."""
    return gap_w * min(duration_s, delay_s) + idle_w * max(duration_s - delay_s, 0.0)
