"""What goes wrong: each failure is told in one sentence, and leaves nothing."""

import contextlib
import os
import re
import signal
import struct
import subprocess

from harness import Skip, case, main, until


def refused(c, words, status=500, **fields):
    """A snapshot that cannot be made; returns the sentence. Its tag is free afterwards."""
    got, answer = c.post('/v1/snapshots', {'tag': 'bad', 'kernel': c.kernel(words), **fields})
    assert got == status and list(answer) == ['error'], (got, answer)
    c.assert_nothing_left()
    assert c.get('/v1/snapshots')[1] == []
    c.snapshot('bad')
    return answer['error']


@case()
def a_kernel_that_is_none(c):
    text = refused(c, 'boot=refused', status=400)
    assert text == c.kernel('boot=refused') + ': the kernel is neither an ELF file nor a bzImage', text


@case()
def a_panic_is_told_with_the_console(c):
    text = refused(c, 'boot=panic')
    assert text.startswith('the guest ended while it booted: the guest asked for a reset'), text
    assert text.endswith('The console ends with:\nLinux version fake\n'
                         'Kernel panic - not syncing: VFS: Unable to mount root fs'), text


@case()
def a_vmm_that_ends_without_a_word(c):
    assert 'ended without a word' in refused(c, 'boot=exit')


@case()
def an_agent_that_is_never_up(c):
    text = refused(c, 'boot=silent', boot_wait_secs=1)
    assert "the guest's agent was not up after boot_wait_secs (1)" in text and 'Linux version fake' in text, text


@case()
def a_ready_command_that_fails(c):
    assert 'ready_cmd ended with 3' in refused(c, 'ready=fail', 400, ready_cmd='false')


@case()
def a_module_that_is_not_there(c):
    text = refused(c, 'warm=fail', 400, warmup=['nonesuch'])
    assert text.startswith("the warm-up failed: No module named 'nonesuch'"), text


@case()
def an_image_that_cannot_be_sealed(c):
    assert 'the memory cannot be sealed' in refused(c, 'freeze=fail')


@case()
def a_template_that_cannot_load(c):
    assert 'the template: this host lacks a CPU feature' in refused(c, 'load=fail')


def spawn_refused(c, words, n=5):
    c.snapshot(words=words)
    status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'py', 'n': n})
    assert status == 500, (status, answer)
    assert c.ids() == []
    until(lambda: len(c.processes()) == 1, 'only the template is left')
    until(lambda: len(c.run_directories()) == 1, 'only its directory is left')
    assert len(c.fork(2)) == 2
    return answer['error']


@case('--spawns-at-once', '1')
def a_spawn_that_is_refused_leaves_none_of_its_siblings(c):
    assert 'no more processes' in spawn_refused(c, 'spawn=fail:3')


@case('--spawns-at-once', '4')
def a_spawn_that_is_refused_among_parallel_ones_leaves_none(c):
    assert 'no more processes' in spawn_refused(c, 'spawn=fail:3', 8)


@case('--spawns-at-once', '1')
def a_child_that_dies_unborn_fails_the_spawn(c):
    text = spawn_refused(c, 'spawn=die:3')
    assert 'could not be started' in text and 'ended without a word' in text, text


@case('--spawns-at-once', '8')
def each_child_that_fails_is_told(c):
    text = spawn_refused(c, 'identity=fail:2 spawn=die:3', 4)
    told = re.fullmatch('([12]) of 4 failed, and none is kept: (sandbox sb-.*)', text)
    assert told, text
    # Whether the second of them was begun before the first failed is a matter of moments.
    failed = re.findall('sandbox (sb-[a-z0-9]+) could not be started: ', told[2])
    assert len(set(failed)) == int(told[1]), text
    for one in failed:
        assert f'error controller: sandbox {one} could not be started' in c.read_log()


@case('--spawns-at-once', '1')
def a_fork_without_identity_is_handed_to_nobody(c):
    text = spawn_refused(c, 'identity=fail:3')
    assert 'the fork did not take its identity: a hook in /etc/forkd/fork.d failed' in text, text


@case('--spawns-at-once', '1')
def a_fork_that_hangs_up_on_its_identity_is_handed_to_nobody(c):
    assert 'hung up' in spawn_refused(c, 'identity=hangup:2')


@case()
def a_hostile_agent_fails_its_request_and_nothing_else(c):
    c.snapshot()
    one, other = [box['id'] for box in c.fork(2)]
    for words in ('garbage', 'huge', 'wrong', 'hangup'):
        status, answer = c.exec(one, words)
        assert status == 502 and list(answer) == ['error'], (words, status, answer)
    assert c.exec(one, 'echo', 'still')[1]['stdout'] == 'still\n'
    assert c.exec(other, 'echo', 'here')[1]['stdout'] == 'here\n'


