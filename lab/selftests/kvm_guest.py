"""A guest of one page, run on /dev/kvm of the emulated host.

    kvm_guest.py answer        the guest says 42 on a port and halts; prints it
    kvm_guest.py count FILE    the guest counts in memory for ever, without an
                               exit; its memory is FILE, the count its first
                               eight bytes

Python, because the lab has no compiler in it.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
EXIT_IO, EXIT_HLT = 2, 5
CODE = 0x1000
MEMORY = 0x2000
ANSWER = bytes.fromhex("b02a e610 f4")  # mov al, 42; out 0x10, al; hlt
COUNT = bytes.fromhex("66ff06 0000 ebf9")  # inc dword [0]; jmp back


class Vcpu:
    """A VM with one vCPU in real mode and MEMORY bytes that begin at 0."""

    def __init__(self, memory, code):
        self._memory = memory  # the mapping lives as long as the VM
        memory[CODE : CODE + len(code)] = code
        self._kvm = os.open("/dev/kvm", os.O_RDWR)
        self._vm = fcntl.ioctl(self._kvm, KVM_CREATE_VM, 0)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        region = struct.pack("IIQQQ", 0, 0, 0, MEMORY, address)
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, region)
        self._fd = fcntl.ioctl(self._vm, KVM_CREATE_VCPU, 0)
        size = fcntl.ioctl(self._kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
        self._run = mmap.mmap(self._fd, size)
        self._registers_set()

    def _registers_set(self):
        sregs = bytearray(0x138)
        fcntl.ioctl(self._fd, KVM_GET_SREGS, sregs)
        # struct kvm_segment begins with the base; the selector follows the limit.
        struct.pack_into("QIH", sregs, 0, 0, 0xFFFF, 0)
        fcntl.ioctl(self._fd, KVM_SET_SREGS, bytes(sregs))
        # Sixteen general registers, then rip and rflags.
        fcntl.ioctl(self._fd, KVM_SET_REGS, struct.pack("18Q", *[0] * 16, CODE, 2))

    def run(self):
        """Run to the next exit; returns its reason and what was written to a port."""
        fcntl.ioctl(self._fd, KVM_RUN, 0)
        reason = struct.unpack_from("I", self._run, 8)[0]
        offset = struct.unpack_from("Q", self._run, 40)[0] if reason == EXIT_IO else 0
        return reason, self._run[offset]


def main(kind, path=None):
    if kind == "answer":
        vcpu = Vcpu(mmap.mmap(-1, MEMORY), ANSWER)
        reason, said = vcpu.run()
        assert reason == EXIT_IO, f"exit {reason}"
        assert vcpu.run()[0] == EXIT_HLT
        print(said)
    else:
        with open(path, "w+b") as file:
            file.truncate(MEMORY)
            memory = mmap.mmap(file.fileno(), MEMORY)
        Vcpu(memory, COUNT).run()


main(*sys.argv[1:])
