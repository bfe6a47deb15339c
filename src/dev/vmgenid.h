/* vmgenid.h: the VM generation ID: 16 random bytes in guest memory that differ in every life of a VM.
 *
 * Theory of operation. ACPI tells the guest where they are (a device with _CID "VM_Gen_Counter" whose ADDR
 * package holds the address, 8-byte aligned, in a page the firmware reserved). A fork writes new ones and makes
 * an edge on the line of the generic event device, whose method notifies the driver; Linux reseeds its random
 * number generator then. The bytes are guest memory and the address is the board's, so there is no state.
 *
 * Threads: the caller holds the machine's device lock. */
#ifndef FORKD_DEV_VMGENID_H
#define FORKD_DEV_VMGENID_H

#include "mem/gmem.h"

enum { VMGENID_BYTES = 16 };

struct vmgenid {
    uint64_t gpa;                         /* of the bytes, 8-byte aligned; the rest of their page is unused */
    void (*raise)(struct vmgenid *genid); /* makes an edge on the event device's line */
    void *owner;                          /* the machine's, for raise */
};

/* raise and owner are set by the machine after. */
void vmgenid_init(struct vmgenid *genid, uint64_t gpa);

/* Fresh bytes without a notification: the guest has not booted yet. */
int vmgenid_write(struct vmgenid *genid, struct gmem *gmem, struct err *err);
/* Fresh bytes, and the guest is told. */
int vmgenid_renew(struct vmgenid *genid, struct gmem *gmem, struct err *err);

#endif
