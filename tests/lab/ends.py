#!/usr/bin/env python3
# lab-test: ends 600
# lab-warm: tests/lab/warm.py
"""Whatever ends, the rest goes on, is told, and nothing is left behind."""

import os
import signal
import subprocess
import threading

import product
from product import api, ApiError, Sandbox, case, controller, leftovers, process_lives, run, spawned, wait_for


def gone(sandbox):
    try:
        api("GET", f"/v1/sandboxes/{sandbox.id}")
    except ApiError as error:
        return error.status == 404
    return False


def end_from_inside(sandbox, key):
    """The guest ends itself; the command that did it gets no answer, which the API says in words."""
    try:
        sandbox.exec("sh", "-c", f"echo {key} > /proc/sysrq-trigger; sleep 60")
        raise AssertionError("the guest goes on")
    except ApiError as error:
        assert error.status in (404, 502), error


@case
def kill_9_of_a_child_is_noticed_and_its_siblings_answer():
    before = leftovers()
    with spawned("py", 3) as children:
        os.kill(children[1].pid, signal.SIGKILL)
        wait_for(lambda: gone(children[1]), "the dead child to be forgotten")
        assert children[1].id in controller.log(), "nothing in the log names the dead child"
        assert children[0].value("1 + 1") == children[2].value("1 + 1") == "2"
    wait_for(lambda: leftovers() == before, f"nothing to be left: {leftovers()} instead of {before}")


@case
def a_guest_that_powers_off_ends_its_sandbox():
    before = leftovers()
    with spawned("py", 1) as (child,):
        end_from_inside(child, "o")
        wait_for(lambda: gone(child), "the switched off sandbox to be forgotten")
        assert "powered off" in controller.log()
    wait_for(lambda: leftovers() == before, "nothing to be left")


@case
def a_guest_that_panics_ends_its_sandbox_with_the_console_in_the_log():
    with spawned("py", 2) as (child, sibling):
        end_from_inside(child, "c")
        wait_for(lambda: gone(child), "the panicked sandbox to be forgotten")
        assert sibling.value("2 + 2") == "4"


@case
def kill_9_of_the_controller_stops_no_sandbox_and_the_next_adopts_all():
    with spawned("py", 2) as children:
        children[0].value("globals().__setitem__('kept', 'yes')")
        controller.kill()
        assert all(process_lives(child.pid) for child in children)
        controller.start()
        assert {info["id"] for info in api("GET", "/v1/sandboxes")} == {child.id for child in children}
        assert children[0].value("kept") == "'yes'"
        with spawned("py", 1) as (later,):
            assert later.value("3 * 3") == "9"


@case
def kill_9_of_the_controller_in_the_middle_of_spawns_leaves_no_half_sandbox():
    for delay in (0.01, 0.05, 0.15, 0.3):
        timer = threading.Timer(delay, controller.kill)
        timer.start()
        try:
            api("POST", "/v1/sandboxes", {"snapshot_tag": "py", "n": 4})
        except Exception:  # however it broke off
            pass
        timer.join()
        controller.start()
        listed = [Sandbox(info) for info in api("GET", "/v1/sandboxes")]
        for sandbox in listed:
            assert sandbox.value("'alive'") == "'alive'"
        known = {info["pid"] for info in api("GET", "/v1/sandboxes")}
        wait_for(lambda: len(product.vmm_processes()) == len(known) + 1, "one template and the listed sandboxes alone")
        for sandbox in listed:
            sandbox.kill()
    wait_for(lambda: leftovers()["processes"] == 1, "the template alone to be left")


@case
def kill_9_of_a_client_in_the_middle_of_a_spawn_is_no_harm():
    client = subprocess.Popen(
        ["curl", "-s", "--unix-socket", product.SOCKET, "http://forkd/v1/sandboxes", "-d",
         '{"snapshot_tag":"py","n":4}'], stdout=subprocess.DEVNULL)
    wait_for(lambda: len(product.vmm_processes()) > 1, "the spawn to begin")
    client.kill()
    client.wait()

    def all_killed():
        for info in api("GET", "/v1/sandboxes"):
            Sandbox(info).kill()
        return leftovers()["processes"] == 1
    wait_for(all_killed, "the spawn to end, and the template alone to be left")
    with spawned("py", 1) as (after,):
        assert after.value("'fine'") == "'fine'"


@case
def kill_9_of_the_template_leaves_its_children_running_and_the_next_spawn_loads_it():
    with spawned("py", 2) as children:
        template = product.vmm_processes() - {child.pid for child in children}
        assert len(template) == 1, template
        os.kill(template.pop(), signal.SIGKILL)
        assert children[0].value("5 + 5") == "10"

        def served():
            """A spawn that comes before the death is noticed is refused; the next one finds it on the disk."""
            try:
                with spawned("py", 1) as (child,):
                    return child.value("7 + 7") == "14"
            except ApiError as error:
                assert "py" in error.text and error.status in (409, 500), error
                return False
        wait_for(served, "the template to be loaded again")
        assert children[1].value("6 + 6") == "12"
    wait_for(lambda: leftovers()["processes"] == 1, "the template alone to be left")


controller.ensure()
run()
