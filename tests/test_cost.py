"""Rent and own: what a device-hour costs, against hand values, laws and published owner's rates."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from simfleet.document import Document, SpecError
from simfleet.facility.cost import AnyCost, Own, Rent, crf
from simfleet.facility.site import Site, rated_w, servers_of
from simfleet.hardware.profile import Own as Bought
from simfleet.hardware.profile import PowerConstants, Profile, Server
from simfleet.hardware.profile import Rent as Offer
from simfleet.library import Library
from simfleet.spec import Fact, build
from simfleet.units import Watts

DOCS = Path(__file__).parents[1] / "docs" / "cost.md"
PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "energy" / "calibration" / "inferencex_tco_constants.csv"
SITE = Site.model_validate({"carbon_intensity": "321 g/kWh", "water": "0.27 L/kWh", "electricity_price": "0.08 $/kWh"})
OFFER = {"price": "$2.95/h", "provider": "acme", "kind": "on demand", "date": "2026-04", "source": "price list"}


def fact(value):
    return {"value": value, "source": "test", "grade": "estimate"}


def device(own=None, rent=(OFFER,), limit="700 W"):
    """An 8 x H100 server's device with only the parts that cost needs."""
    return Profile.model_construct(
        name="h100",
        sources={"test": "price list of the test"},
        server=Server.model_validate({"devices": 8, "host": fact("1705 W"), "factor": fact(1.1)}),
        power=PowerConstants.model_construct(limit=Fact[Watts].model_validate(fact(limit))),
        rent=tuple(Offer.model_validate(offer) for offer in rent),
        own=None if own is None else Bought.model_validate({"date": "2026-05", **own}),
    )


H100 = device({"device": fact("$25000")})


def parse(**keys):
    return TypeAdapter(AnyCost).validate_python(keys)


@pytest.mark.parametrize(
    ("rate", "years", "expected"),
    [(0.10, 5, 0.2637975), (0.08, 15, 0.1168295), (0.0, 4, 0.25), (1.0, 1, 2.0), (1e-13, 10, 0.1)],
)
def test_capital_recovery_against_hand_values(rate, years, expected):
    assert crf(rate, years) == pytest.approx(expected, rel=1e-6)


@given(st.floats(0.0, 1.0), st.integers(1, 40))
def test_the_payments_are_worth_what_was_borrowed(rate, years):
    worth = sum(crf(rate, years) / (1 + rate) ** year for year in range(1, years + 1))
    assert worth == pytest.approx(1.0, rel=1e-9)


def test_rated_watts_are_the_share_of_a_server_with_every_device_at_its_limit():
    assert rated_w(H100, 8) == pytest.approx(1705 + 1.1 * 8 * 700)
    assert rated_w(H100, 1) == pytest.approx(rated_w(H100, 8) / 8)
    assert servers_of(H100.server, 12) == 1.5


def test_rent_is_the_price_given_or_else_the_first_offer():
    assert parse(kind="rent", price="$2.5/h").rates(H100, SITE) == {"rent": 2.5}
    assert Rent().rates(H100, SITE) == {"rent": 2.95}
    assert parse(kind="rent", price="$2.5/h").estimates(H100) == []
    assert "acme" in Rent().estimates(H100)[0]


def test_only_an_owner_pays_the_meter():
    assert (Rent().metered, Own().metered) == (False, True)


def test_every_line_of_owning_against_hand_values():
    """25,000 + 12,500 of server + 4,687.50 of network; 1,071 W of facility at $12."""
    lines = Own().rates(H100, SITE)
    watts = (1705 / 8 + 1.1 * 700) * 1.09
    assert lines["devices"] == pytest.approx(25_000 * 0.26379748 / 8760)
    assert lines["servers"] == pytest.approx(12_500 * 0.26379748 / 8760)
    assert lines["network"] == pytest.approx(4_687.5 * 0.26379748 / 8760)
    assert lines["facility"] == pytest.approx(12 * watts * 0.13147378 / 8760)
    assert lines["upkeep"] == pytest.approx(0.05 * (42_187.5 + 12 * watts) / 8760)


def test_what_is_given_replaces_what_is_assumed():
    own = parse(kind="own", device="$1000", server="$100", network="$10", provisioned="1 kW", facility="10 $/W", rate=0.0, years=1, upkeep=0.0)  # fmt: skip
    lines = own.rates(H100, SITE)
    assert lines == pytest.approx(
        {
            "devices": 1000 / 8760,
            "servers": 100 / 8760,
            "network": 10 / 8760,
            "facility": 10_000 / 15 / 8760,
            "upkeep": 0,
        }
    )


