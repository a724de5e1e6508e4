"""Documents of what is wanted: which are kept, and for how long, by a clock that the test sets."""

from millrace.protocol.desired_state import DesiredState, DesiredStates, VersionPolicy

HOUR_MS = 3_600_000


def test_only_what_has_asked_for_nothing_for_an_hour_is_forgotten_and_not_put_back() -> None:
    now_ms = 10.0 * HOUR_MS
    states = DesiredStates(lambda: now_ms)
    written_ms = int(now_ms)
    nothing = DesiredState(model="nothing", generation=written_ms)
    asking = [
        DesiredState(model="unloaded", generation=written_ms, is_loaded=False),
        DesiredState(model="weighted", generation=written_ms, weights={1: 1}),
        DesiredState(model="labelled", generation=written_ms, labels={"stable": 1}),
        DesiredState(model="elsewhere", generation=written_ms, base_path="a"),
        DesiredState(model="chosen", generation=written_ms, policy=VersionPolicy()),
    ]
    states.take([nothing, *asking])
    now_ms += HOUR_MS
    assert states.forget() == []
    now_ms += 1
    assert states.forget() == [nothing]
    assert list(states.by_model.values()) == asking
    assert states.missing_from([]) == asking
    assert states.of("nothing") == DesiredState(model="nothing")
    assert states.forget() == []
