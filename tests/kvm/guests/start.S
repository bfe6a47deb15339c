/* start.S: what a test guest does at CPL 0, which is as little as can be.
 *
 * A KVM that emulates kernel code (kvm_pvm) runs CPL 0 one instruction at a time and CPL 3 of the lower half at
 * native speed. So a CPU comes here once, loads its tables and drops to CPL 3, where all of the guest's C code
 * runs: with the same page tables, which are open to it, interrupts off. Ports are open to it twice: by IOPL, which
 * kvm_pvm does not keep, and by the TSS' bitmap, which QEMU's emulated SVM ignores once TR was saved and restored.
 *
 * Back to CPL 0 leads one gate: UD2, since `int n` and `syscall` do not exist for guests of such a KVM. The
 * operation is in rax, arguments in rdi and rsi; see enum gate in rt.h. Interrupts are taken while the gate waits:
 * they are counted and acknowledged, nothing else. Any other exception reports itself at the test port and ends the
 * guest with a triple fault. */

#define CPUS 16
#define KSTACK 1024
#define STACK 16384
#define TRAMPOLINE 0x30000
#define PORT_EXCEPTION 0x51c

/* What the bitmap opens reaches to the last port in use, the ACPI sleep registers at 0x607. */
#define IO_BITMAP (0x610 / 8)
#define TSS_SIZE 512

#define OPEN 0x27                           /* accessed, user, writable, present */
#define OPEN_PAGE 0xe7                      /* and dirty, 2 MiB */

    .code64
    .text
    .globl guest_start
guest_start:
    mov %rsi, boot_params(%rip)
    xor %ebx, %ebx

/* ebx: which CPU this is. */
cpu_start:
    lea 1(%rbx), %eax
    imul $KSTACK, %eax, %eax
    lea kstacks(%rax), %esp
    lea pml4(%rip), %rax
    mov %rax, %cr3
    mov %cr4, %rax
    or $0x600, %rax                     /* OSFXSR, OSXMMEXCPT: CPL 3 may use SSE */
    mov %rax, %cr4
    lgdt gdt_pointer(%rip)
    lidt idt_pointer(%rip)

    imul $TSS_SIZE, %ebx, %edx
    lea tss(%rdx), %edx
    mov %ebx, %ecx
    shl $4, %ecx
    lea gdt_tss(%rcx), %edi
    mov %edx, %eax
    shl $16, %eax
    or $(0x68 + IO_BITMAP), %eax        /* limit and the base's low half; the bitmap's last byte of ones included */
    mov %eax, (%rdi)
    mov %edx, %eax
    shr $16, %eax
    and $0xff, %eax
    or $0x8900, %eax                    /* present, available 64-bit TSS */
    mov %eax, 4(%rdi)
    lea 0x28(%rcx), %eax
    ltr %ax

    lea 1(%rbx), %eax
    imul $STACK, %eax, %eax
    lea stacks(%rax), %eax
    mov %ebx, %edi
    pushq $0x23
    push %rax
    pushq $0x3002                       /* IOPL 3: see above */
    pushq $0x1b
    lea cpu_main(%rip), %rax
    push %rax
    iretq

/* CPL 3, interrupts off, edi: which CPU this is. */
cpu_main:
    xor %ebp, %ebp
    call rt_main
1:  mov $3, %eax
    ud2
    jmp 1b

/* --- the gate --- */
gate:
    addq $2, (%rsp)
    cmp $5, %rax
    jae gate_is_fault
    jmp *gate_table(,%rax,8)

gate_wait:                              /* (rdi) == esi: wait for an interrupt. STI holds it back until HLT. */
    cmp %esi, (%rdi)
    jne 1f
    sti
    hlt
    cli
1:  iretq

gate_wrmsr:                             /* edi: which, rsi: value */
    push %rcx
    push %rdx
    mov %edi, %ecx
    mov %esi, %eax
    mov %rsi, %rdx
    shr $32, %rdx
    wrmsr
    pop %rdx
    pop %rcx
    iretq

gate_rdmsr:
    push %rcx
    push %rdx
    mov %edi, %ecx
    rdmsr
    shl $32, %rdx
    mov %eax, %eax
    or %rdx, %rax
    pop %rdx
    pop %rcx
    iretq

gate_stop:
    cli
    hlt
    jmp gate_stop