@case()
def a_guest_that_powers_off_is_gone_and_told(c):
    c.snapshot()
    one, other = [box['id'] for box in c.fork(2)]
    assert c.exec(one, 'poweroff')[0] == 502
    until(lambda: c.ids() == [other], 'it is gone from the list')
    until(lambda: one not in c.run_directories(), 'its directory is gone')
    until(lambda: f'sandbox {one} (process' in c.read_log() and 'the guest powered off' in c.read_log(), 'it is told')
    assert c.exec(other, 'echo', 'a')[0] == 200


@case()
def kill_9_of_a_child_is_noticed_and_harms_no_other(c):
    c.snapshot()
    one, other = c.fork(2)
    os.kill(one['pid'], signal.SIGKILL)
    until(lambda: c.ids() == [other['id']], 'it is gone from the list')
    until(lambda: one['id'] not in c.run_directories(), 'its directory is gone')
    until(lambda: 'its process was killed' in c.read_log(), 'it is told')
    assert c.exec(other['id'], 'echo', 'a')[0] == 200
    assert len(c.fork()) == 1


@case()
def kill_9_of_the_template_fails_the_snapshot_and_spares_its_children(c):
    c.snapshot()
    one = c.fork()[0]
    os.kill(c.template(), signal.SIGKILL)
    failed = until(lambda: next((s for s in c.get('/v1/snapshots')[1] if s['status'] == 'failed'), None), 'it failed')
    assert failed['bootable'] is False and 'its template process ended' in failed['warning'], failed
    status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'py'})
    assert status == 409 and answer['error'].startswith('snapshot py is not bootable: '), answer
    assert c.exec(one['id'], 'echo', 'alive')[1]['stdout'] == 'alive\n'
    assert c.post('/v1/snapshots', {'tag': 'py', 'kernel': c.kernel()})[0] == 400
    assert c.delete('/v1/snapshots/py')[0] == 204
    c.snapshot()
    assert c.exec(one['id'], 'echo', 'alive')[0] == 200


@case()
def a_deleted_snapshot_goes_when_its_last_child_goes(c):
    c.snapshot()
    one = c.fork()[0]
    assert c.delete('/v1/snapshots/py')[0] == 204
    assert c.get('/v1/snapshots') == (200, [])
    assert c.post('/v1/sandboxes', {'snapshot_tag': 'py'})[0] == 404
    assert c.get('/v1/sandboxes/' + one['id'])[1]['snapshot_tag'] == 'py'
    assert len(c.processes()) == 2
    assert c.delete('/v1/sandboxes/' + one['id'])[0] == 204
    c.assert_nothing_left()


BAD_SNAPSHOTS = [
    ({}, 'missing field tag'),
    ({'tag': '.', 'kernel': 'k'}, 'tag must be'),
    ({'tag': '..', 'kernel': 'k'}, 'tag must be'),
    ({'tag': 'a/b', 'kernel': 'k'}, 'tag must be'),
    ({'tag': '-a', 'kernel': 'k'}, 'tag must be'),
    ({'tag': 'x' * 65, 'kernel': 'k'}, 'tag must be'),
    ({'tag': 'é', 'kernel': 'k'}, 'tag must be'),
    ({'tag': '', 'kernel': 'k'}, 'tag must be'),
    ({'tag': 5, 'kernel': 'k'}, 'tag must be a string'),
    ({'tag': 'a'}, 'missing field kernel'),
    ({'tag': 'a', 'kernel': None}, 'missing field kernel'),
    ({'tag': 'a', 'kernel': '/none'}, 'kernel /none: No such file or directory'),
    ({'tag': 'a', 'kernel': '/tmp'}, 'kernel /tmp is no file'),
    ({'tag': 'a', 'kernel': '/dev/null'}, 'kernel /dev/null is no file'),
    ({'tag': 'a', 'kernel': 'K', 'mem_size_mib': 0}, 'mem_size_mib must be a whole number from 16 to 65536'),
    ({'tag': 'a', 'kernel': 'K', 'mem_size_mib': -1}, 'mem_size_mib must be'),
    ({'tag': 'a', 'kernel': 'K', 'mem_size_mib': '512'}, 'mem_size_mib must be'),
    ({'tag': 'a', 'kernel': 'K', 'mem_size_mib': 1 << 62}, 'mem_size_mib must be'),
    ({'tag': 'a', 'kernel': 'K', 'mem_size_mib': 512.5}, 'mem_size_mib must be'),
    ({'tag': 'a', 'kernel': 'K', 'vcpus': 0}, 'vcpus must be a whole number from 1 to 16'),
    ({'tag': 'a', 'kernel': 'K', 'vcpus': 17}, 'vcpus must be'),
    ({'tag': 'a', 'kernel': 'K', 'boot_wait_secs': 61}, 'boot_wait_secs must be'),
    ({'tag': 'a', 'kernel': 'K', 'boot_wait_secs': 0}, 'boot_wait_secs must be'),
    ({'tag': 'a', 'kernel': 'K', 'rw': 'yes'}, 'rw must be true or false'),
    ({'tag': 'a', 'kernel': 'K', 'warmup': 5}, 'warmup must be'),
    ({'tag': 'a', 'kernel': 'K', 'warmup': ['a', 1]}, 'warmup must be'),
    ({'tag': 'a', 'kernel': 'K', 'tap': 'tap0'}, 'tap is not supported'),
    ({'tag': 'a', 'kernel': 'K', 'rootfs': '/none'}, 'rootfs /none: No such file or directory'),
    ({'tag': 'a', 'kernel': 'K', 'initrd': '/none'}, 'initrd /none: No such file or directory'),
    ({'tag': 'a', 'image': '../etc'}, 'image must be the name of a built image'),
    ({'tag': 'a', 'image': 'none'}, 'there is no image none in'),
]


