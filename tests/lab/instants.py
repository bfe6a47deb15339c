#!/usr/bin/env python3
# lab-test: instants 420
"""kill -9 of the controller at random instants of a load, where there are cgroups to agree with the registry as well."""

import os
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("FORKD_BUILD_DIR", TOP / "build"))

sys.path.insert(0, str(TOP / "tests/controller"))
os.environ.update({
    "FORKD_TEST_CONTROLLER": str(BUILD / "src/controller/forkd-controller"),
    "FORKD_TEST_VMM": str(BUILD / "src/vmm/forkd-vmm"),
    "FORKD_TEST_KERNEL": str(BUILD / "tests/kvm/guest-agent"),
    "FORKD_TEST_INSTANTS": "20",
    "PYTHONPATH": str(TOP / "tests/controller"),
    "PYTHONDONTWRITEBYTECODE": "1",
})

import ledger  # pylint: disable=wrong-import-position

if ledger.cgroups_base() is None:
    print("not ok 1 - the lab has cgroups for us")
    sys.exit(1)
os.execvp("python3", ["python3", str(TOP / "tests/kvm/instants.py"),
                      "kill_9_at_two_hundred_instants_of_a_load_leaves_all_in_agreement"])