gate_is_fault:
    mov $6, %eax
    jmp report

gate_crash:                             /* a triple fault on purpose */
    lidt nowhere(%rip)
    ud2

/* --- interrupts and exceptions: one entry of 16 bytes each --- */
    .balign 16
    .globl vectors
vectors:
    vector = 0
    .rept 256
    .balign 16
    .if vector == 6
    jmp gate
    .elseif vector < 32
    pushq $vector
    jmp exception
    .else
    pushq $vector
    jmp interrupt
    .endif
    vector = vector + 1
    .endr

interrupt:
    push %rax
    mov 8(%rsp), %rax
    lock incl irq_count(,%rax,4)
    lock incl irq_any(%rip)
    mov $0xfee000b0, %eax
    movl $0, (%rax)                     /* EOI */
    pop %rax
    add $8, %rsp
    iretq

exception:
    mov (%rsp), %eax
report:
    mov $PORT_EXCEPTION, %dx
    out %eax, %dx
    jmp gate_crash

/* --- other CPUs: copied to TRAMPOLINE, entered there in real mode --- */
    .globl trampoline, trampoline_end
trampoline:
    .code16
    cli
    mov %cs, %ax
    mov %ax, %ds
    mov $0x20, %eax                     /* PAE */
    mov %eax, %cr4
    mov trampoline_cr3 - trampoline, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    mov $0x500, %eax                    /* LME, and LMA as soon as there is paging */
    xor %edx, %edx
    wrmsr
    lgdtl trampoline_gdt_pointer - trampoline
    mov $0x80050033, %eax
    mov %eax, %cr0
    ljmpl $8, $(TRAMPOLINE + trampoline_64 - trampoline)
    .code64
trampoline_64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %ebx
    lock xadd %ebx, cpus_started
    lea cpu_start, %eax
    jmp *%rax
    .balign 8
trampoline_cr3:
    .long pml4
trampoline_gdt_pointer:
    .word 5 * 8 - 1
    .long gdt
trampoline_end:

    .data
    .balign 8
    .globl boot_params, cpus_started
boot_params:
    .quad 0
cpus_started:
    .long 1
    .balign 8
gate_table:
    .quad gate_wait, gate_wrmsr, gate_rdmsr, gate_stop, gate_crash
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad idt
nowhere:
    .word 0
    .quad 0

    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 0x08: code, CPL 0 */
    .quad 0x00cf93000000ffff            /* 0x10: data */
    .quad 0x00affb000000ffff            /* 0x18: code, CPL 3 */
    .quad 0x00cff3000000ffff            /* 0x20: data */
gdt_tss:
    .fill CPUS * 2, 8, 0                /* 0x28: one each */
gdt_end:

    .balign 16
tss:
    cpu = 0
    .rept CPUS
    .long 0
    .quad kstacks + (cpu + 1) * KSTACK  /* rsp0 */
    .fill 0x66 - 12, 1, 0
    .word 0x68
    .fill IO_BITMAP, 1, 0
    .byte 0xff
    .fill TSS_SIZE - 0x68 - IO_BITMAP - 1, 1, 0
    cpu = cpu + 1
    .endr

/* Identity, open to CPL 3: the first GiB and the one of the devices. What lies above comes from memory_map().
 * Accessed and dirty are set, or each fork would have its own copies of these pages for the sake of the bits. */
    .balign 4096
    .globl pml4, pdpt
pml4:
    .quad pdpt + OPEN
    .fill 511, 8, 0
pdpt:
    .quad pd_low + OPEN, 0, 0, pd_devices + OPEN
    .fill 508, 8, 0
pd_low:
    page = 0
    .rept 512
    .quad page + OPEN_PAGE
    page = page + 0x200000
    .endr
pd_devices:
    page = 0xc0000000
    .rept 512
    .quad page + OPEN_PAGE
    page = page + 0x200000
    .endr

/* What every fork writes comes first and together: each page costs a fork a copy and a fault. */
    .section .bss.hot, "aw", @nobits
    .balign 4096
    .globl idt, irq_count, irq_any
irq_count:
    .skip 1024
irq_any:
    .skip 64
kstacks:
    .skip CPUS * KSTACK

    .bss
    .balign 4096
idt:
    .skip 4096
    .balign 4096
stacks:
    .skip CPUS * STACK
