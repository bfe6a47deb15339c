"""The whole product but Linux: controller, templates, forkd-vmm, jail, vsock, with the agent guest, at full speed.

What a host's own files or a real guest's programs are about is tested elsewhere (tests/controller, tests/lab).
"""

import os
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import CASES, case, main, until

GUESTS = os.environ['FORKD_TEST_GUESTS']


def guest(name):
    return os.path.join(GUESTS, 'guest-' + name)


def template(c, tag='bare', mem=64, **fields):
    status, answer = c.post('/v1/snapshots', {'tag': tag, 'kernel': guest('agent'), 'mem_size_mib': mem, **fields})
    assert status == 201, (status, answer)


def fork(c, n=1):
    return [one['id'] for one in c.fork(n, 'bare')]


def pid_of(c, sandbox):
    return c.get('/v1/sandboxes/' + sandbox)[1]['pid']


def says(c, sandbox, *words):
    status, answer = c.exec(sandbox, *words)
    assert status == 200, (status, answer)
    return answer['stdout'].strip()


def refusal(c):
    """Why nothing can be spawned, or nothing."""
    status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'bare'})
    return '' if status == 201 else answer['error']


def answers(c, sandbox):
    return c.post(f'/v1/sandboxes/{sandbox}/ping')[0] == 200


def together(count, fn, things):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(fn, things))


@case()
def a_hundred_children_answer_each_by_its_own_name(c):
    template(c)
    ids = fork(c, 100)
    assert len(set(ids)) == 100
    assert together(4, lambda one: says(c, one, 'hostname'), ids) == ids
    evals = together(4, lambda one: c.post(f'/v1/sandboxes/{one}/eval', {'code': '6 * (3 + 4)'}), ids)
    assert all(status == 200 and answer['result'] == '42' for status, answer in evals), evals


@case()
def children_do_not_see_each_others_memory(c):
    template(c)
    ids = fork(c, 10)
    for number, one in enumerate(ids):
        assert says(c, one, 'mem', 'read', '0x1800000') == '0x0'
        says(c, one, 'mem', 'write', '0x1800000', hex(0x1000 + number))
    for number, one in enumerate(ids):
        assert says(c, one, 'mem', 'read', '0x1800000') == hex(0x1000 + number)
    assert says(c, fork(c)[0], 'mem', 'read', '0x1800000') == '0x0'


@case()
def what_the_parent_wrote_every_child_has(c):
    template(c, ready_cmd='mem fill 0x1800000 1m 0x77')
    for one in fork(c, 3):
        assert says(c, one, 'mem', 'check', '0x1800000', '1m', '0x77') == '0'


@case()
def each_child_has_the_time_of_day(c):
    template(c)
    one = fork(c)[0]
    before, said, after = time.time_ns(), int(says(c, one, 'date')), time.time_ns()
    assert before - 10**9 < said < after + 10**9, (before, said, after)


@case()
def a_command_over_time_is_told_as_such(c):
    template(c)
    status, answer = c.exec(fork(c)[0], 'sleep', '600', timeout_secs=1)
    assert status == 200 and answer['exit_code'] == 124 and answer['timed_out'], answer


@case()
def large_output_comes_whole(c):
    template(c)
    status, answer = c.exec(fork(c)[0], 'spew', '500000')
    assert status == 200 and answer['stdout'] == 'x' * 500000


@case()
def a_guest_that_ends_is_gone_and_the_others_go_on(c):
    template(c)
    for how in ('poweroff', 'reset', 'crash'):
        ended, other = fork(c, 2)
        c.exec(ended, how)
        until(lambda one=ended: one not in c.ids(), f'a guest that did {how} is listed no more')
        assert c.exec(ended, 'true')[0] == 404
        assert answers(c, other)


