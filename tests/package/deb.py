#!/usr/bin/env python3
"""The Debian package on a clean Debian 12 with systemd: it installs, starts, keeps sandboxes over restart and upgrade,
and is gone after purge. Arguments: the source tree, the build directory, a bare-metal guest that has an agent. TAP."""

import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from debian import main, run, until

# As a module it is for in_lab.py, which makes nothing.
TOP, BUILD, GUEST = map(pathlib.Path, sys.argv[1:] if __name__ == "__main__" else ("", "", ""))
UNIT = "forkd-controller.service"
EXPOSURE_MAX = 5.0  # of systemd-analyze security; docs/security.md says where it comes from


def package(version):
    made = run(TOP / "packaging" / "make-deb", "-o", BUILD / "package", "-v", version)
    assert made.returncode == 0, made.stdout
    return BUILD / "package" / f"forkd_{version}_amd64.deb"


def install(machine, version):
    shutil.copy(package(version), machine.path("/root/forkd.deb"))
    return machine("apt-get", "install", "-y", "--no-install-recommends", "/root/forkd.deb").stdout


def forkd(machine, *args, check=True):
    token = machine.path("/etc/forkd/tokens").read_text().strip()
    # Named, so that none of one's own is started while the service is down.
    env = {"FORKD_TOKEN": token, "FORKD_URL": "http://127.0.0.1:8889"}
    return machine("forkd", *args, env=env, check=check).stdout


def told(machine, *args):
    return json.loads(forkd(machine, *args, "--json"))


def main_pid(machine):
    return int(machine("systemctl", "show", "--value", "--property=MainPID", UNIT).stdout)


def boxes(machine):
    return {one["id"]: one["pid"] for one in told(machine, "ls")}


def vmms(machine):
    found = machine("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c forkd-vmm$", check=False)
    return int(found.stdout.split()[-1])


def answers(machine, ids):
    for one in ids:
        assert forkd(machine, "exec", one, "hostname").strip() == one


def it_installs_on_a_clean_debian_and_starts(machine):
    updated = machine("apt-get", "update", "-qq", check=False)
    if updated.returncode:
        return "there is no package archive to be reached"
    said = install(machine, "1.0")
    assert "forkd: the token of this host" in said, said
    assert machine("systemctl", "is-active", UNIT).stdout.strip() == "active"
    assert machine("systemctl", "is-enabled", UNIT).stdout.strip() == "enabled"
    assert "controller " in forkd(machine, "version")
    assert oct(machine.path("/etc/forkd/tokens").stat().st_mode)[-3:] == "600"
    return None


def it_brings_all_its_programs_pages_and_completions(machine):
    programs = ("/usr/bin/forkd", "/usr/bin/forkd-controller", "/usr/libexec/forkd/forkd-vmm",
                "/usr/libexec/forkd/forkd-store")
    for program in programs:
        assert "not found" not in machine("ldd", program, check=False).stdout, program
    for path in ("/usr/libexec/forkd/guest/images/build", "/usr/libexec/forkd/guest/agent/forkd-agent",
                 "/usr/libexec/forkd/lab/run", "/usr/share/man/man1/forkd.1.gz",
                 "/usr/share/man/man8/forkd-controller.8.gz", "/usr/share/bash-completion/completions/forkd",
                 "/usr/share/zsh/vendor-completions/_forkd", "/etc/forkd/controller.env"):
        assert machine.path(path).exists() or "man" in path, path  # a minimal Debian may leave pages out
    listed = machine("dpkg", "-L", "forkd").stdout
    assert "man1/forkd.1.gz" in listed and "man8/forkd-controller.8.gz" in listed
    return None


def nobody_without_the_token_is_let_in(machine):
    assert "HTTP 401" in machine("forkd", "ls", check=False).stdout
    return None


def the_unit_is_well_formed_and_hardened(machine):
    said = machine("systemd-analyze", "verify", f"/lib/systemd/system/{UNIT}", check=False).stdout
    assert UNIT not in re.sub(r".*man .*\n", "", said), said
    figure = machine("systemd-analyze", "security", UNIT, check=False).stdout
    exposure = float(re.search(r"exposure level for .*?: ([\d.]+)", figure)[1])
    print(f"# exposure {exposure}")
    assert exposure <= EXPOSURE_MAX, figure
    return None


def under_the_unit_the_jail_is_whole_and_sandboxes_answer(machine):
    with open(machine.path("/etc/forkd/controller.env"), "a", encoding="utf-8") as file:
        file.write("FORKD_DEBUG=1\n")
    machine("systemctl", "restart", UNIT)
    shutil.copy(GUEST, machine.path("/root/guest"))
    forkd(machine, "snapshot", "--tag", "bare", "--kernel", "/root/guest", "--mem-size-mib", "64")
    made = told(machine, "spawn", "--tag", "bare", "-n", "3")
    answers(machine, [one["id"] for one in made])
    # Written by forkd-store, under the same restrictions.
    assert [one["status"] for one in told(machine, "images")["snapshots"]] == ["ready"]
    assert machine.path("/var/lib/forkd/snapshots/bare/snapshot.json").exists()
    log = machine("journalctl", "--no-pager", "--unit", UNIT).stdout
    assert "jail without" not in log, log
    pid = made[0]["pid"]
    status = dict(line.split(":\t", 1) for line in machine("cat", f"/proc/{pid}/status").stdout.splitlines() if ":\t" in line)
    assert status["CapEff"] == status["CapBnd"] == "0" * 16 and status["Seccomp"] == "2", status
    assert status["Uid"].split()[0] not in ("0", "65534"), status
    return None