@case()
def bad_snapshot_requests_are_400_and_name_the_field(c):
    for body, words in BAD_SNAPSHOTS:
        body = {name: c.kernel() if value == 'K' else value for name, value in body.items()}
        status, answer = c.post('/v1/snapshots', body)
        assert status == 400 and words in answer['error'], (body, status, answer)
    assert c.get('/v1/snapshots')[1] == []


@case()
def bad_spawn_requests_are_400_and_name_the_field(c):
    c.snapshot()
    for fields, words in (({'n': 0}, 'n must be a whole number from 1 to 1000'), ({'n': 1001}, 'n must be'),
                          ({'n': 'ten'}, 'n must be'), ({'snapshot_tag': '..'}, 'snapshot_tag must be'),
                          ({'snapshot_tag': None}, 'missing field snapshot_tag'),
                          ({'per_child_netns': True}, 'per_child_netns is not supported'),
                          ({'memory_limit_mib': 0}, 'memory_limit_mib must be'), ({'prewarm': 1}, 'prewarm must be')):
        status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'py', **fields})
        assert status == 400 and words in answer['error'], (fields, status, answer)


@case()
def bad_exec_and_eval_requests_are_400(c):
    c.snapshot()
    one = c.fork()[0]['id']
    for body, words in (({}, 'args must hold'), ({'args': []}, 'args must hold'), ({'args': 'ls'}, 'args must be'),
                        ({'args': ['']}, 'is empty'), ({'args': [1]}, 'list of strings'),
                        ({'args': ['a'], 'timeout_secs': 0}, 'timeout_secs must be'),
                        ({'args': ['a'], 'env': {'A=B': 'c'}}, "a name in env"),
                        ({'args': ['a'], 'env': ['A=B']}, 'env must be'),
                        ({'args': ['a'], 'cwd': 1}, 'cwd must be a string')):
        status, answer = c.post(f'/v1/sandboxes/{one}/exec', body)
        assert status == 400 and words in answer['error'], (body, status, answer)
    assert c.post(f'/v1/sandboxes/{one}/eval', {})[1]['error'] == 'missing field code'


@case()
def bodies_that_are_no_object_are_400(c):
    for body in ('{', '[]', '"a"', '{"tag":"a","tag":"b"}', '{"tag":"\\u0000"}', b'\xff', '{"a":' * 3000, 'null'):
        status, answer = c.call('POST', '/v1/snapshots', body)
        assert status == 400 and list(answer) == ['error'], (body[:40], status, answer)


@case()
def bad_paths_are_told(c):
    for path in ('/v1/sandboxes/%zz', '/v1/sandboxes/%00', '/v1/snapshots/' + 'x' * 200):
        assert c.get(path)[0] in (400, 404, 405), path
    assert c.delete('/v1/snapshots/%2e%2e')[0] == 400
    assert c.delete('/v1/snapshots/a?cascade=true&force=true')[0] == 400


def ext4(path, label):
    with open(path, 'wb') as file:
        file.truncate(1 << 20)
        file.seek(1024 + 0x38)
        file.write(struct.pack('<H', 0xef53))
        file.seek(1024 + 0x78)
        file.write(label.ljust(16, b'\0'))
    return path


