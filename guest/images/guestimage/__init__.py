"""Guest images of forkd: a Debian root filesystem, a Debian kernel and a small initrd.

One file per subject:
  report   progress, failures, running other programs
  conf     the description of an image (NAME.conf)
  debian   what apt would install, and installing it (mmdebstrap)
  kernel   the kernel package: vmlinux, vmlinuz, modules
  initrd   the cpio archive with the modules and the init that mounts the root
  agent    the agent's files on the builder's side
  ext4     making, marking, reading and changing an ext4 image without mounting it
  store    the directory of built images: locks, atomic publication, image.json

Only the standard library is used, and programs of Debian packages.
"""
