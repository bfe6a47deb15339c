"""The wire as a client sees it: one request, its answer, and strangers of all kinds."""
import random
import socket
import unittest

from agentlib import *


class Requests(Case):
    def test_ping_tells_who_answers(self):
        a = self.agent.ask(frame(PING))
        self.assertEqual((a.kind, a.pid, a.lang, a.ready, a.numpy), (PONG, self.agent.process.pid, "c", 0, ""))
        self.assertEqual(a.hostname, socket.gethostname())
        self.assertGreater(a.uptime, 0)
        self.assertTrue(a.version)

    def test_a_request_may_come_byte_by_byte(self):
        with Conn(self.agent.path) as c:
            for byte in exec_frame(["echo", "hi"]):
                c.send(bytes((byte,)))
            self.assertEqual(c.answer().stdout, b"hi\n")

    def test_the_client_may_half_close(self):
        for request, kind in ((frame(PING), PONG), (exec_frame(["true"]), EXIT)):
            with Conn(self.agent.path) as c:
                c.send(request)
                c.half_close()
                self.assertEqual(c.answer().kind, kind)

    def test_a_connection_carries_one_request(self):
        with Conn(self.agent.path) as c:
            c.send(frame(PING) + frame(PING))
            self.assertEqual(c.answer().kind, PONG)

    def test_a_client_that_only_connects_costs_nobody_anything(self):
        with Conn(self.agent.path), Conn(self.agent.path) as half:
            half.send(frame(PING)[:3])
            self.assert_alive()


class Strangers(Case):
    def refused(self, data):
        a = self.agent.ask(data)
        self.assertEqual((a.kind, a.why), (REFUSED, MALFORMED))
        self.assertTrue(a.reason)
        self.assert_alive()
        return a.reason

    def test_frames_outside_the_limits(self):
        self.refused(u32(0))
        self.refused(u32(1))
        self.refused(u32(FRAME_MAX + 1))
        self.refused(u32(0xFFFFFFFF))
        self.refused(b"GET / HTTP/1.1\r\n\r\n")

    def test_another_version_is_named(self):
        self.assertIn("version 9", self.refused(frame(PING, version=9)))

    def test_frames_that_are_no_requests(self):
        for kind in (0, STDIN, 0x7F, PONG, EXIT, REFUSED, 0xFF):
            self.refused(frame(kind))

    def test_malformed_bodies_are_refused(self):
        self.refused(frame(PING, b"x"))
        self.refused(frame(EXEC))
        self.refused(frame(EXEC, u32(0xFFFFFFFF)))
        self.refused(exec_frame([]))
        self.refused(exec_frame(["a\0b"]))
        self.refused(exec_frame(["true"])[:-4] + u32(100))
        self.refused(frame(EVAL, u32(7) + b"short"))
        self.refused(identity_frame(entropy=b"short"))
        self.refused(identity_frame(hostname=""))

    def test_a_frame_that_never_ends(self):
        with Conn(self.agent.path) as c:
            c.send(u32(FRAME_MAX) + bytes((VERSION, EXEC)) + bytes(1000))
            c.half_close()
            self.assertIsNone(c.frame())
        self.assert_alive()

    def test_frames_nobody_expects_end_the_connection(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["cat"], stream=True) + frame(PING))
            self.assertIsNone(c.answer().kind)
        self.assert_alive()

    def test_the_agent_survives_random_and_damaged_requests(self):
        """Random bytes, and good requests with some bytes changed."""
        rnd = random.Random(20)
        good = [exec_frame(["true", "x"], ["A=b"], "/", 1000, 10, b"in", True), eval_frame("1", 1000),
                warm_frame(["os"], "", 1000), ready_frame("true", 100), frame(PING), identity_frame()]
        for i in range(300):
            data = bytearray(rnd.choice(good) if i % 3 else rnd.randbytes(rnd.randrange(1, 200)))
            for _ in range(rnd.randrange(1, 4)):
                data[rnd.randrange(len(data))] = rnd.randrange(256)
            if len(data) > 5 and data[5] == SHUTDOWN:
                continue
            with Conn(self.agent.path) as c:
                try:
                    c.send(bytes(data))
                    c.half_close()
                    while rnd.randrange(4) and c.frame():
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it was refused before all was sent
        self.assert_alive()


