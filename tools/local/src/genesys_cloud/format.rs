//! Texts as Genesys Cloud writes them.

use jiff::Timestamp;
use uuid::Uuid;

/// Time as Genesys Cloud writes it.
pub(super) fn iso(time: Timestamp) -> String {
    format!("{time:.3}")
}

pub(super) fn new_id() -> String {
    Uuid::new_v4().to_string()
}