def test_the_server_comes_from_the_profile_where_it_knows():
    assert Own().capital(device({"device": fact("$30000"), "server": fact("$9000")}), SITE).servers == 9000
    assert Own().capital(device({"device": fact("$30000"), "includes_server": True}), SITE).servers == 0


def test_spares_are_a_line_of_their_own_and_need_upkeep():
    """A tenth of 25,000 + 12,500 more to pay back and to repair; they take no network, no space and no power."""
    without, with_spares = Own().rates(H100, SITE), parse(kind="own", spares="10 %").rates(H100, SITE)
    assert "spares" not in without
    assert with_spares["spares"] == pytest.approx(3_750 * 0.26379748 / 8760)
    assert with_spares["upkeep"] - without["upkeep"] == pytest.approx(0.05 * 3_750 / 8760)
    assert {name: with_spares[name] for name in without if name != "upkeep"} == {
        name: without[name] for name in without if name != "upkeep"
    }
    assert "own: no spares is an assumption" in Own().estimates(H100)
    assert not [line for line in parse(kind="own", spares=0.1).estimates(H100) if "spares" in line]


def test_a_price_that_was_looked_up_says_when_and_where():
    both = device({"device": fact("$30000"), "server": fact("$9000")})
    assert Own().estimates(both)[:2] == [
        "own: device at $30,000, a price of 2026-05 (price list of the test)",
        "own: server at $9,000, a price of 2026-05 (price list of the test)",
    ]
    assert not [line for line in parse(kind="own", device="$1", server="$1").estimates(both) if "price of" in line]
    assert "2026-04" in Rent().estimates(H100)[0]


@pytest.mark.parametrize("date", ["2026", 2026, "2026-05", "2026-05-18"])
def test_a_date_is_a_year_a_month_or_a_day(date):
    assert Offer.model_validate({**OFFER, "date": date}).date == str(date)


WANTED = "expected a date such as"


@pytest.mark.parametrize(
    ("date", "message"),
    [
        (None, f"missing, {WANTED} `2026-05`"),
        ("soon", f"{WANTED} `2026`, `2026-05` or `2026-05-18`, got `soon`"),
        ("2025-26", f"{WANTED} `2026`, `2026-05` or `2026-05-18`, got `2025-26`"),
        ("2026-02-30", f"{WANTED} `2026`, `2026-05` or `2026-05-18`, got `2026-02-30`"),
        ("05/2026", f"{WANTED} `2026`, `2026-05` or `2026-05-18`, got `05/2026`"),
    ],
)
@pytest.mark.parametrize("place", ["rent", "own"])
def test_a_price_without_a_date_is_one_clear_error(place, date, message):
    """In the file that has it, at its line."""
    file = Library().document("hardware_profiles", "nvidia-h200-sxm", Path()).folder / "nvidia-h200-sxm.yaml"
    before, after = file.read_text().split(f"\n{place}:")
    dated = re.compile(r"""date: "[^"]*"(, )?""")
    given = "" if date is None else f'date: "{date}"'
    assert dated.search(after)
    text = f"{before}\n{place}:" + dated.sub(lambda found: given + (found[1] or "" if given else ""), after, count=1)
    with pytest.raises(SpecError) as caught:
        build(Profile, Document.from_text(text, "mine.yaml"))
    (problem,) = caught.value.problems
    assert problem.message == message
    assert problem.path == {"rent": "rent.0.date", "own": "own.date"}[place]
    line = text.splitlines()[problem.mark.line - 1]
    assert problem.mark.file == "mine.yaml"
    assert (f"{place}:" in line or "price:" in line) if date is None else str(date) in line


def test_estimates_name_every_assumption_and_nothing_that_was_given():
    assert len(Own().estimates(H100)) == 10  # the price of the device is the first
    given_all = parse(
        kind="own", device="$1", server="$1", network="$1", provisioned="1 W", facility="1 $/W", facility_years=1, rate=0.1, years=1, upkeep=0.0, spares=0.0
    )  # fmt: skip
    assert given_all.estimates(H100) == []
    assert not any(
        "server" in line.split(" of ")[0]
        for line in Own().estimates(device({"device": fact("$1"), "includes_server": True}))
    )


