#!/usr/bin/env python3
"""forkd doctor: every check both ways, on a host made of files (FORKD_DOCTOR_ROOT) or with the fault itself."""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Skip, case, main, until

FORKD = os.environ['FORKD_TEST_CLI']
CHECKS = ['kvm', 'kvm-native', 'nx-huge-pages', 'memory', 'overcommit', 'huge-pages', 'images-space',
          'snapshots-space', 'fallocate', 'direct-io', 'reflink', 'writeback', 'cgroup', 'open-files', 'clock-source',
          'nftables', 'tap', 'guest-image', 'controller', 'token']
TOKEN = '0123456789abcdef0123456789abcdef'
SHMEM = 'sys/kernel/mm/transparent_hugepage/shmem_enabled'
CLOCK = 'sys/devices/system/clocksource/clocksource0/current_clocksource'
CGROUP_MOUNT = '30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw'
LIBC = ctypes.CDLL(None, use_errno=True)


class Host:
    """A host of files: a good one, until a test spoils it."""

    def __init__(self, c):
        self.c, self.root = c, os.path.join(c.dir, 'host')
        self.env = {'FORKD_DOCTOR_ROOT': self.root, 'FORKD_STATE': c.state, 'FORKD_VMM': os.path.join(c.dir, 'probe'),
                    'FORKD_IMAGES': os.path.join(c.dir, 'images'), 'FORKD_SNAPSHOT_ROOT': c.dir,
                    'FORKD_HOME': os.path.dirname(os.environ['FORKD_TEST_CONTROLLER'])}
        self.probe({'kvm': True, 'native': True, 'reason': ''})
        for path, text in {'sys/module/kvm/parameters/nx_huge_pages': 'never', SHMEM: 'always [advise] never',
                           'proc/meminfo': 'MemTotal:  16777216 kB\nMemAvailable:  8388608 kB',
                           'proc/sys/vm/overcommit_memory': '0', 'proc/sys/vm/dirty_bytes': '0',
                           'proc/sys/vm/dirty_ratio': '20', 'proc/self/mountinfo': CGROUP_MOUNT, CLOCK: 'tsc',
                           'sys/fs/cgroup/cgroup.controllers': 'cpuset cpu io memory pids',
                           'proc/self/limits': 'Limit Soft Hard Units\nMax open files 1024 524288 files',
                           'proc/self/status': 'Name:\tx\nCapEff:\t0000000000000000', 'usr/sbin/nft': '',
                           'sys/module/nf_tables/x': '', 'dev/net/tun': '', 'dev/kvm': ''}.items():
            self.write(path, text)
        os.makedirs(os.path.join(self.env['FORKD_IMAGES'], 'python3'))
        with open(os.path.join(self.env['FORKD_IMAGES'], 'python3', 'image.json'), 'w', encoding='utf-8') as file:
            file.write('{"name":"python3"}')

    def write(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, 'w', encoding='utf-8') as file:
            file.write(text + '\n')

    def remove(self, path):
        os.unlink(os.path.join(self.root, path))

    def probe(self, answer):
        with open(self.env['FORKD_VMM'], 'w', encoding='utf-8') as file:
            file.write(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
        os.chmod(self.env['FORKD_VMM'], 0o755)

    def findings(self, *args, **env):
        clean = {name: value for name, value in os.environ.items() if not name.startswith('FORKD_')}
        run = subprocess.run([FORKD, 'doctor', '--json', *args], env={**clean, **self.env, **env}, capture_output=True,
                             text=True, timeout=60, check=False)
        found = json.loads(run.stdout)
        assert [one['check'] for one in found] == CHECKS, found
        for one in found:
            assert one['looked_at'] and one['found'] and one['result'] in ('pass', 'warn', 'fail'), one
            assert (one['result'] == 'pass') == (one['remedy'] == ''), one
        assert run.returncode == (1 if any(one['result'] == 'fail' for one in found) else 0), run
        return {one['check']: one for one in found}

    def says(self, check, result, words='', *args, **env):
        one = self.findings(*args, **env)[check]
        assert one['result'] == result and words in one['found'], one


@case(start=False)
def a_good_host_passes(c):
    found = Host(c).findings()
    # Not of files: the disk of this test, and /dev/kvm, which a file cannot play.
    real = ('kvm', 'images-space', 'snapshots-space', 'fallocate', 'direct-io', 'reflink')
    assert all(one['result'] == 'pass' for name, one in found.items() if name not in real), found


@case(start=False)
def people_get_the_same_in_lines(c):
    host = Host(c)
    host.write('proc/sys/vm/overcommit_memory', '2')
    clean = {name: value for name, value in os.environ.items() if not name.startswith('FORKD_')}
    run = subprocess.run([FORKD, 'doctor'], env={**clean, **host.env}, capture_output=True, text=True, timeout=60,
                         check=False)
    lines = run.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('FAIL  overcommit '))
    assert 'mend it with: sysctl vm.overcommit_memory=0' in lines[at + 1], lines
    assert lines[-1].endswith('failed') and run.returncode == 1, lines