@case()
def a_killed_child_is_gone_and_the_others_go_on(c):
    template(c)
    killed, *others = fork(c, 5)
    os.kill(pid_of(c, killed), signal.SIGKILL)
    until(lambda: killed not in c.ids(), 'a killed child is listed no more')
    assert all(answers(c, one) for one in others)
    assert answers(c, fork(c)[0])


@case()
def children_outlive_a_killed_template(c):
    template(c)
    ids = fork(c, 5)
    os.kill(c.template(), signal.SIGKILL)
    until(lambda: 'bare' in refusal(c), 'a spawn of a killed template fails, and the snapshot is named')
    assert all(says(c, one, 'hostname') == one for one in ids)


@case()
def a_killed_controller_loses_nobody(c):
    template(c)
    told = fork(c, 5)
    stop = threading.Event()

    def client(_):
        while not stop.is_set():
            try:
                fork(c)
            except (OSError, ValueError, AssertionError):
                time.sleep(0.01)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(3)]
    for one in clients:
        one.start()
    until(lambda: len(c.ids()) > 20, 'spawns are under way')
    c.stop(signal.SIGKILL)
    stop.set()
    for one in clients:
        one.join()
    c.start()
    ids = c.ids()
    assert set(told) <= set(ids)
    assert all(together(4, lambda one: says(c, one, 'hostname') == one, ids))
    until(lambda: len(c.processes()) == len(c.ids()) + 1, 'every process is a sandbox that is listed, or the template')
    assert answers(c, fork(c)[0])


@case()
def two_hundred_spawns_and_kills_by_eight_clients_leave_nothing(c):
    template(c)

    def client(_):
        for _ in range(25):
            one = fork(c)[0]
            assert says(c, one, 'hostname') == one
            assert c.delete('/v1/sandboxes/' + one)[0] == 204

    together(8, client, range(8))
    assert c.ids() == []
    until(lambda: len(c.processes()) == 1, 'only the template is left')


def refused(c, kernel, status):
    """Why a snapshot of `kernel` is not made: a sentence, after which nothing is left."""
    got, answer = c.post('/v1/snapshots', {'tag': 'bare', 'kernel': kernel, 'mem_size_mib': 64})
    assert got == status, (got, answer)
    assert c.get('/v1/snapshots')[1] == []
    c.assert_nothing_left()
    return answer['error']


@case()
def a_guest_that_ends_while_it_boots_makes_no_template(c):
    assert refused(c, guest('end'), 500) == 'the guest ended while it booted: the guest powered off'
    assert 'fault' in refused(c, guest('hostile'), 500)


@case()
def a_kernel_that_is_none_is_named(c):
    broken = os.path.join(c.dir, 'broken')
    with open(guest('agent'), 'rb') as whole, open(broken, 'wb') as half:
        half.write(whole.read(5000))
    assert refused(c, broken, 400).startswith(f'{broken}: the kernel ')
    text = os.path.join(c.dir, 'text')
    with open(text, 'w', encoding='utf-8') as file:
        file.write('no kernel\n' * 1000)
    assert refused(c, text, 400) == f'{text}: the kernel is neither a bzImage nor a 64-bit ELF executable'


@case()
def a_guest_too_small_for_its_kernel_is_told_the_size(c):
    large = os.path.join(c.dir, 'large')
    with open(guest('agent'), 'rb') as kernel, open(large, 'wb') as copy:
        image = bytearray(kernel.read())
        (headers,) = struct.unpack_from('<Q', image, 32)  # e_phoff of the ELF header
        struct.pack_into('<Q', image, headers + 40, 100 << 20)  # p_memsz of the only segment
        copy.write(image)
    assert refused(c, large, 400) == f'{large}: the kernel needs guest memory up to 102 MiB, there are 64'


if __name__ == '__main__':
    if not os.path.exists('/dev/kvm'):
        print(f'1..0 # SKIP {len(CASES)} cases: /dev/kvm is not there')
        raise SystemExit(0)
    raise SystemExit(main())
