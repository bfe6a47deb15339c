/* aml.h: a writer of AML, the bytecode of ACPI's DSDT (ACPI 6.4, chapter 20): as much of it as a board needs.
 *
 * Terms are written one after the other into a buffer of the caller's. What encloses others (scopes, devices,
 * methods, packages, resource templates) is opened and closed; the length goes in when it is closed. As with
 * pack.h, what does not fit makes the whole sticky-full, and the caller asks once at the end. Nothing
 * allocates. Names are one segment of four characters, as in the tables: "_HID", "COM1". */
#ifndef FORKD_ARCH_AML_H
#define FORKD_ARCH_AML_H

#include "base/pack.h"

#include <stddef.h>
#include <stdint.h>

/* Where an open term's length goes. */
typedef size_t aml_mark;

aml_mark aml_scope_open(struct pack *p, const char *name); /* below the root */
aml_mark aml_device_open(struct pack *p, const char *name);
aml_mark aml_method_open(struct pack *p, const char *name, unsigned args);
aml_mark aml_if_arg0_equals_open(struct pack *p, uint64_t value);
aml_mark aml_package_open(struct pack *p, uint8_t elements);
void aml_close(struct pack *p, aml_mark mark);

/* Name (NAME, ...): the object follows. */
void aml_name(struct pack *p, const char *name);
void aml_integer(struct pack *p, uint64_t value);
void aml_string(struct pack *p, const char *text);
/* A compressed id: three capitals and four hexadecimal digits, "PNP0501". */
void aml_eisa_id(struct pack *p, const char *id);
/* Notify (NAME, value), of an object below \_SB. */
void aml_notify(struct pack *p, const char *name, uint8_t value);

/* Name (_CRS, ResourceTemplate () {...}): open, the descriptors (ACPI 6.4, 6.4), close. */
struct aml_resources {
    aml_mark package, size;
};
struct aml_resources aml_resources_open(struct pack *p);
void aml_resource_memory(struct pack *p, uint32_t base, uint32_t size);
void aml_resource_io(struct pack *p, uint16_t base, uint8_t ports);
/* Edge-triggered, active high, exclusive. */
void aml_resource_interrupt(struct pack *p, uint32_t gsi);
void aml_resources_close(struct pack *p, struct aml_resources resources);

#endif