@case()
def a_rootfs_without_agent_is_refused_with_the_remedy(c):
    rootfs = ext4(os.path.join(c.dir, 'rootfs'), b'debian')
    status, answer = c.post('/v1/snapshots', {'tag': 'a', 'kernel': c.kernel(), 'rootfs': rootfs})
    assert status == 400 and answer['error'] == (
        f'{rootfs} has no forkd agent (/usr/lib/forkd/forkd-agent); add it with: forkd images add-agent {rootfs}')
    status, answer = c.post('/v1/snapshots', {'tag': 'a', 'kernel': c.kernel(), 'rootfs': c.kernel()})
    assert status == 400 and 'is not an ext4 filesystem' in answer['error']


@case()
def a_rootfs_with_agent_gives_every_child_a_layer(c):
    rootfs = ext4(os.path.join(c.dir, 'rootfs'), b'forkd-agent-1')
    c.snapshot(rootfs=rootfs)
    assert len(c.fork(2)) == 2


def stall(c, sandbox):
    """A sandbox whose guest stands still for want of disk space, and says so to everybody who asks."""
    c.exec(sandbox, 'stall')
    told = until(lambda: c.get(f'/v1/sandboxes/{sandbox}')[1].get('stalled'), 'it is told')
    for what, body in (('ping', None), ('exec', {'args': ['echo']}), ('eval', {'code': '1+1'})):
        status, answer = c.post(f'/v1/sandboxes/{sandbox}/{what}', body)
        assert status == 409 and f'{sandbox} is stalled: {told}' in answer['error'], (status, answer)


@case()
def a_stalled_sandbox_is_told_and_resumed(c):
    c.snapshot()
    one, other = [box['id'] for box in c.fork(2)]
    stall(c, one)
    assert 'No space left on device' in c.get(f'/v1/sandboxes/{one}')[1]['stalled']
    assert 'stalled' not in c.get(f'/v1/sandboxes/{other}')[1]
    assert c.exec(other, 'echo', 'here')[1]['stdout'] == 'here\n'
    status, answer = c.post(f'/v1/sandboxes/{one}/resume')
    assert status == 200 and answer['id'] == one and 'stalled' not in answer, answer
    assert c.exec(one, 'echo', 'again')[1]['stdout'] == 'again\n'
    status, answer = c.post(f'/v1/sandboxes/{one}/resume')
    assert status == 409 and 'is not stalled' in answer['error'], answer
    assert c.post('/v1/sandboxes/sb-nobody/resume')[0] == 404


@case()
def a_sandbox_that_stalls_again_is_told_again(c):
    c.snapshot(words='resume=stalls')
    one = c.fork()[0]['id']
    stall(c, one)
    assert c.post(f'/v1/sandboxes/{one}/resume')[0] in (200, 409)
    until(lambda: c.get(f'/v1/sandboxes/{one}')[1].get('stalled'), 'it is told again')
    assert c.delete(f'/v1/sandboxes/{one}')[0] == 204


@case()
def a_stalled_sandbox_is_stalled_for_the_next_controller_too(c):
    c.snapshot()
    one = c.fork()[0]['id']
    stall(c, one)
    c.stop(signal.SIGKILL)
    c.start()
    assert c.get(f'/v1/sandboxes/{one}')[1]['stalled']
    assert c.post(f'/v1/sandboxes/{one}/resume')[0] == 200
    assert c.exec(one, 'echo', 'again')[1]['stdout'] == 'again\n'


@case(start=False)
def a_full_disk_is_named_and_leaves_nothing(c):
    small = os.path.join(c.dir, 'small')
    os.mkdir(small)
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', small], stderr=subprocess.DEVNULL,
                      check=False).returncode:
        raise Skip('no permission to mount a small tmpfs')
    try:
        c.state = os.path.join(small, 'state.db')
        c.run = c.state + '.run'
        c.start()
        c.snapshot()
        with open(os.path.join(small, 'filler'), 'wb', buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b'x' * 4096):
                pass
        for path, body in (('/v1/snapshots', {'tag': 'a', 'kernel': c.kernel()}),
                           ('/v1/sandboxes', {'snapshot_tag': 'py', 'n': 3})):
            status, answer = c.post(path, body)
            assert status == 500 and ('full' in answer['error'] or 'No space left' in answer['error']), answer
        assert [one['tag'] for one in c.get('/v1/snapshots')[1]] == ['py'] and c.ids() == []
        os.unlink(os.path.join(small, 'filler'))
        c.snapshot('a')
        assert len(c.fork(2)) == 2
        c.clear()
        c.assert_nothing_left()
        assert c.stop() == 0
    finally:
        c.stop(signal.SIGKILL)
        subprocess.run(['umount', '-l', small], check=False)


raise SystemExit(main())