@given(st.floats(1, 1e5), st.floats(0, 0.5), st.floats(0.5, 20), st.floats(1.01, 4))
def test_owning_scales_with_prices_and_falls_with_life(price, rate, years, times):
    def total(scale, life):
        own = parse(kind="own", device=f"${scale * price}", facility=f"{scale * 12} $/W", rate=rate, years=life)
        return sum(own.rates(H100, SITE).values())

    assert total(times, years) == pytest.approx(times * total(1, years))
    assert total(1, years * times) < total(1, years)


def test_a_device_without_prices_says_what_to_give():
    with pytest.raises(ValueError, match=r"no rental offer .*`h100`.*price: \$2.5/h"):
        Rent().check(device(rent=()))
    with pytest.raises(ValueError, match=r"no purchase price .*`h100`.*device: \$25000"):
        Own().check(device())
    with pytest.raises(ValueError, match="no rental offer"):
        Rent().rates(device(rent=()), SITE)
    parse(kind="own", device="$5").check(device())
    parse(kind="rent", price="$5/h").check(device(rent=()))


@pytest.mark.parametrize(
    "keys",
    [{"kind": "lease"}, {"kind": "rent", "price": 2.5}, {"kind": "own", "years": 0}, {"kind": "own", "rent": "$1/h"}],
)
def test_a_wrong_cost_is_refused(keys):
    with pytest.raises(ValidationError):
        parse(**keys)


def test_electricity_is_a_small_part_of_an_owned_h100_hour():
    """About 7 % of published owner's hours; with these defaults 4 to 7 % from idle-ish to full draw."""
    lines = sum(Own().rates(H100, SITE).values())
    for share in (0.8, 1.0):
        node_w = share * rated_w(H100, 1)
        usd = SITE.electricity_usd(SITE.facility_j(node_w * 3600, rated_w(H100, 1), 3600))
        assert 0.03 < usd / (lines + usd) < 0.09


def documented_rates():
    """Rows of the comparison in the docs: device, price, limit watts, our rate, hyperscaler's, neocloud's."""
    rows = re.findall(
        r"^\| (\w+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", DOCS.read_text(), re.MULTILINE
    )
    return [(row[0], *(float(cell.replace(",", "")) for cell in row[1:])) for row in rows]


@pytest.mark.parametrize("row", documented_rates(), ids=lambda row: row[0])
def test_documented_owner_rates_are_what_the_defaults_give(row):
    _, price, limit_w, ours, hyperscaler, neocloud = row
    profile = device({"device": fact(f"${price}")}, limit=f"{limit_w} W")
    metered = SITE.electricity_usd(SITE.facility_j(0.8 * rated_w(profile, 1) * 3600, rated_w(profile, 1), 3600))
    assert sum(Own().rates(profile, SITE).values()) + metered == pytest.approx(ours, abs=0.005)
    assert 0.85 * neocloud < ours < 1.35 * neocloud
    assert ours > hyperscaler


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 1.78),
        ({"years": 4}, 2.03),
        ({"years": 6}, 1.61),
        ({"rate": 0.08}, 1.69),
        ({"rate": "12 %"}, 1.87),
        ({"facility": "7 $/W"}, 1.67),
        ({"facility": "20 $/W"}, 1.96),
        ({"upkeep": 0.02}, 1.59),
        ({"spares": 0.05}, 1.84),
        ({"rate": 0.08, "years": 6, "network_share": 0.10, "facility": "7 $/W", "upkeep": 0.02}, 1.23),
        ({"rate": 0.12, "years": 3, "network_share": 0.15, "facility": "20 $/W", "upkeep": 0.08}, 3.00),
    ],
)
def test_documented_sensitivities(keys, expected):
    assert sum(parse(kind="own", **keys).rates(H100, SITE).values()) == pytest.approx(expected, abs=0.005)


def test_the_comparison_is_there():
    assert len(documented_rates()) == 6


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the project's collected data beside the checkout")
def test_published_rates_in_the_docs_are_those_that_were_collected():
    with PUBLISHED.open() as file:
        collected = {
            row["gpu"]: (float(row["tco_hyperscaler_usd_per_gpu_h"]), float(row["tco_neocloud_usd_per_gpu_h"]))
            for row in csv.DictReader(file)
        }
    for name, *_, hyperscaler, neocloud in documented_rates():
        assert collected[name.lower()] == (hyperscaler, neocloud)


def test_the_documented_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "cost.md", "exec"), {})