def what_a_stricter_unit_takes_from_the_jail_is_told(machine):
    """So that the claim above could have failed."""
    stricter = machine.path(f"/etc/systemd/system/{UNIT}.d/stricter.conf")
    stricter.parent.mkdir()
    stricter.write_text("[Service]\nCapabilityBoundingSet=~CAP_SYS_ADMIN\n")
    machine("systemctl", "daemon-reload")
    machine("systemctl", "restart", UNIT)
    forkd(machine, "snapshot", "--tag", "poor", "--kernel", "/root/guest", "--mem-size-mib", "64")
    log = machine("journalctl", "--no-pager", "--unit", UNIT).stdout
    assert "jail without" in log, log
    shutil.rmtree(stricter.parent)
    machine("systemctl", "daemon-reload")
    forkd(machine, "rmi", "poor")
    return None


def a_restart_keeps_sandboxes(machine):
    before, controller = boxes(machine), main_pid(machine)
    assert len(before) == 3
    machine("systemctl", "restart", UNIT)
    assert main_pid(machine) != controller and boxes(machine) == before
    answers(machine, before)
    return None


def systemd_starts_a_killed_controller_again_and_sandboxes_live(machine):
    before, controller = boxes(machine), main_pid(machine)
    machine("systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT)
    until(lambda: main_pid(machine) not in (0, controller), "a new controller")
    until(lambda: forkd(machine, "ls", check=False).startswith("ID"), "it answers")
    assert boxes(machine) == before
    answers(machine, before)
    return None


def a_stop_and_a_start_keep_sandboxes(machine):
    before = boxes(machine)
    machine("systemctl", "stop", UNIT)
    assert vmms(machine) == len(before) + 1
    machine("systemctl", "start", UNIT)
    assert boxes(machine) == before
    answers(machine, before)
    return None


def an_upgrade_keeps_sandboxes_token_and_settings(machine):
    before, controller = boxes(machine), main_pid(machine)
    tokens = machine.path("/etc/forkd/tokens").read_text()
    install(machine, "1.1")
    assert "Version: 1.1" in machine("dpkg", "-s", "forkd").stdout
    assert main_pid(machine) != controller and boxes(machine) == before
    answers(machine, before)
    assert machine.path("/etc/forkd/tokens").read_text() == tokens
    assert "FORKD_DEBUG=1" in machine.path("/etc/forkd/controller.env").read_text()
    # The template of before serves the new controller.
    more = told(machine, "spawn", "--tag", "bare", "-n", "2")
    answers(machine, [one["id"] for one in more])
    return None


def in_the_lab_with_cgroup_2_limits_are_kept_under_the_unit(machine):
    """The same installation, booted in the emulated KVM host: tests/package/in_lab.py."""
    if not (TOP / "lab" / "run").exists() or not shutil.which("qemu-system-x86_64"):
        print("# not tried in the lab: there is none")
        return None
    with tempfile.TemporaryDirectory(prefix="installed-", dir=BUILD) as folder:
        copied = run("sh", "-c", 'cd "$1" && tar -c --one-file-system --exclude=./var/cache --exclude=./var/lib/apt'
                     ' --exclude=./var/lib/forkd --exclude=./usr/share/locale --exclude=./root/forkd.deb . | tar -x -C "$2"',
                     "copy", machine.root, folder)
        assert copied.returncode == 0, copied.stdout
        done = run(TOP / "lab" / "run", "--quiet", "--time", "1200", "--mem", "3072", "--build", BUILD, "--payload", folder,
                   "--", TOP / "tests" / "package" / "in_lab.py", folder, seconds=2400)
    for line in done.stdout.splitlines():
        print(f"# {line}")
    assert done.returncode == 0, done.stdout
    return None


def removal_ends_everything_and_keeps_snapshots_and_purge_leaves_nothing(machine):
    machine("apt-get", "remove", "-y", "forkd")
    assert vmms(machine) == 0
    assert machine("systemctl", "is-active", UNIT, check=False).stdout.strip() == "inactive"
    assert machine.path("/etc/forkd/tokens").exists()
    assert machine.path("/var/lib/forkd/snapshots/bare/snapshot.json").exists()
    machine("apt-get", "purge", "-y", "forkd")
    for path in ("/etc/forkd", "/var/lib/forkd", "/var/log/forkd", "/usr/libexec/forkd", "/usr/bin/forkd",
                 f"/lib/systemd/system/{UNIT}", f"/etc/systemd/system/multi-user.target.wants/{UNIT}",
                 f"/etc/systemd/system/{UNIT}", "/usr/share/doc/forkd"):
        assert not os.path.lexists(machine.path(path)), path
    left = machine("find", "/etc", "/usr", "/var", "-xdev", "-iname", "*forkd*", "-not", "-path", "/var/log/journal/*").stdout
    assert not left.strip(), left
    return None


CLAIMS = [it_installs_on_a_clean_debian_and_starts, it_brings_all_its_programs_pages_and_completions,
          nobody_without_the_token_is_let_in, the_unit_is_well_formed_and_hardened,
          under_the_unit_the_jail_is_whole_and_sandboxes_answer, what_a_stricter_unit_takes_from_the_jail_is_told,
          a_restart_keeps_sandboxes,
          systemd_starts_a_killed_controller_again_and_sandboxes_live, a_stop_and_a_start_keep_sandboxes,
          an_upgrade_keeps_sandboxes_token_and_settings,
          in_the_lab_with_cgroup_2_limits_are_kept_under_the_unit,
          removal_ends_everything_and_keeps_snapshots_and_purge_leaves_nothing]

if __name__ == "__main__":
    sys.exit(main(CLAIMS, BUILD))
