"""Streams: one source of requests each, reproducible by name, laid over presets, and refused where they are not whole."""

from itertools import islice, pairwise
from math import inf

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from simfleet.document import Document, SpecError
from simfleet.library import Library, shipped
from simfleet.spec import build
from simfleet.streams import Streams
from simfleet.workload.streams import Stream, Workload

LIBRARY = Library()
TOKENS = {
    "input": {"dist": "lognormal", "median": 500, "sigma": 0.8},
    "output": {"dist": "uniform", "low": 1, "high": 99},
}
PRESETS = sorted(path.stem for path in shipped("workloads").glob("*.yaml"))


@pytest.fixture
def context(tmp_path):
    return {"library": LIBRARY, "folder": tmp_path}


def stream(context=None, **keys):
    given = {"name": "chat", "model": "llama-3.1-8b", **keys}
    return Stream.model_validate(given, context=context or {"library": LIBRARY, "folder": None})


def opened(**keys):
    return stream(**{"arrival": {"rate": "10 /s"}, "tokens": TOKENS, **keys})


def requests(spec, horizon_s=inf, seed=0):
    return list(spec.requests(Streams(seed), horizon_s))


def workload(text):
    return build(Workload, Document.from_text(text, "w.yaml"), {"library": LIBRARY})


# Requests ---------------------------------------------------------------------------------------------------------


def test_requests_come_in_order_until_the_horizon():
    found = requests(opened(), 100.0)
    assert len(found) == pytest.approx(1000, abs=130)
    assert all(before[0] <= after[0] for before, after in pairwise(found))
    assert found[-1][0] <= 100.0
    assert all(isinstance(arrival_s, float) and type(i) is int and type(o) is int for arrival_s, i, o in found)


def test_count_is_a_cap():
    assert requests(opened(count=50)) == requests(opened(), 100.0)[:50]
    assert len(requests(opened(count=5000), 10.0)) < 200


def test_another_name_or_seed_gives_other_requests_and_nothing_else_does():
    base = requests(opened(count=20))
    assert requests(opened(count=20)) == base
    assert requests(opened(count=20), seed=1) != base
    assert requests(opened(count=20, name="other")) != base
    longer = requests(opened(count=20, tokens={**TOKENS, "output": {"dist": "constant", "value": 7}}))
    assert [r[:2] for r in longer] == [r[:2] for r in base]  # common random numbers
    faster = requests(opened(count=20, arrival={"rate": "20 /s"}))
    assert [r[1:] for r in faster] == [r[1:] for r in base]
    assert [r[0] for r in faster] == pytest.approx([r[0] / 2 for r in base])


def test_two_streams_drawn_in_turns_do_not_disturb_each_other():
    streams = Streams(0)
    chat, code = (opened(name=name, count=9000).requests(streams, inf) for name in ("chat", "code"))
    both = list(zip(chat, code, strict=True))
    assert [one for one, _ in both] == requests(opened(count=9000))


def test_a_closed_loop_takes_the_same_lengths():
    loop = stream(arrival={"kind": "closed_loop", "users": 3}, tokens=TOKENS)
    lengths = list(islice(loop.lengths(Streams(0)), 9000))
    assert lengths == [r[1:] for r in requests(opened(count=9000))]
    with pytest.raises(TypeError, match="closed loop"):
        loop.requests(Streams(0), 10.0)


def test_a_burst_is_all_at_once():
    burst = stream(arrival={"kind": "burst", "at": "5 s"}, tokens=TOKENS, count=300)
    assert [r[0] for r in requests(burst)] == [5.0] * 300
    assert [r[1:] for r in requests(burst)] == [r[1:] for r in requests(opened(count=300))]
    assert requests(burst, 4.0) == []


def test_a_trace_is_replayed(context, tmp_path):
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,1\n1.5,20,2\n7,30,3\n")
    replay = stream(context, trace={"file": "t.csv"})
    assert requests(replay) == [(0.0, 10, 1), (1.5, 20, 2), (7.0, 30, 3)]
    assert requests(replay, 2.0) == [(0.0, 10, 1), (1.5, 20, 2)]
    assert requests(stream(context, trace={"file": "t.csv"}, count=1)) == [(0.0, 10, 1)]
    assert not replay.endless
    with pytest.raises(TypeError, match="replays a trace"):
        next(replay.lengths(Streams(0)))


def test_only_what_never_stops_by_itself_is_endless():
    once = {"kind": "stages", "stages": [{"duration": "1 min", "factor": 1}]}
    loop = {"kind": "closed_loop", "users": 1}
    assert opened().endless
    assert opened(arrival=loop).endless
    assert opened(arrival={"rate": "1 /s", "envelope": {**once, "repeat": True}}).endless
    assert not opened(arrival={"rate": "1 /s", "envelope": once}).endless
    assert not opened(count=5).endless
    assert not opened(arrival=loop, count=5).endless
    assert not opened(arrival={"kind": "burst"}, count=5).endless


# Presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_requests_and_says_where_it_is_from(name):
    shelf = yaml.safe_load((shipped("workloads") / f"{name}.yaml").read_text())
    assert {"description", "source", "licence", "note", "arrival"} <= set(shelf)
    spec = stream(preset=name, count=100, **({} if "tokens" in shelf else {"tokens": TOKENS}))
    assert len(requests(spec)) == 100


def test_own_keys_are_laid_over_a_preset():
    spec = stream(
        preset="azure-2023-conversation", arrival={"rate": "50 /s"}, tokens={"output": {"dist": "constant", "value": 9}}
    )
    assert spec.arrival.rate == 50
    assert len(spec.arrival.envelope[0].stages) == 12
    assert spec.tokens.output.mean == 9
    assert spec.tokens.input.dist == "empirical"
    assert spec.preset == "azure-2023-conversation"


def test_another_kind_of_arrival_takes_the_place_of_the_presets():
    spec = stream(preset="azure-2023-code", arrival={"kind": "closed_loop", "users": 8})
    assert spec.arrival.users == 8
    assert spec.tokens.input.dist == "mixture"


def test_a_week_without_lengths_needs_tokens():
    with pytest.raises(ValidationError, match="missing: `tokens`"):
        stream(preset="azure-2024-code")


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "missing: `arrival` and `tokens`"),
        ({"arrival": {"rate": "1 /s"}}, "missing: `tokens`"),
        ({"tokens": TOKENS}, "missing: `arrival`"),
        ({"tokens": TOKENS, "arrival": {"kind": "burst"}}, "`count` beside a burst"),
        ({"tokens": TOKENS, "arrival": {"rate": "1 /s"}, "count": 0}, "greater than or equal to 1"),
        ({"tokens": TOKENS, "arrival": {"rate": "1 /s"}, "name": "a.b"}, "without dots and spaces"),
        ({"tokens": TOKENS, "arrival": {"rate": "1 /s"}, "timeout": "0 s"}, "above 0"),
        ({"preset": "azure-2023-chat"}, "azure-2023"),
    ],
)
def test_what_is_not_whole_is_refused(keys, message):
    with pytest.raises(ValidationError) as error:
        stream(**keys)
    assert message in str(error.value)


def test_a_trace_stands_alone(context, tmp_path):
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,1\n1.5,20,2\n")
    with pytest.raises(ValidationError, match="got both"):
        stream(context, trace={"file": "t.csv"}, tokens=TOKENS)


CHAT = "{name: chat, model: llama-3.1-8b, class: fast, arrival: {rate: 1 /s}, tokens: {input: {dist: constant, value: 5}, output: {dist: constant, value: 5}}}"


def test_classes_and_their_targets():
    whole = workload(f"classes:\n  fast: {{ttft: 1 s, tpot: 50 ms}}\nstreams:\n  - {CHAT}\n")
    fast = whole.classes["fast"]
    assert (fast.ttft, fast.tpot, fast.e2e, fast.target) == (1.0, 0.05, None, 0.95)
    assert whole.streams[0].service_class == "fast"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"classes: {{fats: {{ttft: 1 s}}}}\nstreams:\n  - {CHAT}\n", 3, "unknown class `fast`; did you mean `fats`?"),
        (f"classes: {{fast: {{}}}}\nstreams:\n  - {CHAT}\n  - {CHAT}\n", 4, "another stream is named `chat`"),
        ("streams: []\n", 1, "streams"),
        ("streams:\n  - {name: a, model: llama-3.1-8b, arival: {rate: 1 /s}}\n", 2, "did you mean `arrival`?"),
        (f"streams:\n  - {CHAT.replace('1 /s', '1')}\n", 2, "expected rate with a unit"),
        (
            f"streams:\n  - {CHAT.replace('{rate: 1 /s}', '{rate: 1 /s, envelope: {kind: weekly, preset: azure-2024-cod}}')}\n",
            2,
            "azure-2024-code",
        ),
    ],
)
def test_messages_name_line_and_reason(text, line, message):
    with pytest.raises(SpecError) as error:
        workload(text)
    assert any(problem.mark.line == line and message in str(problem) for problem in error.value.problems), str(
        error.value
    )


def test_lengths_are_plain_whole_numbers():
    pairs = list(islice(opened().lengths(Streams(0)), 5000))
    assert np.shape(pairs) == (5000, 2)
    assert all(type(value) is int for pair in pairs[:10] for value in pair)


def test_input_and_output_lengths_are_drawn_independently():
    same = {"dist": "lognormal", "median": 500, "sigma": 0.8}
    pairs = np.array(list(islice(opened(tokens={"input": same, "output": same}).lengths(Streams(0)), 20_000)))
    assert abs(np.corrcoef(np.log(pairs.T))[0, 1]) < 4 / np.sqrt(20_000)