@case(start=False)
def kvm_must_be_there_and_be_kvm(c):
    host = Host(c)
    host.says('kvm', 'fail', 'is no KVM device')
    host.remove('dev/kvm')
    host.says('kvm', 'fail', 'is not there')
    os.mkdir(os.path.join(host.root, 'dev/kvm'))
    host.says('kvm', 'fail', 'cannot be opened')
    if os.access('/dev/kvm', os.R_OK | os.W_OK):
        host.says('kvm', 'pass', FORKD_DOCTOR_ROOT='')


@case(start=False)
def kvm_native_is_what_the_probe_measured(c):
    host = Host(c)
    host.says('kvm-native', 'pass')
    host.probe({'kvm': True, 'native': False, 'reason': 'it is a thousand times slower'})
    host.says('kvm-native', 'fail', 'it is a thousand times slower')
    host.says('kvm-native', 'fail', 'was not run', FORKD_VMM='/nowhere/forkd-vmm')


@case(start=False)
def the_making_of_vms_is_quick_with_either_setting(c):
    host = Host(c)
    host.write('sys/module/kvm/parameters/nx_huge_pages', 'Y')
    host.says('nx-huge-pages', 'warn', 'not mounted favordynmods')
    host.write('proc/self/mountinfo', CGROUP_MOUNT + ',favordynmods')
    host.says('nx-huge-pages', 'pass', 'favordynmods')
    host.remove('sys/module/kvm/parameters/nx_huge_pages')
    host.says('nx-huge-pages', 'pass', 'is not there')


@case(start=False)
def memory_and_how_it_is_handed_out(c):
    host = Host(c)
    host.write('proc/meminfo', 'MemTotal: 2097152 kB\nMemAvailable: 524288 kB')
    host.says('memory', 'warn', '512 MiB')
    host.remove('proc/meminfo')
    host.says('memory', 'warn', 'cannot be read')
    host.write('proc/sys/vm/overcommit_memory', '1')
    host.says('overcommit', 'pass')
    host.write('proc/sys/vm/overcommit_memory', '2')
    host.says('overcommit', 'fail', 'is 2')
    host.write(SHMEM, 'always within_size advise [never] deny force')
    host.says('huge-pages', 'warn', 'is never')
    host.write(SHMEM, 'always within_size [advise] never deny force')
    host.write(SHMEM.replace('shmem_', ''), 'always [madvise] never')
    host.says('huge-pages', 'pass', 'enabled beside it is madvise')
    host.remove(SHMEM)
    host.says('huge-pages', 'warn', 'is not there')


@case(start=False)
def too_much_that_waits_to_be_written(c):
    host = Host(c)
    host.says('writeback', 'pass', '1638 MiB')
    host.write('proc/meminfo', 'MemAvailable: 67108864 kB')
    host.says('writeback', 'warn', '13107 MiB')
    host.write('proc/sys/vm/dirty_bytes', str(256 << 20))
    host.says('writeback', 'pass', '256 MiB')


@case(start=False)
def limits_of_memory_need_cgroup_2(c):
    host = Host(c)
    host.write('sys/fs/cgroup/cgroup.controllers', 'cpu io')
    host.says('cgroup', 'warn', 'has no memory controller')
    host.remove('sys/fs/cgroup/cgroup.controllers')
    host.says('cgroup', 'warn', 'cannot be read')
    host.write('proc/self/mountinfo', '30 23 0:26 / /proc rw - proc proc rw')
    host.says('cgroup', 'warn', 'is not mounted')


@case(start=False)
def open_files_are_enough_or_can_be_raised(c):
    host = Host(c)
    host.write('proc/self/limits', 'Max open files 1024 4096 files')
    host.says('open-files', 'warn', '4096')
    host.write('proc/self/status', 'CapEff:\t000001ffffffffff')
    host.says('open-files', 'pass', 'may be raised')
    host.write('proc/self/limits', 'Max open files 1024 unlimited files')
    host.says('open-files', 'pass')


@case(start=False)
def clock_nft_and_tap(c):
    host = Host(c)
    host.write(CLOCK, 'hpet')
    host.says('clock-source', 'warn', 'is hpet')
    host.remove(CLOCK)
    host.says('clock-source', 'warn', 'cannot be read')
    host.remove('usr/sbin/nft')
    host.says('nftables', 'warn', 'the program is missing')
    shutil.rmtree(os.path.join(host.root, 'sys/module/nf_tables'))
    host.says('nftables', 'warn', "the kernel's part is missing")
    host.write(f'lib/modules/{os.uname().release}/modules.dep', 'kernel/net/netfilter/nf_tables.ko: kernel/x.ko')
    host.write('usr/sbin/nft', '')
    host.says('nftables', 'pass')
    host.remove('dev/net/tun')
    host.says('tap', 'warn', 'is not there')


