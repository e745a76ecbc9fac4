"""Targets: what they may ask, in what units, and what is said of mistakes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import simfleet as sf
from simfleet.gate.metrics import METRICS, Ask, answer, fewest_samples, groups_in, quantity, shown, subject
from simfleet.gate.targets import SEEDS, expression, is_gate, read_gate, targets_of
from simfleet.report.metrics import GROUPS, SAMPLES
from simfleet.units import UNITS
from tests.gates import SMALL, known, reports, small

NAMES = {"class": "chat", "pool": "chat", "model": "llama-3.1-8b"}


def every_ask() -> list[Ask]:
    """All metrics with each group, choice and statistic."""
    found = []
    for name, metric in METRICS.items():
        for group in metric.groups:
            tags = ((group, NAMES[group]),) if group in NAMES else ()
            for choice in metric.choices[1] if metric.choices else ("",):
                more = ((metric.choices[0], choice),) if metric.choices else ()
                found += [Ask(name, tags + more, statistic) for statistic in metric.paths if group != "tenant"]
    return found


def test_every_metric_stands_in_a_report() -> None:
    """Its value is a number, or null for what this run leaves undefined; it is never missing."""
    report = reports(1)[0]
    undefined = {"embodied_grams_co2e", "usd_per_mtok_cached_input", "usd_cached_input"}
    for ask in every_ask():
        value = answer(report, ask).value
        sampled = ask.metric.dimension == "seconds" and answer(report, ask).samples < fewest_samples(ask)
        assert value is not None or sampled or ask.name.startswith(tuple(undefined)), ask


def test_every_metric_reads_back_as_it_is_shown() -> None:
    for ask in every_ask():
        if ask.metric.dimension not in ("regime", "rate"):
            assert quantity(shown(0.25, ask), ask) == pytest.approx(0.25), ask
        assert subject(ask.subject, known())._replace(statistic=ask.statistic) == ask


@pytest.mark.parametrize(
    ("name", "text", "limit", "shown_as"),
    [
        ("ttft{class=chat}", "p95 <= 250 ms", 0.25, "ttft{class=chat} p95 <= 250 ms"),
        ("ttft_s", "p95<1s", 1.0, "ttft p95 <1s"),
        (" tpot { class = chat } ", " mean  <=  0.05 s ", 0.05, "tpot{class=chat} mean <=  0.05 s"),
        ("joules_per_output_token{scope=facility}", "<= 0.8 J", 0.8, "joules_per_output_token{scope=facility} <= 0.8 J"),
        ("joules_per_output_token{class=chat,scope=node}", "<= 0.8 J/token", 0.8, None),
        ("usd_per_mtok_output", "<= $1.5", 1.5, None),
        ("usd_per_mtok_output", "<= 1.5 $/Mtok", 1.5, None),
        ("usd_per_request", "< $0.001 / request", 0.001, None),
        ("attainment", ">= 99.5 %", 0.995, None),
        ("attainment_ttft{class=chat}", ">= 0.9", 0.9, None),
        ("power_facility", "max <= 120 kW", 120e3, None),
        ("kv_occupancy{pool=chat}", "max <= 80 %", 0.8, None),
        ("output_tok_s", ">= 2 ktok/s", 2000.0, None),
        ("litres_water", "<= 50 mL", 0.05, None),
        ("rejected{class=chat}", "== 0", 0.0, None),
        ("completed", ">= 1,000", 1000.0, None),
        ("goodput_rps", ">= 480 /min", 8.0, None),
        ("regime", "!= nothing served", "nothing served", None),
    ],
)  # fmt: skip
def test_known_expressions(name: str, text: str, limit: float | str, shown_as: str | None) -> None:
    target = expression(name, text, known())
    assert target.limit == (limit if isinstance(limit, str) else pytest.approx(limit, rel=1e-15))
    assert shown_as is None or str(target) == shown_as


@pytest.mark.parametrize(
    ("name", "text", "phrase"),
    [
        ("ttfft", "p95 <= 1 s", "unknown metric `ttfft`; did you mean `ttft`?"),
        ("ttft{", "p95 <= 1 s", "expected a metric such as `ttft{class=chat}`"),
        ("ttft{chat}", "p95 <= 1 s", "expected tags such as `{class=chat}`, got `chat`"),
        ("ttft{clas=chat}", "p95 <= 1 s", "no tag `clas`; did you mean `class`?"),
        ("ttft{pool=chat}", "p95 <= 1 s", "`ttft` has no tag `pool`"),
        ("itl{class=chat}", "p95 <= 1 s", "no tag `class`; it takes none"),
        ("ttft{class=caht}", "p95 <= 1 s", "unknown class `caht`; did you mean `chat`?"),
        ("rejected{tenant=us}", "== 0", "unknown tenant `us`; there is none"),
        ("rejected{class=chat,pool=chat}", "== 0", "at most one of"),
        ("joules_per_output_token", "<= 1 J", "expected scope=, one of accelerator_active"),
        ("joules{scope=rack}", "<= 1 J", "unknown scope `rack`"),
        ("kv_occupancy", "max <= 80 %", "expected pool="),
        ("ttft", "<= 1 s", "expected a statistic before the comparison, one of mean, p50"),
        ("ttft", "p98 <= 1 s", "unknown statistic `p98` of `ttft`; did you mean `p9"),
        ("attainment", "mean >= 99 %", "`attainment` is one number"),
        ("ttft", "p95 = 1 s", "with a sign of <=, <, >=, >, ==, !="),
        ("ttft", "p95 1 s", "such as `p95 <= 1 s`"),
        ("ttft", "p95 <= 3 W", "expected seconds such as `50 ms`, got the unit `W`"),
        ("ttft", "p95 <= 3", "without one"),
        ("usd_per_mtok_output", "<= $1/tok", "got the unit `$/tok`"),
        ("joules_per_output_token{scope=node}", "<= 1 J/Mtok", "got the unit `J/Mtok`"),
        ("attainment", ">= 99", "expected a share from 0 to 1"),
        ("attainment", ">= 3 s", "expected a share from 0 to 1"),
        ("rejected", "== 0 s", "expected a number without a unit"),
        ("regime", "<= stable", "expected == or != for `regime`"),
        ("regime", "== stabel", "unknown regime `stabel`; did you mean `stable`?"),
        ("usd_total", "== $3", "no two runs are equal to the last digit"),
    ],
)  # fmt: skip
def test_mistakes_are_named(name: str, text: str, phrase: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        expression(name, text, known())
    assert phrase in str(caught.value)


@given(st.sampled_from([name for name, m in METRICS.items() if m.dimension in UNITS]), st.data())
def test_only_units_of_its_dimension_fit_a_metric(name: str, data: st.DataObject) -> None:
    ask = Ask(name, (("scope", "node"),))
    own = UNITS[ask.metric.dimension]
    unit = data.draw(st.sampled_from(sorted({unit for units in UNITS.values() for unit in units} - {*own})))
    suffixes = ("/Mtok", "/tok", "/request")
    if unit.removesuffix("/Mtok") not in own and not unit.endswith(suffixes):
        with pytest.raises(ValueError, match="expected"):
            quantity(f"3 {unit}", ask)
    for fits in own:
        assert quantity(f"3 {fits}", ask) == 3 * own[fits]


def test_samples_that_a_statistic_needs() -> None:
    for q, least in SAMPLES.items():
        assert fewest_samples(Ask("ttft", (), f"p{q * 100:.0f}")) == least
        assert fewest_samples(Ask("attainment"), q) == least
    assert fewest_samples(Ask("ttft", (), "mean")) == SAMPLES[0.5]
    assert fewest_samples(Ask("attainment"), 0.999) == pytest.approx(20_000)
    assert fewest_samples(Ask("attainment"), 1.0) == float("inf")
    assert fewest_samples(Ask("usd_total")) == 0


def test_groups_of_a_scenario_are_those_of_its_report() -> None:
    assert groups_in(reports(1)) == known()
    assert set(GROUPS) == set(known())


# -- files ---------------------------------------------------------------------------------------------------------------


def test_without_targets_the_classes_wanted_attainment_is_judged() -> None:
    assert [str(target) for target in targets_of(small())] == [
        "attainment{class=chat} >= 95 %",
        "attainment{class=night} >= 90 %",
    ]


def test_nothing_to_judge_is_bad_input() -> None:
    bare = small(workload__classes="{}", **{f"workload__streams__{name}__class": "null" for name in ("talk", "batch")})
    with pytest.raises(sf.SpecError, match="there is nothing to judge"):
        targets_of(bare)


def test_targets_are_read_from_the_scenario_and_are_no_part_of_its_hash() -> None:
    asked = small(
        targets='{"ttft{class=chat}": ["p95 <= 1 s", {expect: p50 <= 1 s, level: warn}], regime: ["== stable"]}'
    )
    assert [(str(target), target.level) for target in targets_of(asked)] == [
        ("ttft{class=chat} p95 <= 1 s", "error"),
        ("ttft{class=chat} p50 <= 1 s", "warn"),
        ("regime == stable", "error"),
    ]
    assert asked.model_dump_json() == small().model_dump_json()


def test_every_mistake_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        SMALL + "targets:\n  ttft: [p95 <= 1 W]\n  ttfft:\n    - p95 <= 1 s\n    - {expect: p50 <= 1 s}\n  e2e: []\n"
    )
    with pytest.raises(sf.SpecError) as caught:
        read_gate(str(path))
    line = len(SMALL.splitlines())
    assert [(problem.mark.line, problem.path) for problem in caught.value.problems] == [
        (line + 2, "targets.ttft.0"), (line + 4, "targets.ttfft.0"), (line + 5, "targets.ttfft.1"), (line + 6, "targets.e2e"),
    ]  # fmt: skip


def test_an_sla_file_beside_its_scenario(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    sla = tmp_path / "small.sla.yaml"
    sla.write_text("targets: {regime: [== stable]}\n")
    assert read_gate(str(sla)).seeds == SEEDS
    sla.write_text(
        "scenario: small.yaml\nset: {pools.chat.replicas: 3, pools.chat.precision: fp8}\nseeds: 6\nconfidence: 90 %\n"
        "sha256: 0123456789ab\ntargets: {'attainment{class=chat}': ['>= 90 %']}\n"
    )
    gate = read_gate(str(sla), [("pools.chat.replicas", "2")])
    assert (gate.seeds, gate.confidence, gate.sha256) == (6, 0.9, "0123456789ab")
    assert (gate.scenario.pools["chat"].replicas, gate.scenario.pools["chat"].formats.weights) == (2, "fp8")
    assert (gate.targets[0].mark.file, gate.targets[0].mark.line) == (str(sla), 6)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("targets: {}\n", "expected at least 1"),
        ("targets: {regime: [== stable]}\nseeds: 1\n", "expected at least 2, got `1`"),
        ("targets: {regime: [== stable]}\nconfidence: 100 %\n", "confidence"),
        ("targets: {regime: [== stable]}\nsha256: abc\n", "sha256"),
        ("targets: {regime: [== stable]}\nscenario: elsewhere.yaml\n", "no such file"),
        ("targets: {regime: [== stable]}\nsecods: 3\n", "unknown key"),
        ("targets: {regime: [== stabel]}\n", "did you mean `stable`"),
    ],
)
def test_mistakes_of_an_sla_file(tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    sla = tmp_path / "small.sla.yaml"
    sla.write_text(text)
    with pytest.raises(sf.SpecError, match=phrase):
        read_gate(str(sla))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("small.yaml", SMALL, True),
        ("a.sla.yaml", "targets: {}", True),
        ("a.yaml", "scenario: quickstart\ntargets: {}", True),
        ("a.yaml", "on: push\njobs: {}", False),
        ("a.yaml", "pools:\n  - 1", False),
        ("a.yaml", "name: x\npools:\n\t- broken", True),
        ("a.txt", SMALL, False),
    ],
)
def test_what_is_taken_for_a_gate(tmp_path: Path, name: str, text: str, expected: bool) -> None:
    (tmp_path / name).write_text(text)
    assert is_gate(tmp_path / name) is expected