class Many(Case):
    def test_64_commands_run_at_once_and_one_more_is_refused(self):
        conns = [Conn(self.agent.path) for _ in range(64)]
        for c in conns:
            c.send(exec_frame(["sh", "-c", "echo up; read x; echo $x"], stream=True))
        for c in conns:
            self.assertEqual(c.frame(), (STDOUT, b"up\n"))
        a = self.agent.run("true")
        self.assertEqual((a.kind, a.why), (REFUSED, BUSY))
        self.assertIn("64 commands", a.reason)
        self.assert_alive()
        for i, c in enumerate(conns):
            c.send(frame(STDIN, b"%d\n" % i))
        for i, c in enumerate(conns):
            with c:
                a = c.answer()
                self.assertEqual((a.stdout, a.code), (b"%d\n" % i, 0))
        self.assertEqual(self.agent.run("true").code, 0)

    def test_connections_beyond_the_limit_are_refused_in_words(self):
        conns = [Conn(self.agent.path) for _ in range(192)]
        a = self.agent.ask(frame(PING))
        self.assertEqual((a.kind, a.why), (REFUSED, BUSY))
        for c in conns:
            c.close()
        wait_until(lambda: self.agent.ask(frame(PING)).kind == PONG, "there is room again")

    def test_a_client_that_does_not_read_holds_up_its_command_only(self):
        def resident_kib():
            with open("/proc/%d/status" % self.agent.process.pid) as f:
                return int(next(line for line in f if line.startswith("VmRSS")).split()[1])

        before = resident_kib()
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["head", "-c", "50000000", "/dev/zero"], limit=1 << 30))
            c.frame()
            self.assert_alive()
            self.assertEqual(self.agent.run("echo", "hi").stdout, b"hi\n")
            self.assertLess(resident_kib() - before, 20000)
            a = c.answer()
            self.assertEqual((a.code, a.stdout_total, a.stdout_cut), (0, 50000000, 0))


class Ends(unittest.TestCase):
    def test_shutdown_is_acknowledged_and_powers_off(self):
        agent = Agent(Case.program)
        self.assertEqual(agent.ask(frame(SHUTDOWN)).kind, STOPPING)
        self.assertEqual(agent.process.wait(PATIENCE), 0)
        self.assertEqual(agent.file("effects"), b"poweroff\n")
        agent.close()

    def test_a_signal_ends_the_daemon_but_not_the_machine(self):
        agent = Agent(Case.program)
        root, keep = agent.root, agent.dir
        agent.process.terminate()
        self.assertEqual(agent.process.wait(PATIENCE), 0)
        self.assertFalse(os.path.exists(os.path.join(root, "effects")))
        keep.cleanup()

    def test_bad_options_are_told(self):
        for args in (["--listen", "tcp:1"], ["--listen", "vsock:x"], ["--nonesuch"], ["word"]):
            p = subprocess.run([Case.program, *args], stderr=subprocess.PIPE, timeout=PATIENCE)
            self.assertNotEqual(p.returncode, 0)
            self.assertTrue(p.stderr)

    def test_over_vsock_only_the_host_is_served(self):
        """Through vsock's loopback a process of the guest could ask: it is hung up on."""
        port = random.randrange(20000, 1 << 30)
        try:
            with socket.socket(socket.AF_VSOCK) as probe, socket.socket(socket.AF_VSOCK) as c:
                probe.bind((socket.VMADDR_CID_ANY, port))
                probe.listen()
                c.settimeout(1)
                c.connect((VMADDR_CID_LOCAL, port))
        except OSError as e:
            self.skipTest("no vsock loopback here: %s" % e)
        process = subprocess.Popen([Case.program, "--listen", "vsock:%d" % port])

        def connected():
            try:
                self.sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
                self.sock.connect((VMADDR_CID_LOCAL, port))
                return True
            except OSError:
                self.sock.close()
                return False

        try:
            wait_until(connected, "the agent listens")
            with self.sock as c:
                c.settimeout(PATIENCE)
                try:
                    c.sendall(frame(PING))
                    self.assertEqual(c.recv(1), b"")
                except (ConnectionResetError, BrokenPipeError):
                    pass
        finally:
            process.terminate()
            self.assertEqual(process.wait(PATIENCE), 0)


if __name__ == "__main__":
    main()
