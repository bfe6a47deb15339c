"""The agent as pid 1: in namespaces of its own, with this machine's /usr in an empty root.

Needs to be root; skipped where the kernel gives no namespaces. What pid 1 does to the machine itself (clock, power) is
recorded below a test root, as in the other tests.
"""
import os
import shutil
import subprocess
import unittest

from agentlib import *


class Init(Agent):
    def __init__(self, program, listen="unix:/sock", words=()):
        self.dir = tempfile.TemporaryDirectory(prefix="forkd-init-")
        top = self.dir.name
        for sub in ("usr", "etc", "test/run"):
            os.makedirs(os.path.join(top, sub))
        for name in ("bin", "sbin", "lib", "lib64"):
            os.symlink("usr/" + name, os.path.join(top, name))
        with open(top + "/etc/hostname", "w") as f:
            f.write("inside\n")
        shutil.copy(program, top + "/agent")
        self.path, self.root = top + "/sock", top + "/test"
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--fork", "sh", "-ec",
             "mount --bind /usr %s/usr\nexec chroot %s /agent \"$@\"" % (top, top), "sh", "quiet", *words,
             "--listen", listen, "--test-root", "/test"],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"], "ODD": "kernel word"})

    def pid1(self):
        """As this machine counts it."""
        with open("/proc/%d/task/%d/children" % ((self.process.pid,) * 2)) as f:
            return int(f.read().split()[0])

    def close(self):
        if self.process.poll() is None:
            os.kill(self.pid1(), 15)
        return super().close()


class Pid1(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        probe = subprocess.run(["unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--fork", "true"],
                               stderr=subprocess.PIPE, text=True)
        if probe.returncode:
            raise unittest.SkipTest("no namespaces here: " + probe.stderr.strip())

    def start(self, **options):
        agent = Init(Case.program, **options)
        self.addCleanup(agent.process.stderr.close)
        self.addCleanup(agent.close)
        return agent

    def up(self):
        agent = self.start(words=["root=/dev/vda", "--nonesuch"])
        wait_until(lambda: agent.process.poll() is not None or agent.listens(), "pid 1 listens")
        self.assertIsNone(agent.process.poll())
        return agent

    def test_it_makes_a_machine_that_programs_can_live_in(self):
        agent = self.up()
        self.assertEqual(agent.ask(frame(PING)).pid, 1)
        mounts = {line.split()[1]: line.split()[2] for line in agent.sh("cat /proc/mounts").stdout.decode().splitlines()}
        for at, kind in (("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs"), ("/dev/pts", "devpts"),
                         ("/dev/shm", "tmpfs"), ("/run", "tmpfs"), ("/tmp", "tmpfs")):
            self.assertEqual(mounts.get(at), kind, at)
        said = agent.sh("uname -n; ulimit -c; ulimit -n; cat /sys/class/net/lo/flags; stat -c %a /tmp /dev/shm;"
                        "echo fd > /dev/fd/1; echo $HOME $LANG $PATH:$ODD; umask").stdout.decode().splitlines()
        self.assertEqual(said, ["inside", "0", "1024", "0x9", "1777", "1777", "fd",
                                "/root C.UTF-8 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:", "0022"])

    def test_it_reaps_what_others_orphan(self):
        agent = self.up()
        agent.sh("for i in 1 2 3 4 5; do (setsid true &) ; done")
        wait_until(lambda: agent.sh("cat /proc/[0-9]*/stat").stdout.count(b") Z ") == 0, "no zombie is left")

    def test_a_signal_powers_the_machine_off_and_ends_what_runs(self):
        agent = self.up()
        with Conn(agent.path) as c:
            c.send(exec_frame(["sh", "-c", "trap 'touch /told; exit' TERM; echo up; while :; do sleep 0.1; done"]))
            self.assertEqual(c.frame(), (STDOUT, b"up\n"))
            os.kill(agent.pid1(), 15)
            agent.process.wait(PATIENCE)
        self.assertEqual(agent.file("effects"), b"poweroff\n")
        self.assertTrue(os.path.exists(agent.dir.name + "/told"))

    def test_what_it_cannot_do_without_is_said_before_it_powers_off(self):
        agent = self.start(listen="unix:/no/such/directory/sock")
        _, said = agent.process.communicate(timeout=PATIENCE)
        self.assertIn(b"forkd: the agent cannot go on: listen: No such file or directory\n", said)


if __name__ == "__main__":
    main()
