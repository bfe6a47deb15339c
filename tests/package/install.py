#!/usr/bin/env python3
"""make install: all is there, and what is installed finds its own, wherever that is. Argument: the build directory. TAP."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(sys.argv[1])


def said(*command, **env):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FORKD_")}
    done = subprocess.run(command, env={**clean, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done)
    return done.stdout


def prefix_of():
    options = json.loads(said("meson", "introspect", "--buildoptions", BUILD))
    return {one["name"]: one["value"] for one in options}["prefix"].lstrip("/")


def all_is_there(top):
    for path in ("bin/forkd", "bin/forkd-controller", "libexec/forkd/forkd-vmm", "libexec/forkd/forkd-store",
                 "libexec/forkd/guest/agent/forkd-agent", "libexec/forkd/guest/agent/forkd-initrd",
                 "libexec/forkd/guest/agent/forkd-warm.py", "libexec/forkd/guest/images/build",
                 "libexec/forkd/guest/images/python3.conf", "libexec/forkd/lab/run", "libexec/forkd/lab/host/host-up",
                 "share/man/man1/forkd.1", "share/man/man8/forkd-controller.8",
                 "share/bash-completion/completions/forkd", "share/zsh/site-functions/_forkd",
                 "lib/systemd/system/forkd-controller.service"):
        assert (top / path).exists(), path
    assert not list(top.rglob("__pycache__")), "compiled Python is installed"


def the_unit_names_the_installed_program(top):
    unit = (top / "lib/systemd/system/forkd-controller.service").read_text()
    assert f"ExecStart=/{prefix_of()}/bin/forkd-controller serve\n" in unit, unit
    for kept in ("KillMode=process", "Delegate=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert f"\n{kept}\n" in unit, kept


def forkd_finds_its_own_programs(top):
    told = json.loads(said(top / "bin/forkd", "where", "--json", FORKD_STATE="/nowhere/state"))
    for name in ("forkd_controller", "forkd_vmm", "image_builder", "lab"):
        assert told[name] and pathlib.Path(told[name]).is_relative_to(top.resolve()), (name, told)


def what_is_installed_starts_a_controller_of_ones_own(top):
    with tempfile.TemporaryDirectory(prefix="forkd-test-") as state:
        env = {"FORKD_STATE": state}
        assert said(top / "bin/forkd", "ls", "--json", **env) == "[]\n"
        try:
            answer = json.loads(said(top / "bin/forkd", "version", "--json", **env))
            assert answer["controller"]["version"] == answer["version"], answer
        finally:
            said(top / "bin/forkd", "stop", **env)


CLAIMS = [all_is_there, the_unit_names_the_installed_program, forkd_finds_its_own_programs,
          what_is_installed_starts_a_controller_of_ones_own]


def main():
    print(f"1..{len(CLAIMS)}")
    with tempfile.TemporaryDirectory(prefix="forkd-install-") as folder:
        said("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", folder)
        for number, claim in enumerate(CLAIMS, 1):
            name = claim.__name__.replace("_", " ")
            try:
                claim(pathlib.Path(folder) / prefix_of())
                print(f"ok {number} - {name}")
            except AssertionError as why:
                print(f"not ok {number} - {name}\n# {why}")


main()
