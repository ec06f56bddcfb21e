//! All checks, in the order in which they run.

use super::{Check, Depth, condition, large, list, look, metadata, name, read, tree, write};

/// The check that tells whether any write can work.
pub(super) const FIRST_WRITE: &str = "small-writes";

const REPORT: &str = "report it with the kind and version of the store";
const ORDER: &str = "set `quirks: {ordered_list: false}` for this mount";
const CONDITION: &str =
    "set `quirks: {conditional_write: false}` for this mount: such writes are then refused";

/// A check; the body of the suite is this table.
macro_rules! checks {
    ($($depth:ident $name:literal $run:path, $promise:literal, $fix:expr;)*) => {
        pub(super) const CHECKS: &[Check] = &[$(Check {
            name: $name,
            promise: $promise,
            depth: Depth::$depth,
            fix: $fix,
            run: |site| Box::pin($run(site)),
        }),*];
    };
}

checks! {
    Look "present-order" look::order, "the names that are there are listed in order", ORDER;
    Look "present-agreement" look::agreement, "a file that is there is listed as it is looked up", REPORT;
    Look "present-reads" look::reads, "parts of a file that is there can be read", REPORT;
    Write "small-writes" write::small, "small files are stored as written", REPORT;
    Write "empty-files" write::empty, "empty files are stored", REPORT;
    Write "chunked-writes" write::chunked, "files of 17 MiB are stored as written", REPORT;
    Write "replacement" write::replaced, "a new content replaces the old whole", REPORT;
    Write "change-in-place" write::changed, "files can be appended to", REPORT;
    Write "agreement" write::agreement, "size and ETag agree in the write, a lookup and the listing", REPORT;
    Write "create-only" condition::create_small, "If-None-Match: * is checked", CONDITION;
    Write "create-only-chunked" condition::create_chunked, "If-None-Match: * is checked for 17 MiB", CONDITION;
    Write "replace-if" condition::replace_small, "If-Match is checked", CONDITION;
    Write "replace-if-chunked" condition::replace_chunked, "If-Match is checked for 17 MiB", CONDITION;
    Write "race-create" condition::race_create, "of 16 who create one name at once, one wins", CONDITION;
    Write "race-replace" condition::race_replace, "of 16 who replace one content at once, one wins", CONDITION;
    Write "ranges" read::ranges, "any range of a file can be read", REPORT;
    Write "replaced-while-open" read::replaced, "an open file that is replaced never mixes contents", REPORT;
    Write "removed-while-open" read::removed, "an open file that is removed never shows others' bytes", REPORT;
    Write "order" list::order, "listings are complete and in byte order in pages of any size", ORDER;
    Write "start-after" list::start_after, "listings can start after any name", ORDER;
    Write "many-names" list::many, "long listings are complete", ORDER;
    Write "one-name" list::one_name, "a file and a directory may have one name", REPORT;
    Write "directories" list::directories, "empty directories are kept", REPORT;
    Write "copy" tree::copies, "the store copies files by itself", REPORT;
    Write "copy-with-headers" tree::copies_with_headers, "the store copies files and replaces their headers", REPORT;
    Write "rename" tree::renames, "files are renamed atomically", REPORT;
    Write "rename-tree" tree::renames_trees, "directories are renamed atomically", REPORT;
    Write "delete" tree::deletes, "files are removed", REPORT;
    Write "delete-many" tree::deletes_many, "trees are removed", REPORT;
    Write "headers" metadata::headers_are_kept, "S3 headers are kept", REPORT;
    Write "user-metadata" metadata::user_metadata_is_kept, "S3 user metadata is kept, beyond ASCII too", REPORT;
    Write "posix" metadata::attributes_are_kept, "mode, owner, xattrs and symbolic links are kept", REPORT;
    Write "names" name::exact, "names are kept byte for byte", REPORT;
    Write "long-names" name::long, "long names are kept", REPORT;
    Large "five-gib" large::five_gib, "files of more than 5 GiB are stored", REPORT;
}
