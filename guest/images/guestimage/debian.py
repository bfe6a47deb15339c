"""What apt would install, and installing it.

Everything comes from the machine's own apt: its sources, its package lists, its keys. The lists are copied
into the new root instead of fetched again, so what is installed is what was planned, and no list is
fetched twice. That makes apt's lists the only input: as long as they are the same, so is the plan.
"""

import glob
import hashlib
import os
import re
import shutil

from .report import ImageError, run

# Installed without their documentation and translations; dpkg keeps to it for later packages too.
EXCLUDE = ('/usr/share/doc/*', '/usr/share/man/*', '/usr/share/info/*', '/usr/share/locale/*',
           '/usr/share/lintian/*', '/usr/share/bash-completion/*')
INCLUDE = ('/usr/share/doc/*/copyright', '/usr/share/locale/locale.alias')
# usr-is-merged stands in for usrmerge, which would bring the whole of Perl (47 MiB).
ALWAYS = ('?essential', 'usr-is-merged')
EPOCH = '1672531200'  # 2023-01-01, the time of every file whose time is not its package's


class Plan:
    """The packages and kernel that apt's present lists lead to."""

    def __init__(self, lists_hash, packages_hash, package_count, installed_bytes, kernel_package, kernel_version):
        self.lists_hash = lists_hash
        self.packages_hash = packages_hash
        self.package_count = package_count
        self.installed_bytes = installed_bytes
        self.kernel_package = kernel_package
        self.kernel_version = kernel_version


def _apt_dirs():
    text = run(['apt-config', 'shell', 'lists', 'Dir::State::lists/d', 'etc', 'Dir::Etc/d'],
               "read apt's configuration")
    found = dict(re.findall(r"(\w+)='(.*)'", text))
    return found['lists'], found['etc']


def lists_hash():
    """A hash of all that decides what apt would install: signed lists, sources, preferences; None without lists."""
    lists, etc = _apt_dirs()
    release = glob.glob(lists + '*Release')
    if not release:
        return None
    digest = hashlib.sha256()
    for path in sorted(release + [f'{etc}sources.list', f'{etc}preferences'] +
                       glob.glob(f'{etc}sources.list.d/*') + glob.glob(f'{etc}preferences.d/*')):
        try:
            with open(path, 'rb') as file:
                digest.update(path.encode() + b'\0' + hashlib.sha256(file.read()).digest())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ImageError(f'cannot read {path}: {error.strerror}') from None
    return digest.hexdigest()


def sources_write(release, path):
    """Writes those of the machine's sources that are Debian's `release`, updates and security included."""
    form = '$(CODENAME)|deb [arch=$(ARCHITECTURE)] $(REPO_URI) $(RELEASE) $(COMPONENT)'
    text = run(['apt-get', 'indextargets', '--format', form, 'Created-By: Packages', 'Origin: Debian',
                'Architecture: amd64'], "list apt's sources")
    lines = sorted({line.split('|', 1)[1] for line in text.splitlines()
                    if line.split('|', 1)[0].split('-')[0] == release})
    if not lines:
        raise ImageError(f"apt has no package lists of Debian {release}; run apt-get update, and if that does not "
                         f"help, add Debian {release} to apt's sources")
    with open(path, 'w', encoding='utf-8') as file:
        file.write('\n'.join(lines) + '\n')


def apt_options(sources):
    """apt with only these sources, and without touching the machine's caches."""
    return ['-o', f'Dir::Etc::SourceList={sources}', '-o', 'Dir::Etc::SourceParts=/dev/null',
            '-o', 'Dir::Cache::pkgcache=', '-o', 'Dir::Cache::srcpkgcache=']


def _kernel_resolve(name, sources):
    """The package that holds the kernel, and its version: `name` itself or the one that it depends on."""
    text = run(['apt-cache', *apt_options(sources), 'show', '--no-all-versions', name],
               f'find the kernel package {name}')
    depends = re.search(r'^Depends:.*?(linux-image-[0-9][a-z0-9.+-]*)', text, re.M)
    if depends and not name[len('linux-image-'):][:1].isdigit():
        return _kernel_resolve(depends.group(1), sources)
    version = re.search(r'^Version: *(\S+)', text, re.M)
    if not version:
        raise ImageError(f'apt knows no kernel package {name}')
    return name, version.group(1)


def plan_make(conf, lists, sources, work):
    """Asks apt, without the network, which packages in which versions it would install on an empty system."""
    text = run(['apt-get', *apt_options(sources), '-o', 'Dir::State::status=/dev/null',
                '-o', f'Dir::Cache::archives={work}', '--print-uris', '--yes', '--no-install-recommends', 'install',
                *ALWAYS, *conf.packages], f'find the packages of {conf.name}')
    # 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE HASH
    found = sorted(re.findall(r"^'\S+' (\S+\.deb) \d+ (\S*)", text, re.M))
    packages_hash = hashlib.sha256(repr(found).encode()).hexdigest()
    size = re.search(r'After this operation, ([0-9.,]+) ([kMG]?)B', text)
    unit = {'': 1, 'k': 1000, 'M': 1000 ** 2, 'G': 1000 ** 3}
    installed = int(float(size.group(1).replace(',', '')) * unit[size.group(2)]) if size else 0
    return Plan(lists, packages_hash, len(found), installed, *_kernel_resolve(conf.kernel, sources))


def _require_space(folder, conf, plan):
    """Packages, unpacked root, its archive and the image are there at once, for a moment."""
    need = 3 * plan.installed_bytes + (200 << 20)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ImageError(f'{os.path.dirname(folder)} has {free >> 20} MiB free, making {conf.name} needs '
                         f'{need >> 20} MiB')


def root_install(conf, plan, sources, work, keep_fds):
    """Installs the packages into a new root and returns the path of its tar archive in `work`."""
    lists, _ = _apt_dirs()
    _require_space(work, conf, plan)
    tar = os.path.join(work, 'root.tar')
    argv = ['mmdebstrap', '--variant=custom', '--skip=update', '--format=tar',
            '--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr',
            # sh -c of mmdebstrap gives the new root as $1.
            f'--setup-hook=mkdir -p "$1/var/lib/apt/lists" && cp {lists}*_* "$1/var/lib/apt/lists/"']
    argv += [f'--include={package}' for package in (*ALWAYS, *conf.packages)]
    argv += [f'--dpkgopt=path-exclude={path}' for path in EXCLUDE]
    argv += [f'--dpkgopt=path-include={path}' for path in INCLUDE]
    # Without root, mmdebstrap works as another user of a user namespace, who cannot enter `work`.
    environment = {'SOURCE_DATE_EPOCH': EPOCH, **({'TMPDIR': work} if os.geteuid() == 0 else {})}
    run([*argv, conf.release, tar, sources], f'install the packages of {conf.name} (if apt-get update was long ago, '
        'run it and try again)', env=environment, keep_fds=keep_fds,
        announce=f'{conf.name}: installing {plan.package_count} Debian packages')
    return tar
