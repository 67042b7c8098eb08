//! Feeds the property that `FUZZ_TARGET` names the files it is given. Under `cargo xtask fuzz TARGET`
//! it is libFuzzer that feeds it.
#![cfg_attr(fuzzing, no_main)]

use std::sync::LazyLock;

use fuzz::{PROPERTIES, Property};

static PROPERTY: LazyLock<Property> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET must name a target");
    let found = PROPERTIES.iter().find(|(name, _)| *name == wanted);
    found
        .unwrap_or_else(|| panic!("no target is called {wanted}"))
        .1
});

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| PROPERTY(data));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        PROPERTY(&std::fs::read(path)?);
    }
    Ok(())
}
