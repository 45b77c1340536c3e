//! How much of a list one call answers with.

use tonic::Status;

use super::status;

/// Reads a page size: 0 stands for `default`, and more than `most` for `most`.
///
/// # Errors
/// A negative size.
pub(super) fn size(page_size: i32, default: usize, most: usize) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(most)),
        Err(_) => Err(status::bad_field("pageSize", "a page cannot have a negative size")),
    }
}
