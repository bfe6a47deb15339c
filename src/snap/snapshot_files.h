/* snapshot_files.h: the files of a snapshot's directory, for whoever writes them (save.h) and reads them (chain.h).
 *
 *   snapshot.json   what it is, and the checksums of the other files (proto/snapshot_meta.h); written last
 *   vmstate         the state file (snap/state_file.h) without its disk section: where blocks are, the maps say
 *   memory.bin      RAM page n at n * 4096, sparse        memory.map   which pages those are (snap/block_map.h)
 *   disk0.layer     disk block n at n * 4096, sparse      disk0.map    likewise; only where there is a disk */
#ifndef FORKD_SNAP_SNAPSHOT_FILES_H
#define FORKD_SNAP_SNAPSHOT_FILES_H

/* In the order in which they are written. */
enum snapshot_file {
    FILE_MEMORY,
    FILE_MEMORY_MAP,
    FILE_LAYER,
    FILE_LAYER_MAP,
    FILE_VMSTATE,
    FILE_META,
    SNAPSHOT_FILES
};

/* Its name in the directory. */
const char *snapshot_file_name(enum snapshot_file file);

#endif
