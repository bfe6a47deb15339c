"""What forkd-controller tells Prometheus."""

import os
import re
import signal

from harness import KERNEL, Skip, case, main, until

LINE = re.compile(r'([a-z_]+)(?:\{(.*)\})? (\S+)')


def scrape(c):
    """Every series by name and labels; the format is checked on the way."""
    status, body, response = c.raw('GET', '/metrics')
    assert status == 200 and response.getheader('Content-Type') == 'text/plain; version=0.0.4'
    text, found, types = body.decode(), {}, {}
    assert text.endswith('\n')
    for line in text.splitlines():
        if line.startswith('# '):
            _, what, name, rest = line.split(' ', 3)
            assert what in ('HELP', 'TYPE')
            if what == 'TYPE':
                assert name not in types, f'{name} is told twice'
                types[name] = rest
            continue
        name, labels, value = LINE.fullmatch(line).groups()
        family = re.sub('_(bucket|sum|count)$', '', name) if name not in types else name
        assert types[family] in ('gauge', 'counter', 'histogram'), line
        assert (name, labels) not in found, f'{line} is told twice'
        found[name, labels] = float(value)
    return found, types


def assert_histogram_is_sound(found, family, labels=''):
    rows = [(key[1], value) for key, value in found.items() if key[0] == family + '_bucket' and
            (key[1].startswith(labels + ',le=') if labels else key[1].startswith('le='))]
    counts = [value for _, value in rows]
    bounds = [row.rsplit('le="', 1)[1][:-1] for row, _ in rows]
    assert counts == sorted(counts) and bounds[-1] == '+Inf'
    assert [float(b) for b in bounds] == sorted(float(b) for b in bounds)
    assert counts[-1] == found[family + '_count', labels or None]
    return counts[-1], found[family + '_sum', labels or None]


@case('--branch-concurrency', '7')
def gauges_are_what_is(c):
    found, types = scrape(c)
    assert found['forkd_branch_concurrency_cap', None] == 7 and found['forkd_branches_in_flight', None] == 0
    assert found['forkd_snapshots_total', None] == 0 and found['forkd_sandboxes_active', None] == 0
    version = c.get('/version')[1]['version']
    assert found['forkd_build_info', f'version="{version}"'] == 1
    c.snapshot()
    c.snapshot('other')
    made = c.fork(3)
    found, types = scrape(c)
    assert found['forkd_snapshots_total', None] == 2 and found['forkd_sandboxes_active', None] == 3
    c.delete('/v1/sandboxes/' + made[0]['id'])
    c.delete('/v1/snapshots/py')
    found, types = scrape(c)
    assert found['forkd_snapshots_total', None] == 1 and found['forkd_sandboxes_active', None] == 2
    for name in ('forkd_snapshots_total', 'forkd_sandboxes_active', 'forkd_branches_in_flight',
                 'forkd_branch_concurrency_cap', 'forkd_build_info'):
        assert types[name] == 'gauge', name


@case()
def histograms_count_what_was_done(c):
    c.snapshot()
    one = c.fork(3)[0]['id']
    c.exec(one, 'true')
    c.post(f'/v1/sandboxes/{one}/eval', {'code': '1+1'})
    c.exec(one)
    found, _ = scrape(c)
    for family, times in (('forkd_spawn_duration_seconds', 3), ('forkd_exec_duration_seconds', 2)):
        count, total = assert_histogram_is_sound(found, family)
        assert count == times and total > 0, family
    count, _ = assert_histogram_is_sound(found, 'forkd_request_duration_seconds',
                                         'method="POST",route="/v1/sandboxes/:id/exec"')
    assert count == 2
    assert found['forkd_responses_total', 'status="400"'] == 1


@case()
def the_pause_of_a_branch_is_told_by_phase(c):
    if not KERNEL:
        raise Skip('a VMM that is none has no pause')
    c.snapshot()
    one = c.fork()[0]['id']
    status, made = c.post(f'/v1/sandboxes/{one}/branch', {})
    assert status == 201, made
    found, _ = scrape(c)
    assert found['forkd_branches_in_flight', None] == 0
    sums = 0
    for phase in ('kick', 'save', 'log', 'pages', 'resume'):
        count, total = assert_histogram_is_sound(found, 'forkd_branch_pause_phase_seconds', f'phase="{phase}"')
        assert count == 1, phase
        sums += total
    count, total = assert_histogram_is_sound(found, 'forkd_branch_pause_seconds')
    assert count == 1 and 0 < total and abs(total - sums) < 1e-6


@case(env={'FORKD_SNAPSHOT_WRITER': 'direct'})
def what_is_written_and_what_cannot_be_is_counted(c):
    if not KERNEL:
        raise Skip('a VMM that is none has no memory to write')
    c.snapshot()
    until(lambda: assert_histogram_is_sound(scrape(c)[0], 'forkd_snapshot_write_duration_seconds')[0] == 1,
          'it is written')
    found, types = scrape(c)
    assert found['forkd_snapshot_written_bytes_total', None] > 0
    assert found['forkd_snapshot_writes_failed_total', None] == 0
    assert types['forkd_snapshot_written_bytes_total'] == 'counter'
    assert found['forkd_snapshot_root_free_bytes', None] > 0
    c.fork()
    c.stop(signal.SIGKILL)
    for pid in c.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not c.processes(), 'all that was in memory is gone')
    c.start()
    assert assert_histogram_is_sound(scrape(c)[0], 'forkd_snapshot_load_duration_seconds')[0] == 0
    c.fork()
    assert assert_histogram_is_sound(scrape(c)[0], 'forkd_snapshot_load_duration_seconds')[0] == 1


@case()
def nothing_a_client_sends_becomes_a_series(c):
    before = scrape(c)[0]
    for path in ('/none', '/v1/sandboxes/some-name', '/v1/%22%7d', '/v1/snapshots?x=y'):
        c.get(path)
        c.call('FROB', path)
    after = scrape(c)[0]
    new = {key for key in after if key not in before}
    assert all(name == 'forkd_responses_total' for name, _ in new), new


@case()
def orphans_of_a_dead_controller_are_counted(c):
    c.snapshot()
    one, _ = c.fork(2)
    c.stop(signal.SIGKILL)
    os.kill(one['pid'], signal.SIGKILL)
    os.mkdir(os.path.join(c.run, 'sb-nobody'))
    c.start()
    found, _ = scrape(c)
    assert found['forkd_orphans_found_total', 'kind="dead"'] == 1
    assert found['forkd_orphans_found_total', 'kind="directory"'] == 1
    assert found['forkd_sandboxes_active', None] == 1


raise SystemExit(main())
