/* snapshot_files.c: see snapshot_files.h. */
#include "snap/snapshot_files.h"

static const char *const file_names[] = {
    [FILE_MEMORY] = "memory.bin",   [FILE_MEMORY_MAP] = "memory.map", [FILE_LAYER] = "disk0.layer",
    [FILE_LAYER_MAP] = "disk0.map", [FILE_VMSTATE] = "vmstate",       [FILE_META] = "snapshot.json"};
_Static_assert(sizeof file_names / sizeof *file_names == SNAPSHOT_FILES, "every file has a name");

const char *snapshot_file_name(enum snapshot_file file)
{
    return file_names[file];
}
