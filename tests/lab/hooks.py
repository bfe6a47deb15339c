#!/usr/bin/env python3
# lab-test: hooks 400
"""Executables in /etc/forkd/fork.d run in every fork before it is handed out; one that fails, fails the fork."""

from product import api, ApiError, case, controller, leftovers, run, snapshot, spawned, wait_for


def with_hooks(tag, **hooks):
    lines = [f"printf '%s\\n' '#!/bin/sh' '{body}' > /etc/forkd/fork.d/{name} && chmod +x /etc/forkd/fork.d/{name}"
             for name, body in hooks.items()]
    snapshot(tag, mem_size_mib=256, warmup=[], ready_cmd=" && ".join(lines))


@case
def hooks_run_in_order_with_the_forks_identity():
    with_hooks("hooked", **{"10-first": "echo first $FORKD_ID >> /run/hooks",
                            "20-second": "echo second $FORKD_HOSTNAME >> /run/hooks"})
    with spawned("hooked", 2) as children:
        for child in children:
            assert child.sh("cat /run/hooks").split() == ["first", child.id, "second", child.id]
    api("DELETE", "/v1/snapshots/hooked")


@case
def a_hook_that_fails_fails_the_fork_and_is_named():
    with_hooks("broken", **{"50-broken": "echo no licence here >&2; exit 9"})
    before = leftovers()
    try:
        with spawned("broken", 2):
            raise AssertionError("a fork whose hook failed was handed out")
    except ApiError as error:
        assert "50-broken" in error.text and "no licence here" in error.text, error
    assert api("GET", "/v1/sandboxes") == []
    wait_for(lambda: leftovers() == before, f"nothing to be left: {leftovers()}")
    api("DELETE", "/v1/snapshots/broken")


controller.ensure()
run()
