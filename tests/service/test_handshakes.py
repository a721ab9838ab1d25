from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.handshakes import Handshakes, Surplus


def handshakes(max_handshakes: int | None, max_handshakes_per_ip: int | None = None) -> Handshakes[str]:
    return Handshakes(AdmissionConfig(max_handshakes=max_handshakes, max_handshakes_per_ip=max_handshakes_per_ip))


def test_a_thousand_are_under_way_and_a_hundred_of_an_address_by_default() -> None:
    config = AdmissionConfig()
    assert (config.max_handshakes, config.max_handshakes_per_ip) == (1000, 100)


def test_over_the_cap_the_oldest_must_end() -> None:
    ours = handshakes(2)
    for name in ("a", "b"):
        ours.add(name, "192.0.2.1")
    assert ours.surplus() is None
    ours.add("c", None)
    assert ours.surplus() == Surplus("a", "max_handshakes", "192.0.2.1")
    ours.discard("a")
    assert ours.surplus() is None
    assert len(ours) == 2


def test_over_the_cap_of_an_address_its_own_oldest_must_end() -> None:
    ours = handshakes(None, 1)
    ours.add("other", "192.0.2.1")
    ours.add("a", "192.0.2.2")
    assert ours.surplus() is None
    ours.add("b", "192.0.2.2")
    ours.add("c", "192.0.2.2")
    assert ours.surplus() == Surplus("a", "max_handshakes_per_ip", "192.0.2.2")
    ours.discard("b")
    assert ours.surplus() == Surplus("a", "max_handshakes_per_ip", "192.0.2.2")
    ours.discard("a")
    assert ours.surplus() is None


def test_who_has_no_address_and_who_has_no_cap_is_not_limited_by_it() -> None:
    ours, unlimited = handshakes(None, 1), handshakes(None, None)
    for number in range(1000):
        ours.add(str(number), None)
        unlimited.add(str(number), "192.0.2.1")
    assert ours.surplus() is None
    assert unlimited.surplus() is None


def test_what_is_over_is_forgotten_whole_and_may_be_said_again() -> None:
    ours = handshakes(5, 5)
    for name in ("a", "b"):
        ours.add(name, "192.0.2.1")
    for name in ("b", "a", "a", "never"):
        ours.discard(name)
    assert len(ours) == 0
    assert not ours._by_ip
    assert not ours._crowded


STEPS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, "x", "y", "z"])), max_size=60)


@settings(deadline=None)
@given(STEPS, st.none() | st.integers(1, 4), st.none() | st.integers(1, 3))
def test_agrees_with_a_look_at_all_of_them(
    steps: list[tuple[int, str | None]], most: int | None, most_per_ip: int | None
) -> None:
    ours = handshakes(most, most_per_ip)
    model: dict[str, str | None] = {}
    for number, (step, ip) in enumerate(steps):
        if step < 3 and model:
            gone = list(model)[step % len(model)]
            del model[gone]
            ours.discard(gone)
        else:
            model[str(number)] = ip
            ours.add(str(number), ip)
        while (surplus := ours.surplus()) is not None:
            if surplus.cap == "max_handshakes":
                assert surplus.handshake == next(iter(model))
                assert most is not None
                assert len(model) > most
            else:
                same = [name for name, other in model.items() if other == surplus.ip]
                assert surplus.handshake == same[0]
                assert most_per_ip is not None
                assert len(same) > most_per_ip
            del model[surplus.handshake]
            ours.discard(surplus.handshake)
        assert len(ours) == len(model) <= (most or 60)
        for each in ("x", "y", "z"):
            assert list(model.values()).count(each) <= (most_per_ip or 60)