@case(start=False)
def a_guest_image_or_a_kernel_of_ones_own(c):
    host = Host(c)
    shutil.rmtree(host.env['FORKD_IMAGES'])
    host.says('guest-image', 'warn', 'no guest image')
    host.says('guest-image', 'pass', 'can be read', FORKD_KERNEL=c.kernel())
    host.says('guest-image', 'fail', 'No such file', FORKD_KERNEL='/nowhere/vmlinux')


@case(start=False)
def the_controller_and_its_token(c):
    tokens = os.path.join(c.dir, 'tokens')
    with open(tokens, 'w', encoding='utf-8') as file:
        file.write(TOKEN + '\n')
    os.chmod(tokens, 0o600)
    host, url = Host(c), {'FORKD_URL': 'unix:' + c.socket}
    host.says('controller', 'pass', 'does not run')
    host.says('controller', 'fail', 'cannot be', **url)
    host.says('controller', 'fail', 'cannot be', FORKD_URL='ftp://nowhere')
    host.says('token', 'pass', 'cannot be tried')
    c.flags = ['--token-file', tokens]
    c.process = c.spawn()
    until(lambda: os.path.exists(c.socket), 'the socket is there')
    host.says('controller', 'pass', 'runs', **url)
    host.says('token', 'fail', 'is missing', **url)
    host.says('token', 'fail', 'not one the controller knows', **url, FORKD_TOKEN='x' * 32)
    host.says('token', 'fail', 'shorter than 16', **url, FORKD_TOKEN='short')
    host.says('token', 'pass', 'is accepted', **url, FORKD_TOKEN=TOKEN)
    os.chmod(tokens, 0o644)
    host.says('token', 'fail', 'can be read by every user', **url, FORKD_TOKEN=TOKEN, FORKD_TOKEN_FILE=tokens)
    c.stop()


@case()
def an_address_without_a_token_is_warned_of(c):
    Host(c).says('token', 'warn', 'is not asked for', FORKD_URL='unix:' + c.socket)


@contextlib.contextmanager
def mounted(c, kind, options=''):
    """A file system of its own on a directory, if this user may mount one."""
    where = os.path.join(c.dir, 'mnt-' + kind)
    os.mkdir(where)
    if LIBC.mount(b'forkd-test', where.encode(), kind.encode(), 0, options.encode()) < 0:
        os.rmdir(where)
        raise Skip(f'{kind} cannot be mounted: {os.strerror(ctypes.get_errno())}')
    try:
        yield where
    finally:
        LIBC.umount2(where.encode(), 2)
        os.rmdir(where)


@contextlib.contextmanager
def image_mounted(c, kind, *mkfs):
    """A loop device with a file system made for it."""
    where, image = os.path.join(c.dir, 'mnt-' + kind), os.path.join(c.dir, kind + '.img')
    if not shutil.which(mkfs[0]):
        raise Skip(f'{mkfs[0]} is not installed')
    os.mkdir(where)
    with open(image, 'wb') as file:
        file.truncate(512 << 20)
    for command in ([*mkfs, image], ['mount', '-t', kind, '-o', 'loop', image, where]):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise Skip(f'{kind} cannot be made: {run.stderr.strip()}')
    try:
        yield where
    finally:
        subprocess.run(['umount', where], check=True)


@case(start=False)
def space_is_measured_where_it_is_needed(c):
    host = Host(c)
    for mib, result in ((64, 'fail'), (1024, 'warn'), (8192, 'pass')):
        with mounted(c, 'tmpfs', f'size={mib}m') as where:
            for name, check in (('FORKD_IMAGES', 'images-space'), ('FORKD_SNAPSHOT_ROOT', 'snapshots-space')):
                # A directory that is not there yet counts where it will be made.
                host.says(check, result, 'MiB free', **{name: where + '/later/there'})


@case(start=False)
def a_disk_without_fallocate_and_direct_io_is_told(c):
    host = Host(c)
    with mounted(c, 'ramfs') as where:
        host.says('fallocate', 'warn', 'cannot reserve space', FORKD_SNAPSHOT_ROOT=where)
        host.says('direct-io', 'warn', 'cannot be written past', FORKD_SNAPSHOT_ROOT=where)
    with mounted(c, 'tmpfs') as where:
        host.says('fallocate', 'pass', '', FORKD_SNAPSHOT_ROOT=where)


@case(start=False)
def a_disk_that_can_do_all_passes(c):
    host = Host(c)
    with image_mounted(c, 'xfs', 'mkfs.xfs', '-q', '-m', 'reflink=1') as where:
        for check in ('fallocate', 'direct-io', 'reflink'):
            host.says(check, 'pass', 'can ', FORKD_SNAPSHOT_ROOT=where)


@case(start=False)
def a_disk_without_reflink_is_told(c):
    host = Host(c)
    with mounted(c, 'tmpfs') as where:
        host.says('reflink', 'pass', 'cannot share blocks', FORKD_SNAPSHOT_ROOT=where)


raise SystemExit(main())
