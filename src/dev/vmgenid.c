/* vmgenid.c: see vmgenid.h.
 *
 * SECCOMP: getrandom - the generation ID of a fork */
#include "dev/vmgenid.h"

#include <errno.h>
#include <sys/random.h>

void vmgenid_init(struct vmgenid *genid, uint64_t gpa)
{
    *genid = (struct vmgenid){.gpa = gpa};
}

int vmgenid_write(struct vmgenid *genid, struct gmem *gmem, struct err *err)
{
    uint8_t bytes[VMGENID_BYTES];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) /* up to 256 bytes come whole, random(4) */
        return err_set(err, errno, "getrandom for the VM generation ID");
    if (!gmem_write(gmem, genid->gpa, bytes, sizeof bytes))
        return err_say(err, EINVAL, "the VM generation ID at %#llx is not in guest memory",
                       (unsigned long long)genid->gpa);
    return 0;
}

int vmgenid_renew(struct vmgenid *genid, struct gmem *gmem, struct err *err)
{
    int rc = vmgenid_write(genid, gmem, err);
    if (rc == 0 && genid->raise)
        genid->raise(genid);
    return rc;
}
