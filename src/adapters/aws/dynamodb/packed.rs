//! Bodies as they are kept: packed, and unpacked within bounds.

use std::io::{Error, Read as _, Result, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// A body that grows beyond this when it is unpacked is not one that we kept.
const MAX_UNPACKED_BYTES: u64 = 16 * 1024 * 1024;

pub(super) fn pack(body: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body)?;
    encoder.finish()
}

pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let unpacked = GzDecoder::new(packed)
        .take(MAX_UNPACKED_BYTES + 1)
        .read_to_end(&mut body)?;
    if unpacked as u64 > MAX_UNPACKED_BYTES {
        return Err(Error::other("the body is larger than any that was kept"));
    }
    Ok(body)
}
